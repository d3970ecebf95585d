"""The live side of subscribing: one pub/sub connection for all the tasks that a process follows.

A channel shows what happens while somebody listens, and may miss anything around a reconnect. So
every confirmation of a subscription, the first one and each after a reconnect, tells the listener to
read the log; what arrives after it is live.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Final

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from deltabus import keys
from deltabus.commit import BACKOFF, pack_command
from deltabus.topology.ownconnection import own_connection

#: Seconds without a message after which a listener looks at the log: once at least, twice as much at most. The same
#: holds for the connection, which is asked whether it still stands, and given up if it does not answer.
SILENCE: Final = 5.0

#: Seconds that connecting and subscribing may take.
CONNECT_TIMEOUT: Final = 10.0

#: Bytes of messages that wait for one listener; one who is slower than that reads the log instead.
MAX_WAITING_BYTES: Final = 256 * 1024


class Listener:
    """What one follower of one task is shown: messages as they come, and when to read the log instead."""

    __slots__ = ("_bytes", "_heard", "_messages", "_news", "behind", "silent", "task")

    def __init__(self, task: str) -> None:
        self.task = task
        #: Messages may have been missed: the log has to be read.
        self.behind = False
        #: Nothing has come for a while.
        self.silent = False
        self._heard = True
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    async def message(self) -> bytes | None:
        """The next message, as soon as it comes; None: it is time to read the log."""
        while not (self.behind or self.silent):
            if self._messages:
                message = self._messages.popleft()
                self._bytes -= len(message)
                return message
            self._news.clear()
            await self._news.wait()
        return None

    def show(self, message: bytes) -> None:
        """What the channel brings."""
        self._heard = True
        self._messages.append(message)
        self._bytes += len(message)
        if self._bytes > MAX_WAITING_BYTES:
            self.fall_behind()
        self._news.set()

    def fall_behind(self) -> None:
        """What waits is forgotten: the log has it."""
        self._messages.clear()
        self._bytes = 0
        self.behind = True
        self._news.set()

    def tick(self) -> None:
        """`SILENCE` seconds have passed."""
        if not self._heard:
            self.silent = True
            self._news.set()
        self._heard = False


class Feed:
    """Brings the channels of many tasks to their listeners. It belongs to the loop on which it is first used."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._connection = own_connection(client, listens=True)
        self._listeners: dict[bytes, list[Listener]] = {}
        self._confirmed: set[bytes] = set()
        self._up = False
        self._heard = True
        self._outbox: list[bytes] = []
        self._mail = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def listen(self, task: str) -> Listener:
        """Begin to listen to a task. The listener falls behind, and so is told to read, when Redis has confirmed."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            work = (self._receive(), self._send(), self._watch())
            self._tasks = [loop.create_task(part, name="deltabus feed") for part in work]
        listener = Listener(task)
        channel = keys.events(task).encode()
        others = self._listeners.setdefault(channel, [])
        others.append(listener)
        if channel in self._confirmed:
            listener.fall_behind()
        elif len(others) == 1:
            self._post(self._verb(), channel)
        return listener

    def leave(self, listener: Listener) -> None:
        """Listen no longer."""
        channel = keys.events(listener.task).encode()
        others = self._listeners[channel]
        others.remove(listener)
        if not others:
            del self._listeners[channel]
            self._confirmed.discard(channel)
            self._post(self._verb(b"UN"), channel)

    async def aclose(self) -> None:
        """Let go of the connection. Listeners are told to read, and shown nothing further."""
        self._up = False
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.fall_behind()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect()

    def _verb(self, what: bytes = b"") -> bytes:
        """The command for a channel: on a Cluster, messages may be sharded."""
        return (b"S" if getattr(self._connection, "sharded", False) else b"") + what + b"SUBSCRIBE"

    def _post(self, *command: bytes) -> None:
        if self._up:
            self._outbox.append(pack_command(*command))
            self._mail.set()

    async def _send(self) -> None:
        while True:
            await self._mail.wait()
            self._mail.clear()
            outbox, self._outbox = self._outbox, []
            if self._up and self._connection.is_connected and outbox:
                # A connection that breaks here breaks in `_receive` too, and only there it is mended.
                with contextlib.suppress(RedisError, OSError):
                    await self._connection.send_packed_command(outbox, check_health=False)

    async def _receive(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await self._subscribe()
                while True:
                    self._take(await self._connection.read_response(disable_decoding=True))
                    failures = 0
            except (RedisError, OSError):
                failures += 1
            self._up = False
            self._confirmed.clear()
            await self._connection.disconnect(nowait=True)
            if failures > 1:
                first, longest = BACKOFF
                await asyncio.sleep(min(longest, first * 2 ** min(failures, 16)))

    async def _subscribe(self) -> None:
        await self._connection.connect()
        # From here on, whoever comes or goes sends a command of his own.
        self._up = True
        self._outbox.clear()
        if self._listeners:
            verb = self._verb()
            # One each: channels may be at different nodes.
            await self._connection.send_packed_command([pack_command(verb, channel) for channel in self._listeners])

    def _take(self, reply: Any) -> None:
        self._heard = True
        match reply:
            case [b"message" | b"smessage", channel, message]:
                for listener in self._listeners.get(channel, ()):
                    listener.show(message)
            case [b"sunsubscribe", channel, _] if channel in self._listeners:
                raise RedisConnectionError("a channel has moved to another node")
            case [b"subscribe" | b"ssubscribe", channel, _] if channel in self._listeners:
                self._confirmed.add(channel)
                for listener in self._listeners[channel]:
                    listener.fall_behind()

    async def _watch(self) -> None:
        """One clock for all: a timer for each wait cost more than the messages."""
        asked = False
        while True:
            await asyncio.sleep(SILENCE)
            for listeners in self._listeners.values():
                for listener in listeners:
                    listener.tick()
            if asked and self._up and not self._heard:
                self._up = False
                await self._connection.disconnect(nowait=True)
            asked = self._up and not self._heard
            if asked:
                self._post(b"PING")
            self._heard = False
