"""One attempt's writer: chunks and events in, script calls out, one at a time.

Every event follows the one before it exactly, or Redis does not write it. So a re-sent event is told
from a fenced writer, and a log that has lost its end (a failover, a restart without persistence) from
one that is whole. Such a log is mended with a `snapshot`, so a replay is complete again. A log that is
gone altogether is mended as well, unless its attempt had no contact with it for `MIN_TTL`: then it may
have been taken over, settled and expired, and the attempt is fenced.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from deltabus import events, keys
from deltabus.commit import Call, GroupCommit, pack
from deltabus.errors import BusUnavailable, CancelRequested, DeltabusError, Fenced, Internal, PayloadTooLarge, Sealed
from deltabus.events import Progress, Retrying, Terminal
from deltabus.scripts import APPEND, RENEW, SEAL
from deltabus.settings import Settings
from deltabus.telemetry import Watch

#: Seconds for which a log outlives its last renewal at least: a task may wait that long for its next attempt.
RUNNING_TTL: Final = 24 * 3600

#: Seconds for which a log outlives its seal at least, so that a subscriber who was cut off can read the end.
MIN_TTL: Final = 60


class Names:
    """A task's keys and channels, as they go over the wire."""

    __slots__ = ("channel", "keys", "reply_to", "results", "task", "ttl")

    def __init__(self, task: str, queue: str, reply_to: str | None, result_ttl: int) -> None:
        self.task = task
        self.keys = (keys.log(task).encode(), keys.cancel(task).encode())
        self.channel = keys.events(task).encode()
        self.reply_to = keys.reply_channel(reply_to).encode()
        self.results = keys.results(queue).encode()
        #: Seconds the log lives after the seal; -1: for ever.
        self.ttl = -1 if result_ttl < 0 else max(result_ttl, MIN_TTL)

    def pack_seal(self, event: Terminal, *, last: str, mine: bool, former: bytes = b"") -> bytes:
        """The call that seals the log.

        Args:
            last: id of the log's last event, as far as the caller knows.
            mine: the caller is the attempt that wrote it; otherwise no attempt is open.
            former: terminal event of a former round, which this one replaces.
        """
        message = events.encode(msgspec.structs.replace(event, id=keys.SEAL))
        where = (self.channel, self.reply_to, self.results)
        replaced = hashlib.sha1(former, usedforsecurity=False).hexdigest() if former else ""
        return pack(SEAL, self.keys, (message, last, *where, self.ttl, b"1" if mine else b"0", replaced))


def refusal(task: str, reply: Any) -> DeltabusError:
    """What a script's answer other than success means."""
    match reply:
        case [b"sealed", message]:
            return Sealed(task, message)
        case [b"fenced"]:
            return Fenced(f"a newer attempt owns task {task}")
        case [b"gone"]:
            return Fenced(f"the log of task {task} has expired, and this attempt with it")
        case [b"cancel", reason]:
            return CancelRequested(reason.decode())
        case _:
            return Internal(f"Redis refuses to write the log of task {task}: {reply}")


class _Control:
    """An event whose writer waits until it is in the log."""

    __slots__ = ("done", "event")

    def __init__(self, event: Progress | Retrying | Terminal) -> None:
        self.event = event
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Flight:
    """What is in the pipeline: the first pending items, as one event."""

    __slots__ = ("bytes", "chunk_bytes", "is_snapshot", "items", "n")

    def __init__(self, n: int, items: int, bytes: int, chunk_bytes: int, *, is_snapshot: bool) -> None:
        self.n = n
        self.items = items
        self.bytes = bytes  # that the event adds to the log
        self.chunk_bytes = chunk_bytes  # that are not pending any more once it is there
        self.is_snapshot = is_snapshot


_NO_FLIGHT = _Flight(0, 0, 0, 0, is_snapshot=False)


class Attempt:
    """One execution of a task. Made by `Log.begin`; hundreds live in one process, so each is small."""

    __slots__ = (
        "_busy",
        "_commit",
        "_contact",
        "_flight",
        "_interrupted",
        "_kept",
        "_limit",
        "_max_pending",
        "_mend",
        "_n",
        "_names",
        "_on_interrupt",
        "_over",
        "_pending",
        "_room",
        "_size",
        "_streamed",
        "log_was_lost",
        "number",
        "snapshot",
        "task",
        "watch",
    )

    def __init__(
        self,
        commit: GroupCommit,
        settings: Settings,
        names: Names,
        number: int,
        on_interrupt: Callable[[DeltabusError], None],
    ) -> None:
        self.task = names.task
        self.number = number
        #: Set by whoever streams: chunks (JSON) that accumulate to everything written so far. It must know a chunk
        #: before the chunk is written. Without it, the log is neither bounded nor mended with more than a marker.
        self.snapshot: Callable[[], Sequence[bytes]] | None = None
        #: Who is told of deltas and appends.
        self.watch: Watch | None = None
        #: Redis lost the log, all of it or its end, and it was or is being mended.
        self.log_was_lost = False
        self._commit = commit
        self._names = names
        self._on_interrupt = on_interrupt
        self._max_pending = settings.max_pending_bytes
        self._pending: list[bytes | _Control] = []
        self._size = 0  # bytes of the chunks that are pending or in flight
        self._room: asyncio.Future[None] | None = None  # resolved when there is room for more of them
        self._busy = False  # waits for a pipeline, or is in one
        self._n = 0  # of the last event known to be in the log
        self._flight = _NO_FLIGHT
        self._streamed = 0  # bytes that a replay of this attempt takes
        self._limit = settings.max_log_bytes
        self._mend = False  # the log has lost entries: the next event is a snapshot
        self._contact = time.time()  # Unix time of the last answer
        self._kept = self._contact  # when the log was last given its time to live
        self._interrupted = False
        self._over: DeltabusError | None = None

    async def write(self, chunk: bytes) -> None:
        """Append a chunk: the JSON of one object. Returns at once, unless more than `max_pending_bytes` wait for Redis.

        Raises:
            Fenced, Sealed, Internal: the attempt is over.
            PayloadTooLarge: the log is full (`max_log_bytes`), and there is no `snapshot` to put in its place.
        """
        if self._over is not None:
            raise self._over
        if self._is_full:
            raise PayloadTooLarge(f"the task has streamed more than {self._limit} bytes (`max_log_bytes`)")
        if self.watch is not None:
            self.watch.delta()
        self._pending.append(chunk)
        self._size += len(chunk)
        self._submit()
        while self._size > self._max_pending:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)  # several writers may wait for it
            if self._over is not None:
                raise self._over

    async def emit(self, event: Progress | Retrying) -> None:
        """Append an event, after the chunks written before it. It is in the log when this returns.

        How far a task is, is left out where its log is full (`max_log_bytes`).

        Raises:
            Fenced, Sealed, Internal: the attempt is over.
        """
        if isinstance(event, Retrying) or not self._is_full:
            await self._control(event)

    async def seal(self, event: Terminal) -> None:
        """Append the terminal event, after all chunks. It is in the log when this returns.

        Raises:
            Fenced: a newer attempt owns the log.
            Sealed: another terminal event is there already.
            Internal: Redis refuses to write.
        """
        await self._control(event)
        self._end(Fenced(f"attempt {self.number} of task {self.task} has ended"))

    def abandon(self) -> None:
        """Drop what is pending and write nothing further: the task is somebody else's now."""
        self._end(Fenced(f"attempt {self.number} of task {self.task} was abandoned"))

    def is_due(self, *, heard: float, kept: float) -> bool:
        """Whether it is to be renewed.

        Args:
            heard: seconds for which Redis may have told nothing of it.
            kept: seconds for which its log may not have been renewed.
        """
        now = time.time()
        return abs(now - self._contact) >= heard or abs(now - self._kept) >= kept

    def renewal(self) -> Call | None:
        """Ask Redis to keep the log alive, and for news of it, which `renewed` takes; None: nothing is asked."""
        if self._over is not None:
            return None
        call = Call(pack(RENEW, self._names.keys, (f"{self.number}-{self._n}", RUNNING_TTL)))
        self._commit.submit(call)
        return call

    def renewed(self, reply: Any) -> None:
        """What Redis said to `renewal`."""
        if self._over is None:
            if self._took(reply):
                self._kept = self._contact
            self._submit()

    @property
    def _is_full(self) -> bool:
        """The log has no room for more, and nothing could stand for what is in it."""
        return self.snapshot is None and self._streamed + self._size > self._limit

    async def _control(self, event: Progress | Retrying | Terminal) -> None:
        if self._over is not None:
            raise self._over
        control = _Control(event)
        self._pending.append(control)
        self._submit()
        await control.done

    def _submit(self) -> None:
        if not self._busy and (self._pending or self._mend) and self._over is None:
            self._busy = True
            if self.watch is not None:
                self.watch.submit()
            self._commit.submit(self)

    # What the commit asks and answers: see `deltabus.commit.Item`.

    def command(self) -> bytes | None:
        """The next event, as a script call."""
        if self._over is not None:
            self._busy = False
            return None
        head = self._pending[0] if self._pending else None
        if self._mend or (isinstance(head, bytes) and self._streamed > self._limit and self.snapshot is not None):
            return self._pack_snapshot()
        if isinstance(head, _Control):
            return self._pack_control(head.event)
        return self._pack_chunks()

    def answer(self, reply: Any) -> None:
        """What became of it."""
        self._busy = False
        if self._over is None and self._took(reply):
            if self.watch is not None:
                self.watch.land()
            self._land()
        self._submit()

    def give_up(self, error: BusUnavailable) -> None:
        """Redis could not be reached before the log was closed."""
        self._end(error)

    def _land(self) -> None:
        """What was in flight is in the log."""
        flight = self._flight
        pending = self._pending
        self._n = flight.n
        self._size -= flight.chunk_bytes
        self._streamed += flight.bytes
        if flight.is_snapshot:
            self._mend = False
            self._streamed = flight.bytes
            self._limit = max(self._limit, 2 * self._streamed)
            pending[: flight.items] = [item for item in pending[: flight.items] if isinstance(item, _Control)]
        else:
            control = pending[0]
            del pending[: flight.items]
            if isinstance(control, _Control) and not control.done.done():
                control.done.set_result(None)
        if self._size <= self._max_pending:
            self._make_room()

    def _pack_chunks(self) -> bytes:
        chunks: list[bytes] = []
        for item in self._pending:
            if not isinstance(item, bytes):
                break
            chunks.append(item)
        n = self._n + 1
        message = events.encode_chunks("delta", self.task, f"{self.number}-{n}", chunks)
        self._flight = _Flight(n, len(chunks), len(message), sum(map(len, chunks)), is_snapshot=False)
        return self._pack_append(message)

    def _pack_control(self, event: Progress | Retrying | Terminal) -> bytes:
        if isinstance(event, Terminal):
            self._flight = _Flight(self._n, 1, 0, 0, is_snapshot=False)
            return self._names.pack_seal(event, last=f"{self.number}-{self._n}", mine=True)
        n = self._n + 1
        message = events.encode(msgspec.structs.replace(event, id=f"{self.number}-{n}"))
        self._flight = _Flight(n, 1, len(message), 0, is_snapshot=False)
        return self._pack_append(message)

    def _pack_snapshot(self) -> bytes | None:
        """What stands for everything so far, and for the chunks that are still pending."""
        try:
            chunks = () if self.snapshot is None else self.snapshot()
        except Exception as exc:  # noqa: BLE001  Whatever goes wrong there must not stop the writing of other tasks.
            self._busy = False
            self._interrupt(Internal(f"what task {self.task} has streamed cannot be told: {type(exc).__name__}"))
            return None
        # A log that lost entries may lack one that a subscriber has seen: its id is not used for another.
        n = self._n + (2 if self._mend else 1)
        message = events.encode_chunks("snapshot", self.task, f"{self.number}-{n}", chunks)
        covered = [] if self.snapshot is None else self._pending
        size = sum(len(item) for item in covered if isinstance(item, bytes))
        self._flight = _Flight(n, len(covered), len(message), size, is_snapshot=True)
        return self._pack_append(message)

    def _pack_append(self, message: bytes) -> bytes:
        names, flight = self._names, self._flight
        id_ = f"{self.number}-{flight.n}"
        after = "" if self._mend else f"{self.number}-{self._n}"
        trim = b"1" if flight.is_snapshot else b"0"
        return pack(APPEND, names.keys, (id_, after, message, names.channel, names.reply_to, trim, RUNNING_TTL))

    def _took(self, reply: Any) -> bool:
        """Whether Redis did what was asked. If not, the log is about to be mended, or the attempt is over."""
        match reply:
            case 1:
                pass
            case [b"cancel", _]:
                self._interrupt(refusal(self.task, reply))
            case [b"lost"]:
                self._mend = self.log_was_lost = True
                return False
            case [b"gone"] if time.time() - self._contact <= MIN_TTL:
                self._mend = self.log_was_lost = True
                return False
            case _:
                self._interrupt(refusal(self.task, reply))
                return False
        self._contact = time.time()
        return True

    def _interrupt(self, error: DeltabusError) -> None:
        sealing = any(isinstance(item, _Control) and isinstance(item.event, Terminal) for item in self._pending)
        if not isinstance(error, CancelRequested):
            self._end(error)
        if not sealing and not self._interrupted:
            self._interrupted = True
            asyncio.get_running_loop().call_soon(self._on_interrupt, error)

    def _end(self, error: DeltabusError) -> None:
        if self._over is None:
            self._over = error
        for item in self._pending:
            if isinstance(item, _Control) and not item.done.done():
                item.done.set_exception(error)
        self._pending = []
        self._size = 0
        self._make_room()

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None
