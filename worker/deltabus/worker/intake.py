"""Takes jobs from queues: in order of priority, never more than wanted, and always out of one list into another.

RQ pops from several queues with BLPOP; a worker that dies right after it has lost the job. Here a job
is recorded as running in the same step that removes it from its queue, by RQ's own records; or, where it needs a
look first, moves to its queue's intermediate list (RQ's own name for it) and is started from there.

Waiting costs one blocked connection a queue and no polling. BLMOVE to the intermediate list wakes exactly
one worker for a job. Where there are fewer free slots than queues, the lower queues are watched with
BLMOVE onto themselves, which changes nothing and only tells that something has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from rq.defaults import RQ_KEY_PREFIX
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.intermediate_queue import IntermediateQueue
from rq.job import JOB_ID_PATTERN
from rq.suspension import WORKERS_SUSPENDED

from deltabus import keys, telemetry
from deltabus.commit import pack
from deltabus.jobs import OPEN_FIELD, Start, time_of
from deltabus.scripts import PUT_BACK, TAKE
from deltabus.topology.ownconnection import own_connection

#: Jobs that are taken at once. While Redis does its part for some, the worker does its own for others: with a hundred
#: in step, one of the two waits at any moment. And Redis is held up for 30 us a job.
MOST: Final = 32

#: Seconds that one blocked wait lasts before it is renewed.
BLOCK: Final = 10.0

#: Seconds that a wait may take to hear that it is over, before it is told again.
END_AGAIN: Final = 0.02

#: Least time, in seconds, that Redis is given to answer. Else it is a third of a lease.
MIN_PATIENCE: Final = 1.0

#: Seconds beyond `BLOCK` after which a silent connection is taken for dead.
GRACE: Final = 5.0

#: Seconds that a wait is given to be answered once Redis has reason to: there are jobs, or it was told to end it.
DOUBT: Final = 1.0

log = structlog.get_logger("deltabus.intake")


@dataclass(frozen=True, slots=True)
class Taken:
    """A job that was taken from its queue, with its hash as it was at that moment."""

    queue: str
    id: str
    #: Empty where there is no such job.
    fields: dict[bytes, bytes]
    #: None: it is in the intermediate list, and needs a look first.
    start: Start | None = None
    #: Size of the payload in bytes where it was too large to be read.
    oversize: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether RQ's records did not say how an earlier run of this round has ended; see `OPEN_FIELD`."""
        opened_by = self.fields.get(OPEN_FIELD.encode())
        own = None if self.start is None else self.start.execution.encode()
        return self.oversize is not None or opened_by not in {None, own}


class Intake:
    """The source of jobs of one worker.

    Args:
        worker: name of the worker.
        queues: queue names with their Redis keys, highest priority first.
        max_bytes: payloads above this size, compressed or not, are not read.
        lease: seconds for which a worker that takes a job without a lease is given one.
        execution_ttl: seconds after which RQ takes an execution for abandoned.
        stopped: ends the wait that is under way; nothing is taken once it is set.
    """

    def __init__(
        self,
        redis: Redis,
        worker: str,
        queues: Sequence[tuple[str, str]],
        *,
        max_bytes: int,
        lease: float,
        execution_ttl: int,
        stopped: asyncio.Event,
    ) -> None:
        self._redis = redis
        self._worker = worker
        self._keys = dict(queues)
        self._patience = max(MIN_PATIENCE, lease / 3)
        self._words = (RQ_KEY_PREFIX, max_bytes, worker, repr(lease), execution_ttl)
        self._connection = own_connection(redis)
        self._asking = asyncio.Lock()
        #: What the ids of executions begin with that calls have started which had no answer.
        self._unanswered = ""
        self._calls = 0
        self._put_back = redis.register_script(PUT_BACK.source)
        self._waits = {name: _Wait(redis) for name in self._keys}
        self._broken: frozenset[str] = frozenset()
        self._stopped = stopped
        #: Whether `rq suspend` was in force at the last look.
        self.suspended = False
        self.reorder(list(self._keys))

    @property
    def is_unsure(self) -> bool:
        """Whether jobs may have been started of which nobody here knows: Redis did not answer."""
        return bool(self._unanswered)

    def reorder(self, names: Sequence[str]) -> None:
        """Set the order of priority anew (RQ's dequeue strategies)."""
        self._names = list(names)
        executions = WORKER_EXECUTIONS_KEY_TEMPLATE.format(self._worker)
        every = [WORKERS_SUSPENDED, keys.workers(RQ_KEY_PREFIX), executions]
        for name in names:
            every += [self._keys[name], self._intermediate(name)]
        self._packed_keys = [key.encode() for key in every]

    async def take(self, count: int) -> list[Taken]:
        """What there is, up to `count` jobs and `MOST`, at once."""
        return await self._run(count, [])

    async def wait(self, count: int, seconds: float = BLOCK) -> list[Taken]:
        """Block until something has come, for `seconds` at most; then take up to `count` jobs."""
        try:
            moved = await self._block(count, min(seconds, BLOCK))
        except TimeoutError:
            async with self._asking:
                await self._connection.disconnect(nowait=True)  # perhaps as dead as the line of the wait
            raise
        if self._stopped.is_set():
            await self.give_back([Taken(queue, _text(job_id), {}) for queue, job_id in moved])
            return []
        return await self._run(count, moved)

    def doubt(self, queues: Collection[str], at: float) -> None:
        """There were jobs in these queues at a moment, by the monotonic clock.

        Whoever has waited there before should have been given them. A line that is open and silent, as behind a
        firewall that drops what it carries, shows by nothing else: the wait ends soon with a `TimeoutError`.
        """
        for name in queues:
            self._waits[name].doubt(at)

    async def start(self, taken: Taken, queue: str) -> Taken | None:
        """Start a job that needed a look first, in the registry of that queue.

        Returns:
            the job as it is now, not started where it was cancelled in the meantime; None: somebody else took it out.

        Raises:
            RedisError, OSError: Redis refuses; or does not answer, and may have started it.
        """
        _, _, jobs = await self._ask(0, [(taken.queue, taken.id.encode(), queue)], _prefix(), "")
        return jobs[0] if jobs else None

    async def give_back(self, taken: Sequence[Taken]) -> None:
        """Put jobs that were not started back to the front of their queues, in their order.

        One that others have put back in the meantime stays where it is: it may have been run already.
        """
        async with self._redis.pipeline(transaction=True) as pipeline:
            for job in reversed(taken):
                names = [self._intermediate(job.queue), self._keys[job.queue], self._first_seen(job)]
                await self._put_back(keys=names, args=[_bytes(job.id)], client=pipeline)
            await pipeline.execute()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._connection.disconnect(nowait=True)
        for wait in self._waits.values():
            await wait.aclose()

    async def _run(self, count: int, moved: Sequence[tuple[str, bytes]]) -> list[Taken]:
        room = 0 if self._stopped.is_set() else min(count - len(moved), MOST)
        again, self._unanswered = self._unanswered, self._unanswered or _prefix()
        answer = await self._ask(room, [(queue, job_id, "") for queue, job_id in moved], self._unanswered, again)
        self._unanswered = ""
        self.suspended, broken, taken = answer
        self._report(broken)
        for job in [job for job in taken if not JOB_ID_PATTERN.fullmatch(job.id)]:
            # Nothing of it is shown: it may be the request that somebody has pushed in place of an id.
            log.error("dropped what is not the id of a job", queue=job.queue, length=len(job.id))
            await self._redis.lrem(self._intermediate(job.queue), 1, _bytes(job.id))  # type: ignore[arg-type]
            taken.remove(job)
        if self.suspended:
            await self.give_back([job for job in taken if job.start is None])
            taken = [job for job in taken if job.start is not None]
        return taken

    async def _ask(
        self, room: int, moved: Sequence[tuple[str, bytes, str]], prefix: str, again: str
    ) -> tuple[bool, frozenset[str], list[Taken]]:
        """Call the script.

        Args:
            prefix: what the ids of the executions begin with; calls may share it.
            again: that of calls which had no answer: what they have started is found.

        Returns:
            whether RQ is suspended, the queues that are broken, and the jobs.
        """
        names = self._names
        now = datetime.now(UTC)
        before: list[bytes | str | int] = [room, *self._words, repr(now.timestamp()), time_of(now)]
        after: list[bytes | str | int] = [*names]
        for name, job_id, queue in moved:
            after += [names.index(name) + 1, job_id, queue]
        async with self._asking:
            try:
                answer = await self._call([*before, self._token(prefix), again, *after])
            except TimeoutError:
                raise
            except (RedisError, OSError):
                # Perhaps no more than a connection that had been idle for too long, or leads to a former master.
                answer = await self._call([*before, self._token(prefix), prefix, *after])
        suspended, broken, jobs = answer
        taken = []
        for number, job_id, content, execution in jobs:
            start = Start(execution.decode(), now) if execution else None
            oversize = content if isinstance(content, int) else None
            fields = {} if isinstance(content, int) else dict(zip(content[::2], content[1::2], strict=True))
            taken.append(Taken(names[number - 1], _text(job_id), fields, start, oversize))
        return bool(suspended), frozenset(names[number - 1] for number in broken), taken

    def _token(self, prefix: str) -> str:
        self._calls = (self._calls + 1) % 2**32
        return f"{prefix}{self._calls:08x}"

    async def _call(self, args: Sequence[bytes | str | int]) -> Any:
        connection = self._connection
        try:
            async with asyncio.timeout(self._patience):
                if not connection.is_connected:
                    await connection.connect()
                    await connection.send_command("SCRIPT LOAD", TAKE.source)
                    await connection.read_response()
                await connection.send_packed_command([pack(TAKE, self._packed_keys, args)], check_health=False)
                return await connection.read_response(disable_decoding=True)
        except BaseException:  # cancellation too: an answer may be on its way, or the server is none to stay with
            await connection.disconnect(nowait=True)
            raise

    async def _block(self, count: int, seconds: float) -> list[tuple[str, bytes]]:
        """Wait on all queues; returns what was moved to intermediate lists, at most `count` jobs."""
        waits: dict[asyncio.Task[bytes | None], str] = {}
        for rank, name in enumerate(name for name in self._names if name not in self._broken):
            reserved = rank < count
            target = self._intermediate(name) if reserved else self._keys[name]
            task = asyncio.create_task(self._waits[name].run(self._keys[name], target, moves=reserved))
            waits[task] = name
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait([*waits, stopped], return_when=asyncio.FIRST_COMPLETED, timeout=seconds)
        finally:
            # A wait may be answered in the moment in which it is ended: its job counts all the same.
            stopped.cancel()
            for task, name in waits.items():
                await self._waits[name].end(task)
        moved = []
        failure: BaseException | None = None
        for task, name in waits.items():
            if task.cancelled():
                continue
            if (error := task.exception()) is not None:
                failure = failure if _is_wrong_type(error) else error
            elif (job_id := task.result()) is not None:
                moved.append((name, job_id))
        # What was moved all the same comes first; the failure will show again.
        if failure is not None and not moved:
            raise failure
        return moved

    def _report(self, broken: frozenset[str]) -> None:
        for name in broken - self._broken:
            log.error(
                "queue key is not a list; its jobs are out of reach until somebody deletes or renames the key",
                queue=name,
                key=self._keys[name],
            )
        for name in self._broken - broken:
            log.info("queue key is a list again", queue=name)
        self._broken = broken

    def _first_seen(self, job: Taken) -> str:
        queue = IntermediateQueue(self._keys[job.queue], self._redis)  # type: ignore[arg-type] # only for a name
        return queue.get_first_seen_key(job.id)

    def _intermediate(self, name: str) -> str:
        return IntermediateQueue.get_intermediate_queue_key(self._keys[name])


class _Wait:
    """A connection of its own on which one queue is waited for."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._client_id: int | None = None
        self._was_connected = False
        #: Since when an answer has been waited for, by the monotonic clock; infinite: it is not.
        self._asked = math.inf
        #: How long it is.
        self._limit: asyncio.Timeout | None = None

    async def run(self, source: str, target: str, *, moves: bool) -> bytes | None:
        """BLMOVE; the id of a job that was moved, None where it was only seen or nothing came."""
        connection = self._connection
        try:
            if self._client_id is None:
                await connection.connect()
                if self._was_connected:
                    telemetry.observer().reconnected("queue")
                self._was_connected = True
                await connection.send_command("CLIENT", "ID")
                self._client_id = int(await connection.read_response())
            await connection.send_command("BLMOVE", source, target, "LEFT", "RIGHT" if moves else "LEFT", BLOCK)
            self._asked = time.monotonic()
            # redis-py's own timeout would look like an answer, with nothing in it.
            async with asyncio.timeout(BLOCK + GRACE) as self._limit:
                job_id = await connection.read_response(timeout=2 * (BLOCK + GRACE))
        except BaseException as exc:  # cancellation too
            if isinstance(exc, TimeoutError) and self._client_id is not None:
                with contextlib.suppress(RedisError, OSError):  # else it is given another job, and nobody hears of that
                    await self._redis.client_unblock(self._client_id)
            # The reply is still to come or never will, or the server is none to wait at: not to be used again.
            if not _is_wrong_type(exc):
                await self.aclose()
            raise
        finally:
            self._asked, self._limit = math.inf, None
        return bytes(job_id) if moves and job_id is not None else None

    def doubt(self, at: float) -> None:
        """Wait a moment longer at the most, if it was waited before then."""
        if self._limit is not None and self._asked < at:
            self._limit.reschedule(asyncio.get_running_loop().time() + DOUBT)
            self._asked = math.inf  # no further doubt is to prolong it

    async def end(self, run: asyncio.Task[bytes | None]) -> None:
        """Make `run` return now, with its job if it has one by now."""
        loop = asyncio.get_running_loop()
        dead_at = loop.time() + DOUBT
        while not run.done():
            try:
                if self._client_id is None or loop.time() > dead_at:
                    run.cancel()  # still connecting: nothing has been asked for; or nothing comes through any more
                else:
                    await self._redis.client_unblock(self._client_id)
            except (RedisError, OSError):
                run.cancel()  # it closes its connection, which is of no use any more
            # Either may have to be done again: BLMOVE can be on its way to the server still, and Python 3.11's
            # wait_for, in which redis-py connects, may swallow a cancellation (python/cpython#86296).
            await asyncio.wait([run], timeout=END_AGAIN)

    async def aclose(self) -> None:
        self._client_id = None
        await self._connection.disconnect(nowait=True)


def _is_wrong_type(error: BaseException) -> bool:
    """Whether the queue's key is not a list; the next look at the queues says so."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def _prefix() -> str:
    return os.urandom(8).hex()


def _text(job_id: bytes) -> str:
    """An id that may be none: whatever it is, `_bytes` gives it back."""
    return job_id.decode(errors="surrogateescape")


def _bytes(job_id: str) -> bytes:
    return job_id.encode(errors="surrogateescape")
