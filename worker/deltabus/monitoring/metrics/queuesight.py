"""What waits in queues, asked of Redis at the moment in which somebody wants to know."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis
from redis.client import Pipeline
from rq.job import Job
from rq.registry import (
    BaseRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)

from deltabus import rqdate
from deltabus.queues import BusQueue

#: RQ's registries by the state of the jobs in them.
REGISTRIES: Final[Mapping[str, type[BaseRegistry]]] = {
    "started": StartedJobRegistry,
    "scheduled": ScheduledJobRegistry,
    "deferred": DeferredJobRegistry,
    "failed": FailedJobRegistry,
}


@dataclass(frozen=True, slots=True)
class Sight:
    """One queue."""

    queue: str
    depth: int
    #: Seconds since the job was enqueued that is taken next; 0 where there is none.
    oldest: float
    #: Jobs in RQ's registries.
    jobs: dict[str, int]


def look(redis: Redis, queues: Sequence[str]) -> list[Sight]:
    """Look at these queues, in two pipelines.

    Raises:
        RedisError, OSError: Redis does not answer.
    """
    pipeline = redis.pipeline(transaction=False)
    for queue in queues:
        key = key_of(queue)
        pipeline.llen(key)
        pipeline.lindex(key, 0)
        for registry in REGISTRIES.values():
            pipeline.zcard(registry.key_template.format(queue))
    found = _run(pipeline)
    each = len(REGISTRIES) + 2
    rows = [found[at : at + each] for at in range(0, len(found), each)]
    heads = [row[1] for row in rows]
    pipeline = redis.pipeline(transaction=False)
    for head in heads:
        if isinstance(head, bytes):
            pipeline.hget(Job.key_for(head.decode(errors="replace")), "enqueued_at")
    dates = iter(_run(pipeline))
    now = time.time()
    sights = []
    for queue, row in zip(queues, rows, strict=True):
        enqueued = rqdate.unix(next(dates)) if isinstance(row[1], bytes) else 0.0
        # It may be by another clock than ours.
        oldest = max(0.0, now - enqueued) if enqueued else 0.0
        jobs = {state: _count(found) for state, found in zip(REGISTRIES, row[2:], strict=True)}
        sights.append(Sight(queue, _count(row[0]), oldest, jobs))
    return sights


def waiting(redis: Redis, queues: Sequence[str]) -> list[str]:
    """Those of these queues that have jobs.

    Raises:
        RedisError, OSError: Redis does not answer.
    """
    pipeline = redis.pipeline(transaction=False)
    for queue in queues:
        pipeline.llen(key_of(queue))
    found = _run(pipeline)
    return [queue for queue, depth in zip(queues, found, strict=True) if _count(depth)]


def key_of(queue: str) -> str:
    """RQ's key of a queue."""
    return f"{BusQueue.redis_queue_namespace_prefix}{queue}"


def _run(pipeline: Pipeline) -> list[Any]:
    """The replies. A key of the wrong type, which the worker's log tells of, has no number here."""
    replies: list[Any] = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and "WRONGTYPE" not in str(reply):
            raise reply
    return replies


def _count(reply: Any) -> int:
    return reply if isinstance(reply, int) else 0
