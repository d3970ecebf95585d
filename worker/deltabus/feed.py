"""The live side of subscribing: one pub/sub connection for all the tasks that a process follows.

A channel shows what happens while somebody listens, and may miss anything around a reconnect. So
every confirmation of a subscription, the first one and each after a reconnect, tells the listener to
read the log; what arrives after it is live.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final

import redis.asyncio
from redis.exceptions import RedisError

from deltabus import keys
from deltabus.commit import BACKOFF, own_connection

#: Seconds of silence after which the connection is asked whether it still stands, and again until it is given up.
PING_INTERVAL: Final = 5.0

#: Seconds that connecting and subscribing may take.
CONNECT_TIMEOUT: Final = 10.0

#: Bytes of messages that wait for one listener; one who is slower than that reads the log instead.
MAX_WAITING_BYTES: Final = 256 * 1024


class Listener:
    """What one follower of one task is shown: messages as they come, and when to read the log instead."""

    __slots__ = ("_bytes", "_messages", "_news", "behind", "task")

    def __init__(self, task: str) -> None:
        self.task = task
        #: Messages may have been missed: the log has to be read.
        self.behind = False
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def message(self) -> bytes | None:
        """The next message; None if there is none yet."""
        if not self._messages:
            self._news.clear()
            return None
        message = self._messages.popleft()
        self._bytes -= len(message)
        return message

    async def wait(self, seconds: float) -> bool:
        """Wait for a message, or for `behind`. False: nothing came in so many seconds."""
        if self._messages or self.behind:
            return True
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def show(self, message: bytes) -> None:
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


class Feed:
    """Brings the channels of many tasks to their listeners. It belongs to the loop on which it is first used."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._connection = own_connection(client)
        self._listeners: dict[bytes, list[Listener]] = {}
        self._confirmed: set[bytes] = set()
        self._up = False
        self._task: asyncio.Task[None] | None = None

    async def listen(self, task: str) -> Listener:
        """Begin to listen to a task. The listener falls behind, and so is told to read, when Redis has confirmed."""
        listener = Listener(task)
        channel = keys.events(task).encode()
        others = self._listeners.setdefault(channel, [])
        others.append(listener)
        if channel in self._confirmed:
            listener.fall_behind()
        elif self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="deltabus feed")
        elif len(others) == 1:
            await self._send("SUBSCRIBE", channel)
        return listener

    async def leave(self, listener: Listener) -> None:
        """Listen no longer."""
        channel = keys.events(listener.task).encode()
        others = self._listeners[channel]
        others.remove(listener)
        if not others:
            del self._listeners[channel]
            self._confirmed.discard(channel)
            await self._send("UNSUBSCRIBE", channel)

    async def aclose(self) -> None:
        """Let go of the connection. Listeners are told to read, and shown nothing further."""
        self._up = False
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.fall_behind()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._connection.disconnect()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await self._subscribe()
                while await self._read():
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
        if self._listeners:
            await self._connection.send_command("SUBSCRIBE", *self._listeners)

    async def _read(self) -> bool:
        """Take what the connection brings next; False if it has gone silent."""
        reply = await self._connection.read_response(disable_decoding=True, timeout=PING_INTERVAL)
        if reply is None:
            await self._connection.send_command("PING")
            reply = await self._connection.read_response(disable_decoding=True, timeout=PING_INTERVAL)
        match reply:
            case None:
                return False
            case [b"message", channel, message]:
                for listener in self._listeners.get(channel, ()):
                    listener.show(message)
            case [b"subscribe", channel, _] if channel in self._listeners:
                self._confirmed.add(channel)
                for listener in self._listeners[channel]:
                    listener.fall_behind()
        return True

    async def _send(self, command: str, channel: bytes) -> None:
        if self._up:
            # A connection that breaks here breaks in `_read` too, and there it is mended.
            with contextlib.suppress(RedisError, OSError):
                await self._connection.send_command(command, channel)
