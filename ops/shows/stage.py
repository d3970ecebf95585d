"""A Redis, workers, streams with a subscriber each, and an observer of every channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import redis.asyncio

from chaos.subscribers import Observer
from deltabus import AsyncBus, AsyncTask
from deltabus.embedded import EmbeddedRedis
from deltabus.errors import BusUnavailable
from deltabus.events import AnyEvent, Delta, Started

#: Seconds that anything that is waited for may take.
PATIENCE: Final = 120.0

#: RQ's keys that are gone when everything is booked.
BOOKED: Final = ("rq:wip:chat", "rq:queue:chat", "rq:queue:chat:intermediate")

#: Seconds between two looks at what nobody tells.
LOOK: Final = 0.05

#: A server that remembers everything over a restart.
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")


class Stream:
    """A task whose answer is one word of its own, over and over, and the subscriber who follows it."""

    def __init__(self, task: AsyncTask, word: str, words: int) -> None:
        self.task = task
        self.text = " ".join([word] * words)
        #: What its subscriber has seen: each event once, in order, whatever became of the connection.
        self.events: list[AnyEvent] = []
        #: Set once something of the answer has come.
        self.streams = asyncio.Event()
        #: Set once a second attempt has begun.
        self.again = asyncio.Event()
        #: The longest that its subscriber, once something had come, had to wait for more: seconds.
        self.longest_gap = 0.0

    async def follow(self) -> None:
        """Subscribe, and see the task to its end."""
        seen_at: float | None = None
        while True:
            last = self.events[-1].id if self.events else None
            try:
                async for event in self.task.events(after=last):
                    self.events.append(event)
                    now = time.monotonic()
                    if seen_at is not None:
                        self.longest_gap = max(self.longest_gap, now - seen_at)
                    seen_at = now
                    if isinstance(event, Delta):
                        self.streams.set()
                    if isinstance(event, Started) and (event.attempt or 0) > 1:
                        self.again.set()
            except BusUnavailable:
                continue  # it has been tried for a while already
            return


class Worker:
    """One `deltabus worker` process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._more = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())
        #: Every line it has written.
        self.said: list[str] = []
        self._over = False

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def says(self, words: str) -> None:
        """Wait until it has written this."""
        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: self._over or any(words in line for line in self.said))
        if not any(words in line for line in self.said):
            raise AssertionError(f"it never said {words!r}: {''.join(self.said)}")

    async def end(self) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(PATIENCE):
            code = await self._process.wait()
            await self._reader
        return code

    async def kill(self) -> None:
        """SIGKILL, if it is still there, frozen or not."""
        if self._process.returncode is None:
            self._process.kill()
        await self.end()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._more:
                self.said.append(line.decode(errors="replace"))
                self._more.notify_all()
        async with self._more:
            self._over = True
            self._more.notify_all()


class Stage:
    """Where a show is given; made by `stage`.

    Args:
        settings: of the workers, besides the defaults.
    """

    def __init__(self, server: EmbeddedRedis, bus: AsyncBus, folder: Path, settings: Mapping[str, float]) -> None:
        self.server = server
        self.redis = redis.asyncio.Redis.from_url(server.url, socket_timeout=PATIENCE)
        self.observer = Observer(redis.asyncio.Redis.from_url(server.url))
        self.streams: list[Stream] = []
        self.workers: list[Worker] = []
        self._bus = bus
        self._folder = folder
        self._settings = {f"DELTABUS_{name.upper()}": str(value) for name, value in settings.items()}
        self._following: set[asyncio.Task[None]] = set()

    async def worker(self, *options: str) -> Worker:
        """Start a worker process; it takes jobs when this returns."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("DELTABUS_", "OPENAI_"))}
        environ |= {"DELTABUS_REDIS_URL": self.server.url, "PYTHONUNBUFFERED": "1", **self._settings}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "deltabus.cli", "worker", "chat", "--supervised", *options),
            cwd=self._folder,
            env=environ,
            stdin=asyncio.subprocess.PIPE,  # its end ends the worker, should this process be killed
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl+C is for this process
        )
        worker = Worker(process)
        self.workers.append(worker)
        await worker.says("worker started")
        return worker

    async def start(self, count: int, *, words: int, interval: float, stalls: int | None = None) -> list[Stream]:
        """Enqueue so many tasks of so many words, one every `interval` seconds, with a subscriber each.

        Args:
            stalls: words after which a first attempt says no more, and so does not end before it is struck.
        """
        names = [f"w{len(self.streams) + number}" for number in range(count)]
        pace: dict[str, float] = {"words": words, "interval": interval}
        if stalls is not None:
            pace |= {"stall_after": stalls, "fail_attempts": 1}
        hello = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
        requests = [hello | {"echo": {"text": name, **pace}} for name in names]
        tasks = await self._bus.chat_many(requests)
        started = [Stream(task, name, words) for task, name in zip(tasks, names, strict=True)]
        self.streams += started
        for stream in started:
            following = asyncio.create_task(stream.follow())
            self._following.add(following)
            following.add_done_callback(self._done)
        return started

    @property
    def in_flight(self) -> int:
        """How many streams have not ended."""
        return len(self._following)

    async def all_stream(self) -> None:
        """Wait until something of every answer has come."""
        async with asyncio.timeout(PATIENCE):
            for stream in self.streams:
                await stream.streams.wait()

    async def all_run_again(self) -> None:
        """Wait until every stream has begun anew."""
        async with asyncio.timeout(PATIENCE):
            for stream in self.streams:
                await stream.again.wait()

    async def all_end(self) -> None:
        """Wait until every subscriber has seen the end, and RQ has its record of it."""
        async with asyncio.timeout(PATIENCE):
            while self._following:
                await asyncio.wait(self._following)
            # The seal comes before the bookkeeping.
            while await self.redis.exists(*BOOKED):  # noqa: ASYNC110 # nobody tells
                await asyncio.sleep(LOOK)

    def _done(self, following: asyncio.Task[None]) -> None:
        self._following.discard(following)
        if not following.cancelled():
            following.result()

    async def close(self) -> None:
        """Kill what is left."""
        for worker in self.workers:
            await worker.kill()
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        await self.redis.aclose()


@contextlib.asynccontextmanager
async def stage(arguments: tuple[str, ...], **settings: float) -> AsyncIterator[Stage]:
    """A stage with an observer, and no workers yet.

    Args:
        arguments: of the Redis server.
        settings: of the workers, besides the defaults.
    """
    with tempfile.TemporaryDirectory(prefix="deltabus-show-") as folder, EmbeddedRedis(args=arguments) as server:
        async with AsyncBus(server.url) as bus:
            scene = Stage(server, bus, Path(folder), settings)
            await scene.observer.start()
            try:
                yield scene
            finally:
                await scene.close()
                await scene.observer.stop()
