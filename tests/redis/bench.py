"""A worker's log and a subscriber's bus on one Redis, each with connections of its own, and a look at what is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from deltabus import events, keys
from deltabus.attempt import Attempt
from deltabus.bus import AsyncBus
from deltabus.events import Completed, Progress
from deltabus.log import Log
from deltabus.settings import Settings

TASK = "t1"

#: Seconds after which a test that waits has failed.
DEADLINE = 60.0


class Bench:
    """What the tests of log and bus work with."""

    def __init__(self, url: str, client: redis.asyncio.Redis, log: Log, bus: AsyncBus) -> None:
        self.url = url
        self.redis = client
        self.log = log
        self.bus = bus
        self.interrupts: list[BaseException] = []
        self.interrupted = asyncio.Event()

    async def begin(self, task: str = TASK, **options: Any) -> Attempt:
        def interrupt(error: BaseException) -> None:
            self.interrupts.append(error)
            self.interrupted.set()

        return await self.log.begin(task, worker="w", queue="chat", on_interrupt=interrupt, **options)

    async def interruption(self) -> BaseException:
        """Why an attempt was interrupted, as soon as one is."""
        await self.interrupted.wait()
        return self.interrupts[0]

    async def settle(self, event: Any) -> None:
        await self.log.settle(event.task, event, queue="chat")

    async def messages(self, task: str = TASK) -> list[bytes]:
        """The log, as bytes."""
        return [fields[b"event"] for _, fields in await self.redis.xrange(keys.log(task))]

    async def events(self, task: str = TASK) -> list[Any]:
        return [events.decode(message) for message in await self.messages(task)]

    async def ids(self, task: str = TASK) -> list[str]:
        return [entry.decode() for entry, _ in await self.redis.xrange(keys.log(task))]

    async def job(self, task: str) -> dict[str, bytes]:
        return {key.decode(): value for key, value in (await self.redis.hgetall(f"rq:job:{task}")).items()}

    async def enqueued(self, task: str = TASK) -> None:
        """A job that waits, as a stranger may have written it."""
        fields = {"status": "queued", "origin": "chat", "data": b'["f",null,[{}],{}]'}
        await self.redis.hset(f"rq:job:{task}", mapping=fields)

    async def collect(self, after: str | None = None, task: str = TASK) -> list[bytes]:
        """What a subscriber gets, as bytes."""
        return [message async for message in self.bus.task(task).messages(after)]

    async def subscribers(self, count: int, task: str = TASK) -> None:
        """Wait until so many connections listen to the task."""
        while dict(await self.redis.pubsub_numsub(keys.events(task)))[keys.events(task).encode()] < count:
            await asyncio.sleep(0)


@asynccontextmanager
async def bench(
    url: str, *, log_url: str | None = None, bus_url: str | None = None, **options: Any
) -> AsyncIterator[Bench]:
    """A bench for one test; `log_url` and `bus_url` are where log and bus find Redis, if that is another way."""
    settings = Settings(redis_url=url, **options)
    async with (
        redis.asyncio.Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 100)) as client,
        redis.asyncio.Redis.from_url(log_url or url) as log_client,
        AsyncBus(bus_url, settings=settings) as bus,
    ):
        log = Log(log_client, settings)
        try:
            async with asyncio.timeout(DEADLINE):
                yield Bench(url, client, log, bus)
        finally:
            await log.aclose()


def completed(result: Any = None, task: str = TASK) -> Completed:
    return Completed(task=task, at=1.0, result=result)


def chunk(n: int) -> bytes:
    return json.dumps({"n": n}).encode()


def delta(text: str) -> bytes:
    """A chunk of a chat completion."""
    return msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": text}}]})


def completion(text: str | None) -> dict[str, Any]:
    return {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


async def flushed(attempt: Attempt, n: int) -> None:
    """An event of its own for chunk `n`, and a `progress` behind it."""
    await attempt.write(chunk(n))
    await attempt.emit(Progress(task=attempt.task, at=1.0, done=n))
