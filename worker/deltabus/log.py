"""The log, from the worker's side: begin attempts, settle tasks, keep leases on what runs.

Subscribers read the same logs through `deltabus.follow`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import redis.asyncio
from redis.exceptions import ResponseError

from deltabus import events, keys
from deltabus.attempt import RUNNING_TTL, Attempt, Names, refusal
from deltabus.commit import FLUSH_TIMEOUT, GroupCommit, pack, pack_command
from deltabus.errors import DeltabusError, Sealed
from deltabus.events import Started, Terminal
from deltabus.outage import Outage
from deltabus.scripts import BEGIN, LOG
from deltabus.settings import Settings

__all__ = ["Attempt", "Log"]

#: Attempts that are renewed at once: it takes some 5 ms, in which no delta goes on.
AT_ONCE: Final = 200

#: Stands for the id in a `started` event until the script knows it; nothing else in an event looks like it.
_ID: Final = "\x00"
_ID_JSON: Final = msgspec.json.encode(_ID)


class Log:
    """Writes the logs of all attempts of one process, on one asyncio loop.

    Args:
        redis: one of its connections is kept until `aclose`.
        settings: `result_ttl`, `max_log_bytes`, `max_pending_bytes`.
        outage, reply_timeout: see `GroupCommit`.

    While Redis is away nothing raises: everything waits, and goes on where it was.
    """

    def __init__(
        self,
        redis: redis.asyncio.Redis,
        settings: Settings,
        *,
        outage: Outage | None = None,
        reply_timeout: float | None = None,
    ) -> None:
        self._settings = settings
        self._commit = GroupCommit(redis, LOG, outage=outage, reply_timeout=reply_timeout, line="log")

    async def begin(
        self,
        task: str,
        *,
        worker: str,
        queue: str,
        on_interrupt: Callable[[DeltabusError], None],
        reply_to: str | None = None,
        reopen: bool = False,
        result_ttl: int | None = None,
    ) -> Attempt:
        """Begin the next attempt: `started` is in the log when this returns.

        Args:
            on_interrupt: called at most once, on the loop, when the attempt has to end: with `Fenced` or `Sealed` (drop
                the task, nothing can be written any more), `CancelRequested` (stop, then seal) or `Internal` (Redis
                refuses to write). It is not called for what `Attempt.seal` raises.
            reopen: a settled task runs again: its old log is dropped, its attempts count on.
            result_ttl: seconds the log lives after the seal, -1 for ever; by default `settings.result_ttl`.

        Raises:
            Sealed: the task is settled already, and `reopen` is not set.
            CancelRequested: somebody wants it cancelled; nothing was written.
            Fenced: Redis was away, and by the time of its answer a newer attempt had begun.
            Internal: Redis refuses, as when the log's key is no stream.
        """
        names = self._names(task, queue, reply_to, result_ttl)
        started = events.encode(Started(task=task, id=_ID, at=time.time(), worker=worker))
        head, _, tail = started.partition(_ID_JSON)
        reopens = b"1" if reopen else b"0"
        arguments = (head + b'"', b'"' + tail, names.channel, names.reply_to, RUNNING_TTL, reopens)
        reply = await self._call(task, pack(BEGIN, names.keys, arguments))
        match reply:
            case [b"ok", int(number)]:
                return Attempt(self._commit, self._settings, names, number, on_interrupt)
            case _:
                raise refusal(task, reply)

    async def settle(
        self,
        task: str,
        event: Terminal,
        *,
        queue: str,
        reply_to: str | None = None,
        former: Sealed | None = None,
        result_ttl: int | None = None,
    ) -> None:
        """Write the terminal event of a task that has no open attempt. One that is open all the same is over then.

        Args:
            former: how an earlier round of the task has ended, which was enqueued again since: that is replaced.

        Raises:
            Sealed: another terminal event is there already.
            Fenced: an attempt has begun in the meantime: the task is not over.
            Internal: Redis refuses, as when the log's key is no stream.
        """
        names = self._names(task, queue, reply_to, result_ttl)
        # What is there now may be sealed. What somebody begins before a re-sent call arrives may not.
        newest = await self._call(task, pack_command(b"XREVRANGE", names.keys[0], f"({keys.SEAL}", b"-", b"COUNT", 1))
        last = newest[0][0].decode() if newest else "0-0"
        replaced = former.message if former else b""
        reply = await self._call(task, names.pack_seal(event, last=last, mine=False, former=replaced))
        if reply != 1:
            raise refusal(task, reply)

    async def renew(self, attempts: Sequence[Attempt]) -> None:
        """Keep the logs of these attempts alive, in few pipelines.

        An attempt that is silent learns here that it is to be cancelled or that a newer one has begun, and
        a log that has lost entries is mended.
        """
        for first in range(0, len(attempts), AT_ONCE):
            asked = [(attempt, attempt.renewal()) for attempt in attempts[first : first + AT_ONCE]]
            for attempt, call in asked:
                if call is not None:
                    attempt.renewed(await call.reply)

    async def aclose(self, patience: float = FLUSH_TIMEOUT) -> None:
        """Write what is pending, for so many seconds at most.

        What cannot be written, as Redis is away, raises `BusUnavailable` where it waits.
        """
        await self._commit.aclose(patience)

    def _names(self, task: str, queue: str, reply_to: str | None, result_ttl: int | None) -> Names:
        return Names(task, queue, reply_to, self._settings.result_ttl if result_ttl is None else result_ttl)

    async def _call(self, task: str, packed: bytes) -> Any:
        try:
            return await self._commit.call(packed)
        except ResponseError as exc:
            raise refusal(task, exc) from exc
