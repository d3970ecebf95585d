"""Finds tasks of which RQ's records and the log disagree, or that RQ has lost sight of, and sets them right.

Deaths of our own workers are `recovery`'s business, which has an index of what they ran. What is found here,
nobody has an index of: what RQ's own workers, its maintenance and its users do without a word, and what Redis
itself forgets when a replica takes over. So all jobs are looked at, by one worker at a time and at a gentle pace.

| RQ says          | and in truth                                    | then                                       |
| ---------------- | ----------------------------------------------- | ------------------------------------------ |
| queued           | it is in no list: its worker died with it       | it is put to the front of its queue        |
| started          | no living worker has it                         | the same, and it counts as lost            |
| failed, stopped  | its log has no end: its work-horse was killed   | the log is sealed with what RQ says        |
| canceled         | its log has no end: RQ tells nobody             | the log is sealed as cancelled             |
| nothing          | its log has no end: deleted, its worker dead    | the log is sealed as cancelled             |

What looks wrong once may be on its way: it must look so twice, a lease apart. What is done then is atomic.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import WatchError
from rq.defaults import RQ_KEY_PREFIX
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.utils import utcformat, utcparse
from rq.worker_registration import REDIS_WORKER_KEYS

from deltabus import keys, telemetry
from deltabus.attempt import RUNNING_TTL
from deltabus.commit import GroupCommit
from deltabus.errors import BusError, CancelRequested, Fenced, Internal, Sealed, TaskNotFound, UnknownTask
from deltabus.events import Cancelled, Completed, Terminal
from deltabus.jobs import NOTES, OPEN_FIELD, BusJob
from deltabus.log import Log
from deltabus.outage import Outage
from deltabus.records import Record, Records, RQKeys
from deltabus.scripts import ADOPT, LOOK

log = structlog.get_logger("deltabus.reconciler")

#: Leases between two rounds.
ROUND_LEASES: Final = 3

#: Keys that one `SCAN` goes over, give or take; it blocks Redis for some 200 us.
BATCH: Final = 1000

#: Seconds of rest for each second of looking: 1 % of a core, here and of Redis, however many jobs there are.
REST: Final = 99

#: Ids in lists that are held in memory for a round, some 100 bytes each. Behind a longer backlog, nobody looks for
#: jobs that are in no list before it has shrunk.
LONGEST_BACKLOG: Final = 100_000

#: Statuses that RQ gives to jobs by itself, too; that of one which has finished follows the log.
_ENDED: Final = frozenset({JobStatus.FAILED.value, JobStatus.STOPPED.value, JobStatus.CANCELED.value})

_DELETED: Final = "deleted"

_FIELDS: Final = ("status", "origin", "ended_at", "result_ttl", OPEN_FIELD)


class _Glimpse(NamedTuple):
    """What a look at a job's hash shows."""

    task: str
    status: str
    queue: str
    #: Unix time in seconds; None: RQ did not say.
    ended_at: float | None
    #: Seconds that the log outlives its seal, if the job says so.
    result_ttl: int | None
    #: A worker of ours started it, and did not book its end.
    is_open: bool


class Reconciler:
    """One worker's part in it.

    Args:
        event_log: seals what was left open.
        queues: names and RQ's keys of the queues that are looked after.
        lease: seconds after which a worker that has not been heard of is taken for dead.
        result_ttl: seconds that a log outlives its seal, where the job does not say so.
        scattered: logs are not where RQ's records are, and either may be lost in a failover that the other survives.
        outage: see `GroupCommit`.
    """

    def __init__(
        self,
        redis: Redis,
        event_log: Log,
        worker: str,
        queues: Mapping[str, str],
        *,
        lease: float,
        result_ttl: int,
        scattered: bool = False,
        outage: Outage | None = None,
    ) -> None:
        self._redis = redis
        self._log = event_log
        self._worker = worker
        self._queues = queues
        self._lease = lease
        self._result_ttl = result_ttl
        self._ended = _ENDED | {JobStatus.FINISHED.value} if scattered else _ENDED
        #: Seconds for which the turn is kept without a sign of life.
        self._turn = int(2 * ROUND_LEASES * lease) + 1
        self._commit = GroupCommit(redis, [], outage=outage, reply_timeout=lease)
        self._records = Records(self._commit, RQKeys(RQ_KEY_PREFIX))
        self._adopt = redis.register_script(ADOPT.source)
        self._look = redis.register_script(LOOK.source)
        #: What looked wrong, and since when, by the monotonic clock.
        self._suspects: dict[tuple[str, str], float] = {}
        #: When the round before began, as Unix time in seconds.
        self._last_round = 0.0

    @property
    def interval(self) -> float:
        """Seconds until the next round."""
        return self._lease if self._suspects else ROUND_LEASES * self._lease

    async def go_round(self) -> bool:
        """Look at all jobs, unless that is another worker's turn; whether it was ours."""
        if not await self._has_turn():
            return False
        began = time.time()
        waiting, running = await self._waiting(), await self._running()
        suspects: dict[tuple[str, str], float] = {}
        async for job_keys in self._batches(f"{Job.redis_job_namespace_prefix}*", "hash"):
            jobs = await self._read(job_keys)
            lost = [job for job in jobs if _is_lost(job, waiting, running)]
            for job in lost + await self._unsettled(jobs):
                suspicion = (job.task, job.status)
                since = suspects[suspicion] = self._suspects.get(suspicion, time.monotonic())
                if suspicion in self._suspects and time.monotonic() - since >= self._lease:
                    await self._set_right(job)
        async for logs in self._batches(keys.log("*"), "stream"):
            for task in await self._deleted(logs):
                since = suspects[task, _DELETED] = self._suspects.get((task, _DELETED), time.monotonic())
                if (task, _DELETED) in self._suspects and time.monotonic() - since >= self._lease:
                    await self._end_deleted(task)
        self._suspects = suspects
        self._last_round = began - self._lease  # clocks differ
        return True

    async def leave(self) -> None:
        """Give up the turn: others need not wait for it to run out."""
        if await self._redis.get(keys.reconciler(RQ_KEY_PREFIX)) == self._worker.encode():
            await self._redis.delete(keys.reconciler(RQ_KEY_PREFIX))

    async def aclose(self) -> None:
        """Close what it has of its own. A round that was broken off needs no answer."""
        await self._commit.aclose(0.0)

    async def _has_turn(self) -> bool:
        """Take or keep the turn; it is kept for as long as it is used, so that there are two looks."""
        ttl = self._turn
        if await self._redis.set(keys.reconciler(RQ_KEY_PREFIX), self._worker, nx=True, ex=ttl):
            return True
        if await self._redis.get(keys.reconciler(RQ_KEY_PREFIX)) != self._worker.encode():
            self._suspects.clear()
            return False
        return bool(await self._redis.expire(keys.reconciler(RQ_KEY_PREFIX), ttl))

    async def _batches(self, pattern: str, kind: str) -> AsyncIterator[Sequence[str]]:
        """All keys like that, with a rest after each batch that is in proportion to it."""
        cursor = 0
        while True:
            start = time.monotonic()
            found: list[bytes]
            cursor, found = await self._redis.scan(  # type: ignore[assignment] # no decoding
                cursor, pattern, BATCH, _type=kind
            )
            yield [key.decode(errors="replace") for key in found]
            if cursor == 0:
                return
            await asyncio.sleep(REST * (time.monotonic() - start))
            await self._redis.expire(keys.reconciler(RQ_KEY_PREFIX), self._turn)

    async def _read(self, job_keys: Sequence[str]) -> list[_Glimpse]:
        pipeline = self._redis.pipeline(transaction=False)
        for key in job_keys:
            pipeline.hmget(key, _FIELDS)
        hashes = await pipeline.execute(raise_on_error=False) if job_keys else []
        prefix = len(Job.redis_job_namespace_prefix)
        glimpses = [
            _glimpse(key[prefix:], fields)
            for key, fields in zip(job_keys, hashes, strict=True)
            if isinstance(fields, list) and keys.TASK_ID.fullmatch(key[prefix:])
        ]
        return [job for job in glimpses if job.queue in self._queues]

    async def _waiting(self) -> set[str] | None:
        """Ids in queues and intermediate lists; None: they are too many."""
        waiting: set[str] = set()
        for queue_key in self._queues.values():
            for key in (queue_key, IntermediateQueue.get_intermediate_queue_key(queue_key)):
                start = 0
                while ids := await self._redis.lrange(key, start, start + BATCH - 1):
                    waiting.update(str(job_id, errors="replace") for job_id in ids)  # type: ignore[arg-type]
                    if len(waiting) > LONGEST_BACKLOG:
                        return None
                    start += BATCH
        return waiting

    async def _running(self) -> set[str]:
        """Ids of the jobs that living workers run, by what they have in RQ's index."""
        registered: set[bytes] = await self._redis.smembers(REDIS_WORKER_KEYS)  # type: ignore[assignment] # no decoding
        leased: list[bytes] = await self._redis.zrange(keys.workers(RQ_KEY_PREFIX), 0, -1)  # type: ignore[assignment] # no decoding
        names = {key.decode().rpartition(":worker:")[2] for key in registered} | {name.decode() for name in leased}
        running: set[str] = set()
        for name in names:
            async for member in self._redis.sscan_iter(f"{RQ_KEY_PREFIX}:worker:{name}:executions", count=BATCH):
                running.add(member.decode(errors="replace").rpartition(":")[0])
        return running

    async def _unsettled(self, jobs: Sequence[_Glimpse]) -> list[_Glimpse]:
        """Those that RQ has ended, and their logs have not."""
        doubtful = [job for job in jobs if job.status in self._ended and not self._was_looked_at(job)]
        # A pipeline with scripts keeps its connection where it is cancelled while it loads them.
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job in doubtful:
                await self._look(keys=[keys.log(job.task)], client=pipeline)
            states = await pipeline.execute() if doubtful else []
        return [
            job
            for job, state in zip(doubtful, states, strict=True)
            if state == b"open" or (state == b"none" and self._never_logged(job))
        ]

    def _was_looked_at(self, job: _Glimpse) -> bool:
        before = job.ended_at is not None and job.ended_at < self._last_round
        return before and (job.task, job.status) not in self._suspects

    def _never_logged(self, job: _Glimpse) -> bool:
        """Whether a log that is not there never was: a sealed one would not have expired yet."""
        if job.ended_at is None:
            return job.status == JobStatus.CANCELED
        ttl = self._result_ttl if job.result_ttl is None else job.result_ttl
        return ttl < 0 or time.time() - job.ended_at < ttl / 2

    async def _set_right(self, job: _Glimpse) -> None:
        if job.status in self._ended:
            await self._settle(job)
            return
        queue_key = self._queues[job.queue]
        names = [
            Job.key_for(job.task),
            queue_key,
            IntermediateQueue.get_intermediate_queue_key(queue_key),
            f"{RQ_KEY_PREFIX}:executions:{job.task}",
            f"{RQ_KEY_PREFIX}:wip:{job.queue}",
            REDIS_WORKER_KEYS,
            keys.workers(RQ_KEY_PREFIX),
        ]
        if await self._adopt(keys=names, args=[job.task, RQ_KEY_PREFIX, job.status]):
            telemetry.observer().recovered(1, "nobodys")
            log.warning("requeued a job that was nobody's", task=job.task, queue=job.queue, status=job.status)

    async def _settle(self, job: _Glimpse) -> None:
        """Seal the log with what RQ says. A task that has begun anew in the meantime is left alone."""
        record = await self._records.read(job.task)
        if record is None or not record.over or not _is_task(record):
            return
        try:
            event = _dated(record.ending())
            if isinstance(event, Completed):
                await self._void(record)
            await self._log.settle(
                job.task, event, queue=record.queue, reply_to=record.reply_to, result_ttl=record.result_ttl
            )
        except (Sealed, Fenced, TaskNotFound):
            return
        except (Internal, BusError) as exc:
            log.warning("a task that RQ has ended cannot be settled", task=job.task, error=str(exc))
            return
        log.warning("sealed the log of a task that RQ has ended", task=job.task, status=job.status)
        await self._close(job)

    async def _void(self, record: Record) -> None:
        """Begin an attempt: what is left on the log of the one that has completed may be a part of what it streamed."""
        names: dict[str, Any] = {"queue": record.queue, "reply_to": record.reply_to, "result_ttl": record.result_ttl}
        with contextlib.suppress(CancelRequested):
            attempt = await self._log.begin(record.task, worker=self._worker, on_interrupt=lambda _: None, **names)
            attempt.abandon()

    async def _deleted(self, logs: Sequence[str]) -> list[str]:
        """Tasks among these whose logs are open and not renewed any more, and whose jobs are not there."""
        before, after = keys.log("*").split("*")
        tasks = [task for key in logs if keys.TASK_ID.fullmatch(task := key[len(before) : -len(after)])]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for task in tasks:
                pipeline.exists(Job.key_for(task))
                pipeline.ttl(keys.log(task))
                await self._look(keys=[keys.log(task)], client=pipeline)
            found = await pipeline.execute() if tasks else []
        idle = RUNNING_TTL - ROUND_LEASES * self._lease
        looks = zip(tasks, found[::3], found[1::3], found[2::3], strict=True)
        return [task for task, exists, ttl, state in looks if not exists and state == b"open" and 0 <= ttl < idle]

    async def _end_deleted(self, task: str) -> None:
        try:
            event = Cancelled(task=task, at=time.time(), reason="the job was deleted")
            await self._log.settle(task, event, queue="", result_ttl=self._result_ttl)  # nobody knows its queue
        except (Sealed, Fenced):
            return
        except (Internal, BusError) as exc:
            log.warning("a task that was deleted cannot be settled", task=task, error=str(exc))
            return
        log.warning("sealed the log of a task that was deleted while it ran", task=task)

    async def _close(self, job: _Glimpse) -> None:
        """Let the job's hash say that its end is known: when it was, as RQ does not where it cancels one.

        Without our notes, as whoever runs it after it was enqueued again begins anew.
        """
        key = Job.key_for(job.task)
        async with self._redis.pipeline() as pipeline:
            try:
                await pipeline.watch(key)
                if await pipeline.hget(key, "status") == job.status.encode():
                    pipeline.multi()  # type: ignore[no-untyped-call]
                    pipeline.hdel(key, *NOTES)
                    if job.ended_at is None:
                        pipeline.hset(key, "ended_at", utcformat(datetime.now().astimezone()))
                    await pipeline.execute()
            except WatchError:
                return  # somebody does something with it


def _glimpse(task: str, fields: Sequence[bytes | None]) -> _Glimpse:
    status, origin, ended_at, result_ttl, is_open = ((field or b"").decode(errors="replace") for field in fields)
    ttl = int(result_ttl) if result_ttl.removeprefix("-").isdecimal() else None
    return _Glimpse(task, status, origin, _timestamp(ended_at), ttl, is_open != "")


def _timestamp(text: str) -> float | None:
    try:
        return utcparse(text).timestamp() if text else None
    except ValueError:
        return None


def _is_lost(job: _Glimpse, waiting: set[str] | None, running: set[str]) -> bool:
    """Whether nobody has it, who should."""
    if job.status == JobStatus.QUEUED:
        return waiting is not None and job.task not in waiting
    # A job that stock RQ runs is stock RQ's to fail.
    return job.status == JobStatus.STARTED and job.is_open and job.task not in running


def _is_task(record: Record) -> bool:
    """Whether it is one of ours: queues may hold jobs for RQ's own workers too."""
    try:
        BusJob.allow.task(record.function or "")
    except UnknownTask:
        return False
    return True


def _dated(event: Terminal) -> Terminal:
    return event if event.at else msgspec.structs.replace(event, at=time.time())
