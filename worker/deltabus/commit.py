"""Group commit: commands of hundreds of tasks, sent in few pipelines, until Redis has answered.

What becomes ready while a pipeline is in flight goes into the next one; an idle connection sends at
once. There is one pipeline at a time, so commands of one item never overtake each other, and no timer.

Nothing is given up while Redis is away: what has no answer is sent again, byte for byte, and the
scripts recognise what they have done already. Redis counts as away when it cannot be reached, does
not answer in time, loads its data, is a replica, or is out of memory.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol

import hiredis
import redis.asyncio
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from deltabus import telemetry
from deltabus.errors import BusUnavailable
from deltabus.outage import Outage
from deltabus.refusal import lacks_right, no_writes
from deltabus.scripts import Script
from deltabus.topology.certificates import misfit
from deltabus.topology.discovery import is_elsewhere
from deltabus.topology.ownconnection import address, own_connection

#: Bytes of one pipeline, give or take a command: what has piled up goes out in portions that a slow line can take.
BATCH_BYTES: Final = 4 * 1024 * 1024

#: Seconds to wait for the answers to one pipeline before it is sent again on a new connection.
REPLY_TIMEOUT: Final = 10.0

#: Seconds that it may take at the least, where there is little time left to wait for Redis.
LEAST_TIMEOUT: Final = 0.05

#: Seconds that `aclose` gives to what is pending.
FLUSH_TIMEOUT: Final = 5.0

#: First and longest pause, in seconds, between two tries to reach Redis. Up to half is taken off, so that workers
#: do not all come back in the same moment.
BACKOFF: Final = (0.02, 1.0)

#: Replies that are read before somebody looks at the clock.
PORTION: Final = 16

#: Error replies that say "not now" rather than "no". redis-py turns some prefixes into classes; in the others, and
#: where a script passes an error on, the prefix is in the text.
_NOT_NOW: Final = (
    *(NoScriptError, ReadOnlyError, OutOfMemoryError),
    # Of a Cluster: the slot has moved, or is on its way; or it lacks nodes. AskError is MovedError's base.
    *(AskError, TryAgainError, ClusterDownError, MasterDownError),
)
_NOT_NOW_TEXT: Final = re.compile(
    r"\b(OOM|READONLY|MISCONF|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|UNKILLABLE)\b|"
    r"a non local key in a cluster node"
)


# The standard library's, because producers load this module too.
_log = logging.getLogger(__name__)


def is_not_now(reply: object) -> bool:
    """Whether an error reply says "not now" rather than "no": what was asked is worth asking again."""
    return isinstance(reply, ResponseError) and (
        isinstance(reply, _NOT_NOW) or _NOT_NOW_TEXT.search(str(reply)) is not None
    )


def pack_command(*words: bytes | str | int) -> bytes:
    """A command as it goes over the wire: hiredis takes a quarter of the time that redis-py does."""
    # Not as numbers: hiredis 3.5 has Python write them, and there a signal's handler may run. Where that raises, as
    # Ctrl+C and RQ's time limits do, it goes on with nothing, and the process dies of a segmentation fault.
    texts = tuple([b"%d" % word if isinstance(word, int) else word for word in words])
    packed: bytes = hiredis.pack_command(texts)  # type: ignore[arg-type]  # Its stub has a tuple of one word.
    return packed


def pack(script: Script, keys: Sequence[bytes | str], arguments: Sequence[bytes | str | int]) -> bytes:
    """A script call as it goes over the wire."""
    return pack_command(b"EVALSHA", script.sha, len(keys), *keys, *arguments)


class Item(Protocol):
    """Somebody who has something to send."""

    def command(self) -> bytes | None:
        """What to send, packed; asked when the pipeline is formed. None: nothing any more."""

    def answer(self, reply: Any) -> None:
        """The reply: what Redis returned, or the `ResponseError` that says it never will."""

    def give_up(self, error: BusUnavailable) -> None:
        """There will be no reply: Redis is away, and nobody waits any longer."""


class Call:
    """An item that is one command; somebody waits for `reply`."""

    __slots__ = ("_packed", "reply")

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self.reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def command(self) -> bytes | None:
        return None if self.reply.done() else self._packed

    def answer(self, reply: Any) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def give_up(self, error: BusUnavailable) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)


class GroupCommit:
    """Sends the commands of its items over one connection, in the order in which they came.

    It belongs to the loop on which it was made.

    Args:
        client: gives the address and the credentials; the connection is not taken from its pool.
        scripts: those that items call.
        patience: seconds for which Redis may be away until items are given up; None: for ever. One that does not
            answer is given half of it, and the other half on a new connection.
        outage: is told when Redis is away; by default, without `patience`, one of its own.
        reply_timeout: seconds instead of `REPLY_TIMEOUT`.
        line: what it carries, as observers call it.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        scripts: Sequence[Script],
        *,
        patience: float | None = None,
        outage: Outage | None = None,
        reply_timeout: float | None = None,
        line: str = "other",
    ) -> None:
        self._line = line
        self._was_connected = False
        self._connection = own_connection(client)
        self._address = address(client)
        self._scripts = scripts
        self._scripts_loaded = False
        #: Redis' refusal to load them.
        self._unloadable: ResponseError | None = None
        self._patience = patience
        self._outage = Outage(self._address) if outage is None and patience is None else outage
        #: As which it meets an outage.
        self._duty = f"group commit {id(self)}"
        self._reply_timeout = reply_timeout
        self._ready: deque[Item] = deque()
        self._unanswered: list[tuple[Item, bytes]] = []
        self._wake = asyncio.Event()
        self._closing = False
        # Whoever is the first to want it, it is for all of them.
        context = telemetry.aside()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="deltabus group commit", context=context)

    @property
    def closed(self) -> bool:
        """Whether nothing is sent any more."""
        return self._task.done()

    def submit(self, item: Item) -> None:
        """Let `item` take part in the next pipeline."""
        if self.closed:
            item.give_up(BusUnavailable(f"the connection to Redis at {self._address} was closed"))
            return
        self._ready.append(item)
        self._wake.set()

    async def call(self, packed: bytes) -> Any:
        """Send one command and wait for its reply.

        Raises:
            redis.exceptions.ResponseError: Redis refuses.
            BusUnavailable: Redis was away for too long.
        """
        item = Call(packed)
        self.submit(item)
        reply = await item.reply
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def aclose(self, patience: float = FLUSH_TIMEOUT) -> None:
        """Send what is pending, for so many seconds at most; then nothing is sent any more."""
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task}, timeout=patience)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
            self._give_up("it did not answer while the connection was being closed")
        await self._connection.disconnect()

    async def _run(self) -> None:
        failures, since = 0, 0.0
        clock = asyncio.get_running_loop().time
        reason: str | None = None
        while True:
            self._form()
            if not self._unanswered:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            if failures == 0:
                since, reason = clock(), None
            seconds = self._timeout(clock() - since)
            try:
                reason = await self._exchange(seconds)
            except (RedisError, OSError) as exc:
                await self._connection.disconnect(nowait=True)
                # The last try may have too little time to hear anything: what the one before it was told says more.
                hurried = self._patience is not None and seconds < self._patience / 2
                reason = misfit(exc) or str(exc) or (reason if hurried else None) or "it does not answer"
            if reason is None:
                if self._outage is not None:
                    self._outage.is_over_for(self._duty)
                failures = 0
                continue
            failures += 1
            if failures == 1:
                continue  # Perhaps no more than a connection that had been idle for too long.
            if self._outage is not None:
                self._outage.meets(self._duty, reason)
            if self._patience is not None and clock() - since >= self._patience:
                self._give_up(reason)
                failures = 0
                continue
            first, longest = BACKOFF
            jitter = random.uniform(0.5, 1.0)  # noqa: S311  It spreads workers, it hides nothing.
            pause = min(longest, first * 2 ** min(failures, 16)) * jitter
            left = pause if self._patience is None else max(0.0, self._patience - (clock() - since))
            await asyncio.sleep(min(pause, left))

    def _timeout(self, away: float) -> float:
        """Seconds that the next exchange may take, after Redis has been away for so many."""
        if self._patience is None:
            return self._reply_timeout or REPLY_TIMEOUT
        return max(LEAST_TIMEOUT, min(self._patience / 2, self._patience - away))

    def _form(self) -> None:
        """Add to what is unanswered what is ready, up to `BATCH_BYTES`."""
        size = sum(len(packed) for _, packed in self._unanswered)
        while self._ready and size < BATCH_BYTES:
            item = self._ready.popleft()
            try:
                packed = item.command()
            except Exception as exc:  # noqa: BLE001  A bug of whoever made the item.
                # Whatever one item holds, the others are sent.
                _log.exception("a command could not be formed")
                item.answer(ResponseError(f"it cannot be sent: {type(exc).__name__}"))
                continue
            if packed is not None:
                self._unanswered.append((item, packed))
                size += len(packed)

    async def _exchange(self, seconds: float) -> str | None:
        """Send what is unanswered and hand out the replies, with no silence between them of so many seconds.

        Returns:
            why some of it has to be sent again; None if all is answered.
        """
        connection = self._connection
        clock = asyncio.get_running_loop().time
        begun = clock()
        # One timeout around it all: redis-py's own, one for every reply, cost more than the replies.
        async with asyncio.timeout(seconds) as limit:
            if not connection.is_connected:
                await connection.connect()
                self._scripts_loaded = False
                if self._was_connected:
                    telemetry.observer().reconnected(self._line)
                self._was_connected = True
            if not self._scripts_loaded:
                for script in self._scripts:
                    await connection.send_command("SCRIPT LOAD", script.source)
                self._unloadable = None
                for _ in self._scripts:
                    if isinstance(reply := await self._reply(), ResponseError):
                        if not lacks_right(reply):
                            raise reply
                        # Who may not load scripts need not need them: each command is answered for itself.
                        self._unloadable = reply
                self._scripts_loaded = True
            pieces = [packed for _, packed in self._unanswered]
            if not getattr(connection, "parts_them", False):
                pieces = [b"".join(pieces)]  # for each of many, uvloop takes 2 us
            await connection.send_packed_command(pieces, check_health=False)
            replies: list[Any] = []
            while len(replies) < len(self._unanswered):
                portion = min(PORTION, len(self._unanswered) - len(replies))
                replies += [await self._reply() for _ in range(portion)]
                # Redis is there, however long a process that has much else to do takes to read what it says.
                if (now := clock()) - begun > seconds / 2 and not limit.expired():
                    begun = now
                    limit.reschedule(now + seconds)
        batch, self._unanswered = self._unanswered, []
        reason = None
        for (item, packed), reply in zip(batch, replies, strict=True):
            if isinstance(reply, NoScriptError) and self._unloadable is not None:
                item.answer(self._unloadable)
            elif is_not_now(reply):
                self._unanswered.append((item, packed))
                reason = f"{type(reply).__name__}: {reply}"
                self._scripts_loaded = False
                if is_elsewhere(reply):
                    # A failover: the next connection finds the new master.
                    await connection.disconnect(nowait=True)
            else:
                item.answer(reply)
        return reason

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True)
        except ResponseError as exc:
            return exc

    def _give_up(self, reason: str) -> None:
        state = no_writes(reason)
        said = f"is away: {reason}" if state is None else f"takes no writes: {state}"
        error = BusUnavailable(f"Redis at {self._address} {said}")
        items = [*(item for item, _ in self._unanswered), *self._ready]
        self._unanswered = []
        self._ready.clear()
        for item in items:
            item.give_up(error)
