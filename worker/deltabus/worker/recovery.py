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

import math
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import ReadyJobRegistry, ScheduledJobRegistry
from rq.utils import utcformat
from rq.worker_registration import REDIS_WORKER_KEYS

from deltabus import events, keys, telemetry
from deltabus.events import Cancelled
from deltabus.scripts import DELETED, PUT_BACK, REAP, RELEASE

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
        self._put_back = redis.register_script(PUT_BACK.source)
        self._deleted = redis.register_script(DELETED.source)
        #: Since when this worker has held its lease without a break, by its monotonic clock.
        self._held_since = time.monotonic()
        self._executions_key = WORKER_EXECUTIONS_KEY_TEMPLATE.format(worker)
        #: When to look next for what this worker is said to run, and what of it was strange the last time.
        self._look_at = 0.0
        self._strange: set[bytes] = set()
        #: When this worker first saw ids that are in intermediate lists, by its monotonic clock.
        self._seen: dict[tuple[str, bytes], float] = {}
        #: Those of them that were seen twice.
        self._stuck: set[tuple[str, bytes]] = set()
        #: Queues that had jobs at the last look: whoever waits at one should have been given them.
        self.waiting: set[str] = set()
        #: Queues that have a key of the wrong type, which was said.
        self._broken: set[str] = set()

    async def patrol(self, running: Collection[str], *, born: bool = False) -> float:
        """Renew the lease, and requeue what belongs to nobody.

        Args:
            running: the jobs that this worker runs, or is about to.
            born: the first time, before any job is taken: an earlier worker of the same name is dead.

        Returns:
            seconds until there is something to do that is known by now, besides renewing; infinite where nothing is.
        """
        more, waits = True, [math.inf]
        self.waiting.clear()
        while more:
            lease, *looks = await self._look_round(await self._unclaimed(running), born=born)
            *reaped, deleted = _checked(lease)
            more, *waits = self._report_the_dead(reaped)
            for task in deleted:
                await self._end_deleted(task.decode(errors="replace"))
            for (name, key), stuck, released in zip(self._queues.items(), looks[::2], looks[1::2], strict=True):
                try:
                    waits.append(await self._put_back_the_stuck(name, key, _checked(stuck)))
                    waits.append(self._report_the_due(name, _checked(released)))
                except ResponseError as exc:
                    if "WRONGTYPE" not in str(exc):
                        raise
                    if name not in self._broken:
                        log.error(  # noqa: TRY400 # no traceback
                            "a key of a queue is of another type than RQ's; what was scheduled, or taken and never "
                            "started, waits until somebody deletes or renames it",
                            queue=name,
                            keys=[key, _intermediate(key), _scheduled(name), _ready(name)],
                        )
                    self._broken.add(name)
                else:
                    self._broken.discard(name)
        return min(waits)

    async def _look_round(self, unclaimed: Sequence[bytes], *, born: bool) -> list[Any]:
        """Ask for all there is to see, at once: an idle worker does little else, and a round trip costs it 400 us."""
        # After an outage, or a failover, all leases have run out: the others need time to come back.
        settled = time.monotonic() - self._held_since > self._lease
        now = utcformat(datetime.now(UTC))
        pipeline = self._redis.pipeline(transaction=False)
        lease = (self._worker, self._lease, RQ_KEY_PREFIX, BATCH, int(born), int(settled))
        pipeline.evalsha(REAP.sha.decode(), 2, keys.workers(RQ_KEY_PREFIX), REDIS_WORKER_KEYS, *lease, *unclaimed)
        for name, key in self._queues.items():
            pipeline.lrange(_intermediate(key), 0, BATCH - 1)
            release = (_scheduled(name), key, _ready(name), Job.key_for(""), now, BATCH)
            pipeline.evalsha(RELEASE.sha.decode(), 3, *release)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            for script in (REAP, RELEASE):
                await self._redis.script_load(script.source)
            return await self._look_round(unclaimed, born=born)
        return replies

    def _report_the_dead(self, reply: Sequence[Any]) -> tuple[bool, float]:
        """Whether there are more of them, and seconds until the next lease runs out."""
        good, requeued, buried, more, wait = reply
        if not good:
            self._held_since = time.monotonic()
        if requeued:
            telemetry.observer().recovered(len(requeued), "worker_lost")
            log.warning("requeued jobs that nobody was running any more", jobs=len(requeued))
        for name in buried:
            log.warning(
                "a worker's lease ran out: it died, froze or lost Redis, and others take its tasks",
                lost=name.decode(errors="replace"),
            )
        return bool(more), _seconds(wait)

    async def _end_deleted(self, task: str) -> None:
        """End the log of a task whose job is gone. A step of its own, as the log may be on another node.

        Should this worker die before it, its reconciler, or another's, does it.
        """
        if keys.TASK_ID.fullmatch(task):
            event = Cancelled(task=task, id=keys.SEAL, at=time.time(), reason="the job was deleted")
            await self._deleted(
                keys=[keys.log(task), keys.cancel(task)],
                args=[events.encode(event), keys.events(task), self._result_ttl],
            )

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

    def _report_the_due(self, name: str, reply: Sequence[Any]) -> float:
        """What waits for nothing any more is enqueued: neither RQ's scheduler nor its maintenance need run for that.

        Returns:
            seconds until the next is due.
        """
        released, wait, waiting = reply
        if waiting:
            self.waiting.add(name)
        if released:
            log.debug("released jobs that waited", queue=name, jobs=released)
        return _seconds(wait)

    async def _put_back_the_stuck(self, name: str, queue_key: str, ids: Sequence[bytes]) -> float:
        """Seconds until the next of these, which are in the intermediate list, has been there for too long."""
        now = time.monotonic()
        here = {(queue_key, job_id) for job_id in ids}
        for gone in [entry for entry in self._seen if entry[0] == queue_key and entry not in here]:
            del self._seen[gone]
            self._stuck.discard(gone)
        if twice := here & self._seen.keys() - self._stuck:
            self._stuck |= twice
            self.waiting.add(name)  # perhaps given to us, and lost on the way
        wait = math.inf
        for entry in here:
            left = self._seen.setdefault(entry, now) + self._lease - now
            if left > 0:
                wait = min(wait, left)
                continue
            job_id = entry[1].decode(errors="replace")
            first_seen = IntermediateQueue(queue_key, self._redis).get_first_seen_key(job_id)  # type: ignore[arg-type]
            if await self._put_back(keys=[_intermediate(queue_key), queue_key, first_seen], args=[job_id]):
                telemetry.observer().recovered(1, "never_started")
                log.warning("requeued a job that was taken and never started", task=job_id)
        return wait


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _seconds(wait: bytes) -> float:
    """How long there is nothing to do, by a script's answer. What it has left undone, it does the next time."""
    seconds = float(wait or math.inf)
    return seconds if seconds > 0 else math.inf


def _intermediate(queue_key: str) -> str:
    return str(IntermediateQueue.get_intermediate_queue_key(queue_key))


def _scheduled(queue: str) -> str:
    """RQ's key of the queue's scheduled jobs."""
    return ScheduledJobRegistry.key_template.format(queue)


def _ready(queue: str) -> str:
    """RQ's key of the queue's jobs whose dependencies are met."""
    return ReadyJobRegistry.key_template.format(queue)
