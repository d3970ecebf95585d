"""Takes jobs from queues: in order of priority, never more than wanted, and always out of one list into another.

RQ pops from several queues with BLPOP; a worker that dies right after it has lost the job. Here a job
moves to its queue's intermediate list (RQ's own name for it) in the same step that removes it, and waits
there until the start script takes it out.

Waiting costs one blocked connection a queue and no polling. BLMOVE to the intermediate list wakes exactly
one worker for a job. Where there are fewer free slots than queues, the lower queues are watched with
BLMOVE onto themselves, which changes nothing and only tells that something has come.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from rq.intermediate_queue import IntermediateQueue
from rq.job import JOB_ID_PATTERN, Job
from rq.suspension import WORKERS_SUSPENDED

from deltabus import telemetry
from deltabus.scripts import PUT_BACK, TAKE

#: Seconds that one blocked wait lasts before it is renewed.
BLOCK: Final = 10.0

#: Seconds that a wait may take to hear that it is over, before it is told again.
END_AGAIN: Final = 0.02

#: Seconds beyond `BLOCK` after which a silent connection is taken for dead.
GRACE: Final = 5.0

# RQ's rule (`rq.job.JOB_ID_PATTERN`), for bytes.
_JOB_ID: Final = re.compile(JOB_ID_PATTERN.pattern.encode())

log = structlog.get_logger("deltabus.intake")


@dataclass(frozen=True, slots=True)
class Taken:
    """A job id that is in an intermediate list, with its hash as it was at that moment."""

    queue: str
    id: str
    #: Empty where there is no such job.
    fields: dict[bytes, bytes]
    #: Size of the payload in bytes where it was too large to be read.
    oversize: int | None = None


class Intake:
    """The source of jobs of one worker.

    Args:
        queues: queue names with their Redis keys, highest priority first.
        max_bytes: payloads above this size, compressed or not, are not read.
        stopped: ends the wait that is under way; nothing is taken once it is set.
    """

    def __init__(
        self, redis: Redis, queues: Sequence[tuple[str, str]], *, max_bytes: int, stopped: asyncio.Event
    ) -> None:
        self._redis = redis
        self._keys = dict(queues)
        self._names = list(self._keys)
        self._max_bytes = max_bytes
        self._take = redis.register_script(TAKE.source)
        self._put_back = redis.register_script(PUT_BACK.source)
        self._waits = {name: _Wait(redis) for name in self._keys}
        self._broken: frozenset[str] = frozenset()
        self._stopped = stopped
        #: Whether `rq suspend` was in force at the last look.
        self.suspended = False

    def reorder(self, names: Sequence[str]) -> None:
        """Set the order of priority anew (RQ's dequeue strategies)."""
        self._names = list(names)

    async def take(self, count: int) -> list[Taken]:
        """What there is, up to `count` jobs, at once."""
        return await self._run(count, [])

    async def wait(self, count: int, seconds: float = BLOCK) -> list[Taken]:
        """Block until something has come, for `seconds` at most; then take up to `count` jobs."""
        return await self._run(count, await self._block(count, min(seconds, BLOCK)))

    async def give_back(self, taken: Sequence[Taken]) -> None:
        """Put jobs that were not started back to the front of their queues, in their order.

        One that others have put back in the meantime stays where it is: it may have been run already.
        """
        pipeline = self._redis.pipeline(transaction=True)
        for job in reversed(taken):
            names = [self._intermediate(job.queue), self._keys[job.queue], self._first_seen(job)]
            await self._put_back(keys=names, args=[job.id], client=pipeline)
        await pipeline.execute()

    async def aclose(self) -> None:
        """Close the connections that wait."""
        for wait in self._waits.values():
            await wait.aclose()

    async def _run(self, count: int, moved: Sequence[tuple[str, bytes]]) -> list[Taken]:
        names = self._names
        keys = [WORKERS_SUSPENDED]
        for name in names:
            keys += [self._keys[name], self._intermediate(name)]
        room = 0 if self._stopped.is_set() else count - len(moved)
        args: list[str | bytes | int] = [room, Job.key_for(""), self._max_bytes]
        for name, job_id in moved:
            args += [names.index(name) + 1, job_id]
        suspended, broken, jobs = await self._take(keys=keys, args=args)
        self.suspended = bool(suspended)
        self._report(frozenset(names[number - 1] for number in broken))
        taken = []
        for number, job_id, content in jobs:
            name = names[number - 1]
            if _JOB_ID.fullmatch(job_id):
                taken.append(_taken(name, job_id, content))
            else:
                log.error("dropped what is not the id of a job", queue=name, id=repr(job_id[:100]))
                await self._redis.lrem(self._intermediate(name), 1, job_id)
        if (self.suspended or self._stopped.is_set()) and taken:
            await self.give_back(taken)
            return []
        return taken

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
                await self._waits[name].end(task, self._redis)
            results = await asyncio.gather(*waits, return_exceptions=True)
        moved = []
        failure: Exception | None = None
        for name, result in zip(waits.values(), results, strict=True):
            if isinstance(result, bytes):
                moved.append((name, result))
            elif isinstance(result, Exception) and not _is_wrong_type(result):
                failure = result
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
        self._connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._client_id: int | None = None
        self._was_connected = False

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
            # redis-py's own timeout would look like an answer, with nothing in it.
            async with asyncio.timeout(BLOCK + GRACE):
                job_id = await connection.read_response(timeout=2 * (BLOCK + GRACE))
        except BaseException as exc:  # cancellation too
            # The reply is still to come or never will, or the server is none to wait at: not to be used again.
            if not _is_wrong_type(exc):
                await self.aclose()
            raise
        return bytes(job_id) if moves and job_id is not None else None

    async def end(self, run: asyncio.Task[bytes | None], redis: Redis) -> None:
        """Make `run` return now, with its job if it has one by now."""
        loop = asyncio.get_running_loop()
        dead_at = loop.time() + GRACE
        while not run.done():
            try:
                if self._client_id is None or loop.time() > dead_at:
                    run.cancel()  # still connecting: nothing has been asked for; or nothing comes through any more
                else:
                    await redis.client_unblock(self._client_id)
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


def _taken(queue: str, job_id: bytes, content: Any) -> Taken:
    if isinstance(content, int):
        return Taken(queue, job_id.decode(), {}, oversize=content)
    return Taken(queue, job_id.decode(), dict(zip(content[::2], content[1::2], strict=True)))
