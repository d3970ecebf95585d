"""Finds work whose worker is gone, and puts it back to the front of its queue.

Every worker holds one lease, however many jobs it runs, and looks for leases that have run out. RQ's own
index says what a dead worker was running, and what a live one is said to run but does not: after a failover,
Redis may have forgotten how that ended. What had been taken but not started is in an intermediate list;
what stays there for longer than a lease belongs to nobody. All steps are atomic and safe to be done by many.

A requeued job begins its next attempt on the log; should the first worker turn out to be alive, its appends
are refused from then on, and its bookkeeping already now. A job that was settled on the log before its worker
died is not run again: the next worker only books what the seal says.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import ReadyJobRegistry, ScheduledJobRegistry
from rq.utils import utcformat
from rq.worker_registration import REDIS_WORKER_KEYS

from deltabus import keys, telemetry
from deltabus.scripts import PUT_BACK, REAP, RELEASE

log = structlog.get_logger("deltabus.recovery")

#: Jobs that one script call requeues at the most: it blocks Redis for some 20 us a job.
BATCH: Final = 100


class Recovery:
    """One worker's part in it.

    Args:
        queues: names and RQ's keys of the queues that are looked after.
        lease: seconds after which a worker that has not been heard of is taken for dead.
        result_ttl: seconds that the log of a deleted job lives after its end.
    """

    def __init__(self, redis: Redis, worker: str, queues: Mapping[str, str], *, lease: float, result_ttl: int) -> None:
        self._redis = redis
        self._worker = worker
        self._queues = queues
        self._lease = lease
        self._result_ttl = result_ttl
        self._reap = redis.register_script(REAP.source)
        self._release = redis.register_script(RELEASE.source)
        self._put_back = redis.register_script(PUT_BACK.source)
        #: Since when this worker has held its lease without a break, by its monotonic clock.
        self._held_since = time.monotonic()
        self._executions_key = WORKER_EXECUTIONS_KEY_TEMPLATE.format(worker)
        #: When to look next for what this worker is said to run, and what of it was strange the last time.
        self._look_at = 0.0
        self._strange: set[bytes] = set()
        #: When this worker first saw ids that are in intermediate lists, by its monotonic clock.
        self._seen: dict[tuple[str, bytes], float] = {}
        #: Queues that have a key of the wrong type, which was said.
        self._broken: set[str] = set()

    async def patrol(self, running: Collection[str], *, born: bool = False) -> None:
        """Renew the lease, and requeue what belongs to nobody.

        Args:
            running: the jobs that this worker runs, or is about to.
            born: the first time, before any job is taken: an earlier worker of the same name is dead.
        """
        while await self._reap_the_dead(running, born=born):
            pass
        for name, key in self._queues.items():
            try:
                await self._put_back_the_stuck(key)
                await self._release_the_due(name, key)
            except ResponseError as exc:
                if "WRONGTYPE" not in str(exc):
                    raise
                if name not in self._broken:
                    log.error(  # noqa: TRY400 # no traceback
                        "a key of a queue is of another type than RQ's; what was scheduled, or taken and never "
                        "started, waits until somebody deletes or renames it",
                        queue=name,
                        keys=[key, IntermediateQueue.get_intermediate_queue_key(key), _scheduled(name), _ready(name)],
                    )
                self._broken.add(name)
            else:
                self._broken.discard(name)

    async def _reap_the_dead(self, running: Collection[str], *, born: bool) -> bool:
        # After an outage, or a failover, all leases have run out: the others need time to come back.
        settled = time.monotonic() - self._held_since > self._lease
        good, requeued, buried, more = await self._reap(
            keys=[keys.WORKERS, REDIS_WORKER_KEYS],
            args=[
                *(self._worker, self._lease, RQ_KEY_PREFIX, BATCH, int(born), int(settled), self._result_ttl),
                *await self._unclaimed(running),
            ],
        )
        if not good:
            self._held_since = time.monotonic()
        if requeued:
            telemetry.observer().recovered(len(requeued), "worker_lost")
            log.warning("requeued jobs that nobody was running any more", jobs=len(requeued))
        for name in buried:
            log.warning("a worker's lease ran out", lost=name.decode(errors="replace"))
        return bool(more)

    async def _unclaimed(self, running: Collection[str]) -> list[bytes]:
        """What Redis says this worker runs, at two looks a lease apart, and it does not."""
        now = time.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + self._lease / 2
        listed: set[bytes] = await self._redis.smembers(self._executions_key)  # type: ignore[assignment] # no decoding
        strange = {member for member in listed if member.rpartition(b":")[0].decode(errors="replace") not in running}
        twice, self._strange = strange & self._strange, strange - self._strange
        return list(twice)[:BATCH]

    async def _release_the_due(self, name: str, queue_key: str) -> None:
        """Enqueue what waits for nothing any more: neither RQ's scheduler nor its maintenance need run for that."""
        args: list[str | int] = [Job.key_for(""), utcformat(datetime.now(UTC)), BATCH]
        if released := await self._release(keys=[_scheduled(name), queue_key, _ready(name)], args=args):
            log.debug("released jobs that waited", queue=name, jobs=released)

    async def _put_back_the_stuck(self, queue_key: str) -> None:
        intermediate = IntermediateQueue.get_intermediate_queue_key(queue_key)
        now = time.monotonic()
        ids: list[bytes] = await self._redis.lrange(intermediate, 0, BATCH - 1)  # type: ignore[assignment] # no decoding
        here = {(queue_key, job_id) for job_id in ids}
        for gone in [entry for entry in self._seen if entry[0] == queue_key and entry not in here]:
            del self._seen[gone]
        for entry in here:
            if now - self._seen.setdefault(entry, now) < self._lease:
                continue
            job_id = entry[1].decode(errors="replace")
            first_seen = IntermediateQueue(queue_key, self._redis).get_first_seen_key(job_id)  # type: ignore[arg-type]
            if await self._put_back(keys=[intermediate, queue_key, first_seen], args=[job_id]):
                telemetry.observer().recovered(1, "never_started")
                log.warning("requeued a job that was taken and never started", task=job_id)


def _scheduled(queue: str) -> str:
    """RQ's key of the queue's scheduled jobs."""
    return ScheduledJobRegistry.key_template.format(queue)


def _ready(queue: str) -> str:
    """RQ's key of the queue's jobs whose dependencies are met."""
    return ReadyJobRegistry.key_template.format(queue)
