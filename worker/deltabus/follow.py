"""The log, from the subscriber's side: every event once, in order, from any point to the terminal one.

A follower reads the log up to its end, listens to the channel, reads again from where it was, and from
then on takes what is published. Whenever something may have been missed (a reconnect, a gap in the
ids, a consumer who is slower than the stream, silence) it reads the log again. The log is the truth:
what is published and not in it does not exist.

A cursor is checked, not believed: each reading begins with the event that was seen last. If that is
another one by now, Redis has lost its data and the task was begun anew under the same ids; then the
follower begins anew too, with the `started` event.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from deltabus import events, keys
from deltabus.attempt import RUNNING_TTL
from deltabus.commit import GroupCommit, pack_command
from deltabus.errors import BusError, BusUnavailable, InvalidRequest, TaskNotFound
from deltabus.events import AnyEvent, Snapshot
from deltabus.feed import Feed, Listener
from deltabus.records import Record, Records

#: Entries that are read from a log at once.
PAGE: Final = 100

#: Seconds for which Redis may be away while a task is followed. A follower who has seen nothing yet is told at once.
OUTAGE: Final = 60.0

#: Seconds that a worker may take to mend a log of which Redis has lost a part; its heartbeats are more frequent.
MENDING: Final = 5.0

#: Seconds without a renewal after which nobody works on a task, if RQ says so too.
ABANDONED: Final = 60.0

_EVENT_ID: Final = re.compile(r"([0-9]{1,16})-([0-9]{1,16})")

Position = tuple[int, int]


class Seen(NamedTuple):
    """An event, and the very bytes it was written as."""

    message: bytes
    event: AnyEvent


def position(id: str) -> Position:
    """An event id as numbers that compare.

    Raises:
        InvalidRequest: it is none.
    """
    match = _EVENT_ID.fullmatch(id)
    if match is None:
        raise InvalidRequest(f"{id!r} is not the id of an event, such as 1-7", param="after")
    return int(match[1]), int(match[2])


def before(place: Position) -> str:
    """The cursor right before an event: following goes on with just that one."""
    attempt, n = place
    return f"{attempt}-{n - 1}" if n else f"{attempt - 1}-{_SEAL[0]}"


_START: Final[Position] = (0, 0)
_SEAL: Final = position(keys.SEAL)


class _Cursor:
    """How far a follower is."""

    def __init__(self, after: str | None) -> None:
        self.position = position(after) if after else _START
        #: What was seen there, if it was seen here.
        self.message: bytes | None = None
        #: The log goes on from there. If not, it is empty, or Redis has lost what was seen.
        self.holds = False
        self._lost_since = math.inf

    @property
    def id(self) -> str:
        return f"{self.position[0]}-{self.position[1]}"

    @property
    def at_end(self) -> bool:
        return self.position >= _SEAL

    @property
    def lost(self) -> bool:
        """Redis has lost what was seen, and a worker that is still at it may be about to mend that."""
        return self.message is not None and not self.holds and time.monotonic() - self._lost_since < MENDING

    def move(self, seen: Seen) -> None:
        self.position, self.message = position(seen.event.id), seen.message

    def is_followed_by(self, event: AnyEvent, place: Position) -> bool:
        """Whether nothing that the log should have can be between the cursor and this event."""
        attempt, n = self.position
        return self.holds and (place == (attempt, n + 1) or place[1] == 0 or isinstance(event, Snapshot))

    def compare(self, entries: Sequence[tuple[str, bytes]]) -> bool:
        """Take note of what the log has from the cursor on. False: it was begun anew, and so is the cursor."""
        if entries and entries[0][0] == self.id:
            if self.message is not None and self.message != entries[0][1]:
                self.position, self.message, self.holds = _START, None, False
                return False
            self.message = entries[0][1]
        if self.holds and not entries:
            self._lost_since = time.monotonic()
        self.holds = bool(entries)
        return True


class Follower:
    """Follows any number of tasks, each from a cursor of its own.

    Args:
        commit: reads the logs.
        feed: brings the channels.
        records: knows of tasks that have no log.
    """

    def __init__(self, commit: GroupCommit, feed: Feed, records: Records) -> None:
        self._commit = commit
        self._feed = feed
        self._records = records

    async def follow(self, task: str, after: str | None = None) -> AsyncGenerator[Seen, None]:
        """The task's events above the cursor `after`, up to the terminal one; none if that is the cursor.

        A task that waits in a queue is waited for. A task whose log has expired ends as RQ's records say.

        Raises:
            TaskNotFound: neither RQ nor a log knows the task.
            BusUnavailable: Redis cannot be reached.
            InvalidRequest: `after` is no event id.
            BusError: the task's keys hold something else.
        """
        cursor = _Cursor(after)
        listener: Listener | None = None
        contact = time.monotonic()
        doubt = False
        try:
            while not cursor.at_end:
                try:
                    # RQ is asked before the log, so that the log has the last word.
                    over = await self._over(task) if doubt else None
                    page = await self._page(task, cursor)
                except BusUnavailable:
                    if listener is None or self._commit.closed or time.monotonic() - contact > OUTAGE:
                        raise
                    continue
                contact = time.monotonic()
                for seen in page:
                    cursor.move(seen)
                    yield seen
                if page or not (cursor.holds or doubt):
                    doubt = not page
                    continue
                if over is not None and not cursor.lost:
                    yield over.ending(task)
                    return
                if listener is None:
                    listener = self._feed.listen(task)
                while (live := await self._live(listener, cursor)) is not None:
                    cursor.move(live)
                    yield live
                doubt = listener.silent
                listener.silent = listener.behind = False
        finally:
            if listener is not None:
                self._feed.leave(listener)

    async def tail(self, task: str) -> list[Seen]:
        """The newest two events of a log, the newest first."""
        entries = await self._call(task, b"XREVRANGE", keys.log(task), b"+", b"-", b"COUNT", 2)
        return _decoded(task, [fields[1] for _, fields in entries])

    async def _page(self, task: str, cursor: _Cursor) -> list[Seen]:
        """What the log has above the cursor, or the first part of that."""
        entries: list[tuple[str, bytes]] = []
        for entry, fields in await self._call(task, b"XRANGE", keys.log(task), cursor.id, b"+", b"COUNT", PAGE):
            entries.append((entry.decode(), fields[1]))
        if not cursor.compare(entries):
            return await self._page(task, cursor)
        return _decoded(task, [message for entry, message in entries if entry != cursor.id])

    async def _live(self, listener: Listener, cursor: _Cursor) -> Seen | None:
        """The next event, as published; None: the log has to be read, or it was the last one."""
        while not cursor.at_end and (message := await listener.message()) is not None:
            try:
                event = events.decode(message)
                place = position(event.id)
            except (msgspec.MsgspecError, InvalidRequest):
                return None  # Whatever this is, the log knows better.
            if event.task != listener.task:
                return None  # So somebody publishes here who should not.
            if place > cursor.position:
                return Seen(message, event) if cursor.is_followed_by(event, place) else None
            if place[1] == 0:
                return None  # An attempt that had begun before begins: perhaps Redis has lost its data.
        return None

    async def _over(self, task: str) -> _Over | None:
        """What RQ says, where nobody works on the task any more and nobody will."""
        record = await self._records.read(task)
        if record is not None and not record.over:
            return None
        # -2: there is no log. A running task's log is renewed every few seconds.
        ttl = await self._call(task, b"TTL", keys.log(task))
        return None if ttl != -2 and RUNNING_TTL - ttl < ABANDONED else _Over(record)

    async def _call(self, task: str, *command: bytes | str | int) -> Any:
        try:
            return await self._commit.call(pack_command(*command))
        except ResponseError as exc:
            raise BusError(f"Redis refuses to read the log of task {task}: {exc}") from exc


def unknown(task: str) -> TaskNotFound:
    """The error for a task that has left no trace."""
    return TaskNotFound(
        f"task {task} is not known: there is neither a job nor a log of that id; "
        "it was never enqueued here, or its retention has passed"
    )


def _decoded(task: str, messages: Iterable[bytes]) -> list[Seen]:
    try:
        found = [Seen(message, events.decode(message)) for message in messages]
        for seen in found:
            position(seen.event.id)
    except (msgspec.MsgspecError, InvalidRequest) as exc:
        raise BusError(f"the log of task {task} holds what is no event of protocol version 1") from exc
    return found


class _Over(NamedTuple):
    """A task that has no end in its log, and will have none."""

    record: Record | None

    def ending(self, task: str) -> Seen:
        if self.record is None:
            raise unknown(task)
        event = self.record.ending()
        return Seen(events.encode(event), event)
