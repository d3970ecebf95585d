"""A task as its producer and its subscribers hold it: follow it, wait for it, cancel it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from numbers import Real
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from deltabus import keys
from deltabus.attempt import Names
from deltabus.commit import pack, pack_command
from deltabus.enqueue import timestamp
from deltabus.errors import BusError, InvalidRequest, TaskCancelled, TaskFailed
from deltabus.events import AnyEvent, Cancelled, Completed, Failed, Terminal
from deltabus.follow import Seen, before, position, unknown
from deltabus.records import Record, State
from deltabus.refusal import lacks_right
from deltabus.scripts import CANCEL, WITHDRAW
from deltabus.session import Session
from deltabus.telling import Telling

_STATES: Final[dict[type, State]] = {Completed: "completed", Failed: "failed", Cancelled: "cancelled"}


class TaskStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a task stands."""

    id: str
    state: State
    #: Attempts that have begun.
    attempt: int = 0
    #: Id of the newest event, to resume after.
    last_id: str | None = None
    queue: str | None = None
    #: How many tasks are before it in the queue.
    position: int | None = None


class AsyncTask:
    """A task. It need not exist: whether it does is found out when it is used.

    All methods raise `BusUnavailable` where Redis cannot be reached, and `TaskNotFound` where neither RQ
    nor a log knows the id.
    """

    __slots__ = ("_open", "id")

    def __init__(self, id: str, open: Callable[[], Session]) -> None:
        self.id = keys.check_id(id, "task_id")
        self._open = open

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    async def events(self, after: str | None = None) -> AsyncGenerator[AnyEvent, None]:
        """The task's events: each once, in order, from the first one on, or after the one with the id `after`.

        Ends after the terminal event. Reconnects as needed: a subscriber that comes late, was cut off, or
        is slow sees the same events as any other.
        """
        async with aclosing(self._open().follower.follow(self.id, after)) as following:
            async for seen in following:
                yield seen.event

    async def messages(self, after: str | None = None) -> AsyncGenerator[bytes, None]:
        """The same events as `events` yields, as the JSON that was published: for those who pass them on."""
        async with aclosing(self._open().follower.follow(self.id, after)) as following:
            async for seen in following:
                yield seen.message

    async def text(self) -> AsyncGenerator[str, None]:
        """The text of the answer's first choice, piece by piece as it streams; joined, it is the whole text.

        Begins with the newest attempt, whatever it has streamed so far. An answer that was not streamed is one piece.

        Raises:
            TaskFailed, TaskCancelled: the task ended so.
            TaskRestarted: the task is run again, and says something else than what was yielded.
        """
        follower = self._open().follower
        telling = Telling(self.id)
        attempt = max((seen.event.attempt or 0 for seen in await follower.tail(self.id)), default=0)
        after = before((attempt, 0)) if attempt else None
        async with aclosing(follower.follow(self.id, after)) as following:
            async for seen in following:
                piece = telling.feed(seen.event)
                if piece:
                    yield piece
                _raise_unless_completed(seen.event)

    async def result(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109  The field's word for it.
        """Wait for the task to end; what the provider returned.

        Args:
            timeout: seconds to wait; None: as long as it takes. The task goes on either way.

        Raises:
            TaskFailed, TaskCancelled: the task ended so.
            TimeoutError: it has not ended in time.
            InvalidRequest: the timeout is no number of seconds.
        """
        if timeout is not None and (not isinstance(timeout, Real) or isinstance(timeout, bool) or not timeout >= 0):
            raise InvalidRequest(
                "must be a number of seconds, 0 or more; without one, it is waited as long as it takes", param="timeout"
            )
        follower = self._open().follower
        try:
            async with asyncio.timeout(timeout) as limit:
                # What has been streamed already is of no interest.
                tail = await follower.tail(self.id)
                after = before(position(tail[0].event.id)) if tail else None
                async with aclosing(follower.follow(self.id, after)) as following:
                    async for seen in following:
                        _raise_unless_completed(seen.event)
                        if isinstance(seen.event, Completed):
                            return seen.event.result
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise TimeoutError(f"task {self.id} has not ended after {timeout:g} s; it goes on") from exc
        raise AssertionError("a follower ends after a terminal event")

    async def cancel(self, reason: str | None = None) -> bool:
        """Ask for the task to be cancelled: one that waits is settled at once, one that runs is stopped.

        Args:
            reason: a word for subscribers.

        Returns:
            False: it has already ended, and was not enqueued again since.

        Raises:
            BusError: Redis refuses, as when one of the task's keys is of another type.
        """
        session = self._open()
        record = await session.records.read(self.id)
        tail = await session.follower.tail(self.id)
        if not tail:
            if record is None:
                raise unknown(self.id)
            if record.over:
                return False
        seal = tail[0] if tail and isinstance(tail[0].event, Terminal) else None
        try:
            place = await self._withdraw(session, record, seal)
            if place == b"withdrawn":
                # Should this go wrong, a worker's reconciler does it: RQ's own cancel leaves it to that as well.
                last = next((seen.event.id for seen in tail if seen is not seal), "0-0")
                ending = Cancelled(task=self.id, at=time.time(), reason=reason or None)
                former = seal.message if seal else b""
                packed = self._names(session, record).pack_seal(ending, last=last, mine=False, former=former)
                if await session.commit.call(packed) != [b"fenced"]:
                    return True
            return place != b"over" and await self._leave_word(session, reason, seal)
        except ResponseError as exc:
            raise BusError(f"Redis refuses to cancel task {self.id}: {exc}") from exc

    # The task's keys and RQ's may be on different nodes: so these are steps of their own.

    async def _withdraw(self, session: Session, record: Record | None, seal: Seen | None) -> bytes:
        """See `withdraw.lua`."""
        rq, queue = session.names, record.queue if record is not None else ""
        registries = (rq.registry(kind, queue) for kind in ("scheduled", "deferred", "canceled"))
        execution = getattr(seal.event, "execution", None) if seal else None
        packed = pack(
            WITHDRAW,
            (rq.job(self.id), rq.queue(queue), *registries, rq.executions(self.id)),
            (
                self.id,
                int(seal is not None),
                execution or "",
                timestamp(),
                int(time.time()),
                session.settings.failure_ttl,
            ),
        )
        try:
            return bytes(await session.commit.call(packed))
        except ResponseError as exc:
            if not lacks_right(exc):
                raise
            return b"elsewhere"  # A producer need not have the right to settle: whoever takes the job does.

    async def _leave_word(self, session: Session, reason: str | None, seal: Seen | None) -> bool:
        """Ask whoever runs it, or is about to; False: it has ended meanwhile."""
        former = hashlib.sha1(seal.message, usedforsecurity=False).hexdigest() if seal else ""
        words = (self.id, reason or "", keys.CANCEL_TTL, keys.CANCEL_CHANNEL, former)
        packed = pack(CANCEL, (keys.log(self.id).encode(), keys.cancel(self.id).encode()), words)
        return bool(await session.commit.call(packed))

    def _names(self, session: Session, record: Record | None) -> Names:
        if record is None:
            return Names(self.id, "", None, session.settings.result_ttl)
        ttl = session.settings.result_ttl if record.result_ttl is None else record.result_ttl
        return Names(self.id, record.queue, record.reply_to, ttl)

    async def status(self) -> TaskStatus:
        """Where the task stands."""
        session = self._open()
        record = await session.records.read(self.id)
        tail = [seen.event for seen in await session.follower.tail(self.id)]
        if record is None and not tail:
            raise unknown(self.id)
        state: State = "started" if record is None else record.state
        if tail and isinstance(tail[0], Terminal):
            state = _STATES[type(tail[0])]
        place = None
        if record is not None and state == "queued":
            place = await session.commit.call(pack_command(b"LPOS", session.names.queue(record.queue), self.id))
        return TaskStatus(
            id=self.id,
            state=state,
            attempt=max((event.attempt or 0 for event in tail), default=0),
            last_id=tail[0].id if tail else None,
            queue=record.queue if record is not None else None,
            position=place,
        )


def _raise_unless_completed(event: AnyEvent) -> None:
    match event:
        case Failed():
            raise TaskFailed(event.task, event.error)
        case Cancelled():
            raise TaskCancelled(event.task, event.reason)
