"""Those who listen: an observer of every channel, and followers who come late, drop, and come again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import msgspec
import redis.asyncio
from redis.exceptions import RedisError

from chaos.history import Following, Message, Watch
from deltabus import AsyncBus, keys
from deltabus.errors import BusError, BusUnavailable

#: Seconds between two tries to listen.
AGAIN: Final = 0.1


class Observer:
    """Hears every channel of every task, by plain pub/sub: what it misses, it has missed."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client
        self._task: asyncio.Task[None] | None = None
        #: Set while it listens.
        self.listens = asyncio.Event()
        self.watches: list[Watch] = []

    async def start(self) -> None:
        """Begin; it listens when this returns."""
        self._task = asyncio.create_task(self._run())
        await self.listens.wait()

    async def pause(self) -> None:
        """Listen no more for a while: what is published now may be heard by nobody."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self.listens.is_set():
            self.listens.clear()
            self.watches[-1].until = time.time()

    async def stop(self) -> None:
        """Leave, with everything heard that was published before."""
        assert self._task is not None
        # What was published before this has come before this.
        if self.listens.is_set():
            end = asyncio.create_task(self._hears_the_end())
            await asyncio.wait([end], timeout=10)
            end.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._redis.aclose()

    async def _hears_the_end(self) -> None:
        self._end = asyncio.Event()
        await self._redis.publish(keys.events(_END), b"")
        await self._end.wait()

    async def _run(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.psubscribe(*_PATTERNS)
                    async for item in pubsub.listen():
                        self._take(item)
            except (RedisError, OSError):
                pass
            if self.listens.is_set():
                self.listens.clear()
                self.watches[-1].until = time.time()
            await asyncio.sleep(AGAIN)

    def _take(self, item: dict[str, object]) -> None:
        if item["type"] == "psubscribe":
            # redis-py subscribes anew by itself: then this is another watch.
            if self.listens.is_set():
                self.listens.clear()
                self.watches[-1].until = time.time()
            if item["data"] == len(_PATTERNS):
                self.watches.append(Watch(since=time.time()))
                self.listens.set()
        elif item["type"] == "pmessage":
            channel, data = item["channel"], item["data"]
            assert isinstance(channel, bytes)
            assert isinstance(data, bytes)
            if channel.decode() == keys.events(_END):
                self._end.set()
                return
            watch = self.watches[-1]
            if item["pattern"] == _RESULTS.encode():
                queue = channel.decode().removeprefix(keys.results(""))
                watch.results.setdefault(queue, []).append(read(data))
            else:
                watch.messages.append(read(data))


#: Every channel on which all tasks are heard: their own, and those of their queues' results.
_RESULTS: Final = keys.results("*")
_PATTERNS: Final = (keys.events("*"), _RESULTS)

#: No task's id: the channel on which the observer hears that there is nothing more.
_END: Final = "-the-end-"


class Followers:
    """Follow tasks through `AsyncTask`, from the start or from where somebody left or heard that Redis is away."""

    def __init__(self, bus: AsyncBus, seed: int) -> None:
        self._bus = bus
        self._dice = random.Random(f"followers {seed}")  # noqa: S311 # it hides nothing
        self.followings: list[Following] = []

    async def follow(self, task: str, after: float) -> None:
        """Come in so many seconds; drop once or not at all, and go on behind what was seen last."""
        await asyncio.sleep(after)
        cursor = None
        drops = self._dice.choice([0, 0, 1])
        while True:
            patience = self._dice.randint(1, 8) if drops else None
            following = Following(task=task, after=cursor, since=time.time())
            self.followings.append(following)
            try:
                async with aclosing(self._bus.task(task).messages(after=cursor)) as messages:
                    async for raw in messages:
                        message = read(raw)
                        following.messages.append(message)
                        cursor = message.id
                        if patience is not None and len(following.messages) >= patience:
                            following.dropped = True
                            drops -= 1
                            break
            except asyncio.CancelledError:
                following.error = "no end, long after there was one"
                raise
            except BusUnavailable:
                following.away = True
            except BusError as exc:
                following.error = f"{type(exc).__name__}: {exc}"
            finally:
                following.until = time.time()
            if not (following.dropped or following.away) or cursor == keys.SEAL:
                return
            await asyncio.sleep(self._dice.uniform(0, 2))

    async def end(self, following: Sequence[asyncio.Task[None]], seconds: float) -> None:
        """Wait for those who follow; who has not seen an end after so many seconds will not see any more."""
        if following:
            _, left = await asyncio.wait(following, timeout=seconds)
            for task in left:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)


class _Head(msgspec.Struct):
    task: str
    id: str


_heads = msgspec.json.Decoder(_Head)


def read(raw: bytes) -> Message:
    """An event's JSON as a message that was received now."""
    head = _heads.decode(raw)
    return Message(head.task, head.id, raw.decode(), time.time())
