"""Group commit: script calls from hundreds of tasks, sent in few pipelines, until Redis has answered.

What becomes ready while a pipeline is in flight goes into the next one; an idle connection sends at
once. There is one pipeline at a time, so calls of one item never overtake each other, and no timer.

Nothing is given up while Redis is away: what has no answer is sent again, byte for byte, and the
scripts recognise what they have done already. Redis counts as away when it cannot be reached, does
not answer in time, loads its data, is a replica, or is out of memory.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

import hiredis
import redis.asyncio
import structlog
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from deltabus.errors import BusUnavailable
from deltabus.scripts import Script

#: Seconds to wait for the answers to one pipeline before it is sent again on a new connection.
REPLY_TIMEOUT: Final = 10.0

#: Seconds that `aclose` gives to what is pending.
FLUSH_TIMEOUT: Final = 5.0

#: First and longest pause, in seconds, between two tries to reach Redis; halved at random, so that workers spread.
BACKOFF: Final = (0.02, 1.0)

#: Error replies that say "not now" rather than "no". redis-py turns some prefixes into classes; in the others, and
#: where a script passes an error on, the prefix is in the text.
_NOT_NOW: Final = (NoScriptError, ReadOnlyError, OutOfMemoryError, TryAgainError, ClusterDownError, MasterDownError)
_NOT_NOW_TEXT: Final = re.compile(
    r"\b(OOM|READONLY|MISCONF|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|UNKILLABLE)\b"
)

_log = structlog.get_logger(__name__)


def pack(script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | int]) -> bytes:
    """One script call as it goes over the wire."""
    return hiredis.pack_command((b"EVALSHA", script.sha, len(keys), *keys, *arguments))


class Item(Protocol):
    """Somebody who has something to send."""

    def command(self) -> bytes | None:
        """What to send, packed; asked when the pipeline is formed. None: nothing any more."""

    def answer(self, reply: Any) -> None:
        """The reply: what the script returned, or the `ResponseError` that says it never will."""

    def give_up(self, error: BusUnavailable) -> None:
        """There will be no reply: the commit was closed while Redis was away."""


class GroupCommit:
    """Sends the commands of its items over one connection of `redis`, in the order in which they came.

    It belongs to the loop on which it was made.
    """

    def __init__(self, redis: redis.asyncio.Redis, scripts: Sequence[Script]) -> None:
        self._pool = redis.connection_pool
        self._scripts = scripts
        self._connection: Any = None  # redis-py's asyncio connections have no public base class
        self._scripts_loaded = False
        self._ready: list[Item] = []
        self._unanswered: list[tuple[Item, bytes]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="deltabus group commit")

    def submit(self, item: Item) -> None:
        """Let `item` take part in the next pipeline."""
        self._ready.append(item)
        self._wake.set()

    async def aclose(self) -> None:
        """Send what is pending, for at most `FLUSH_TIMEOUT` seconds; then nothing is sent any more."""
        self._closing = True
        self._wake.set()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self._task
        except TimeoutError:
            error = BusUnavailable("Redis could not be reached before the log was closed")
            for item in [*(item for item, _ in self._unanswered), *self._ready]:
                item.give_up(error)
        finally:
            if self._connection is not None:
                await self._pool.release(self._connection)

    async def _run(self) -> None:
        failures = 0
        while True:
            if not self._unanswered and not self._ready:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            ready, self._ready = self._ready, []
            self._unanswered += [(item, packed) for item in ready if (packed := item.command()) is not None]
            try:
                reason = await self._exchange() if self._unanswered else None
            except (RedisError, OSError) as exc:
                await self._disconnect()
                reason = f"{type(exc).__name__}: {exc}"
            if reason is None:
                if failures > 1:
                    _log.info("Redis is back", tries=failures)
                failures = 0
                continue
            failures += 1
            # The first failure may be no more than a connection that was idle for too long.
            if failures > 1:
                if failures == 2:
                    _log.warning("Redis is away; trying again until it is back", reason=reason)
                first, longest = BACKOFF
                jitter = random.uniform(0.5, 1.0)  # noqa: S311  It spreads workers, it hides nothing.
                await asyncio.sleep(min(longest, first * 2 ** min(failures, 16)) * jitter)

    async def _exchange(self) -> str | None:
        """Send what is unanswered and hand out the replies.

        Returns:
            why some of it has to be sent again; None if all is answered.
        """
        async with asyncio.timeout(REPLY_TIMEOUT):
            connection = await self._connected()
            await connection.send_packed_command([packed for _, packed in self._unanswered], check_health=False)
            replies = [await _reply(connection) for _ in self._unanswered]
        batch, self._unanswered = self._unanswered, []
        reason = None
        for (item, packed), reply in zip(batch, replies, strict=True):
            if isinstance(reply, ResponseError) and (isinstance(reply, _NOT_NOW) or _NOT_NOW_TEXT.search(str(reply))):
                self._unanswered.append((item, packed))
                reason = f"{type(reply).__name__}: {reply}"
                self._scripts_loaded = False
            else:
                item.answer(reply)
        if reason is not None and "READONLY" in reason.upper():
            await self._disconnect()  # A failover: the next connection finds the new master.
        return reason

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
        connection = self._connection
        if not connection.is_connected:
            await connection.connect()
            self._scripts_loaded = False
        if not self._scripts_loaded:
            for script in self._scripts:
                await connection.send_command("SCRIPT LOAD", script.source)
                await connection.read_response()
            self._scripts_loaded = True
        return connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
        self._scripts_loaded = False


async def _reply(connection: Any) -> Any:
    try:
        # No timeout of its own: the one around the whole exchange costs a hundredth of one for each reply.
        return await connection.read_response(disable_decoding=True, timeout=math.inf)
    except ResponseError as exc:
        return exc
