"""A bus with a worker on it, in this process, without a server: for unit tests of programs that use the bus.

    def test_the_answer_is_kept():
        with memory_bus() as bus:
            assert my_service.ask(bus, "hello") == "hello"

    async with memory_bus() as bus: ...          # the same with an `AsyncBus`

    with memory_bus(crash_after=3) as bus: ...   # the worker dies behind event 1-3, and another takes over

Everything is what runs in production, but for the server: fakeredis (extra `testing`) stands in for it.
The echo provider answers, unless the settings name another.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

from redis.asyncio import Redis

from deltabus import events, keys
from deltabus.blocking import Bus
from deltabus.bus import AsyncBus
from deltabus.errors import ConfigError
from deltabus.settings import Settings, load
from deltabus.worker import AsyncWorker

try:
    import fakeredis
except ImportError as exc:
    raise ConfigError("memory_bus() needs fakeredis: pip install 'deltabus[testing]'") from exc


#: Seconds between two tries to stop a worker, of which another may be about to take the place.
_LOOK: Final = 0.05


def memory_bus(settings: Settings | None = None, *, crash_after: int | None = None) -> MemoryBus:
    """A bus of its own for one `with` block.

    Args:
        settings: for bus and worker; by default the defaults, whatever file and environment say.
        crash_after: once, the worker dies with all it runs, when the event of that number of some task's first attempt
            is out (0 is `started`). Another takes over: what a subscriber sees of it is a second attempt.
    """
    return MemoryBus(load(environ={}) if settings is None else settings, crash_after)


class MemoryBus:
    """Starts a worker and gives a bus: `with` a `Bus`, `async with` an `AsyncBus`."""

    def __init__(self, settings: Settings, crash_after: int | None = None) -> None:
        self._settings = settings
        self._server = fakeredis.FakeServer(server_type="redis", version=(7,))
        self._worker = _Worker(self._server, settings, crash_after)
        self._thread = threading.Thread(target=self._work, name="deltabus memory worker", daemon=True)
        self._leaving = False
        self._bus: Bus | None = None
        self._async_bus: AsyncBus | None = None

    def __enter__(self) -> Bus:
        self._thread.start()
        self._bus = Bus(settings=self._settings, client=self._client())
        return self._bus

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._bus is not None
        self._bus.close()
        self._stop()

    async def __aenter__(self) -> AsyncBus:
        self._thread.start()
        self._async_bus = AsyncBus(settings=self._settings, client=self._client())
        return self._async_bus

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._async_bus is not None
        await self._async_bus.aclose()
        self._stop()

    def _client(self) -> Redis:
        return fakeredis.FakeAsyncRedis(server=self._server)

    def _work(self) -> None:
        """Run the worker; behind one that has died, another of its name, which takes over at once."""
        try:
            self._worker.work()
        except _Crash:
            self._worker = _Worker(self._server, self._settings, name=self._worker.name)
            if not self._leaving:
                self._worker.work()

    def _stop(self) -> None:
        """End the worker; tasks that still run are dropped with their bus."""
        self._leaving = True
        while self._thread.is_alive():
            if self._worker.began.wait(_LOOK):
                self._worker.stop()
            self._thread.join(_LOOK)


class _Crash(Exception):
    """The worker is to die now."""


class _Worker(AsyncWorker):
    """An AsyncWorker on a fake server, in a thread, that leaves the program's logging alone."""

    def __init__(
        self,
        server: fakeredis.FakeServer,
        settings: Settings,
        crash_after: int | None = None,
        name: str | None = None,
    ) -> None:
        self._server = server
        self._crash_after = crash_after
        self._crashed = False
        #: Set once the worker can be stopped.
        self.began = threading.Event()
        connection = fakeredis.FakeRedis(server=server)
        super().__init__(settings.queues, name, connection=connection, settings=replace(settings, drain_timeout=0.0))

    def open_redis(self) -> Redis:
        self.began.set()
        return fakeredis.FakeAsyncRedis(server=self._server)

    async def _work(self, **options: Any) -> int:
        if self._crash_after is None:
            return await super()._work(**options)
        async with fakeredis.FakeAsyncRedis(server=self._server).pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.psubscribe(keys.events("*"))
            work = asyncio.create_task(super()._work(**options))
            crash = asyncio.create_task(self._come_to(pubsub, f"1-{self._crash_after}"))
            await asyncio.wait([work, crash], return_when=asyncio.FIRST_COMPLETED)
            if crash.done():
                self._crashed = True
                raise _Crash  # what still runs is cancelled with the loop, and books nothing
            crash.cancel()
            return await work

    async def _come_to(self, pubsub: Any, event_id: str) -> None:
        async for message in pubsub.listen():
            if events.decode(message["data"]).id == event_id:
                return

    def _configure_logs(self, level: str | None) -> None:
        pass

    def _sign_off(self, *, keep_lease: bool) -> None:
        if self._crashed:  # it says nothing; and nobody has to wait for its lease to run out
            self.connection.zadd(keys.WORKERS, {self.name: 0})
            self.connection.close()
        else:
            super()._sign_off(keep_lease=keep_lease)

    def teardown(self) -> Any:
        super().teardown()  # type: ignore[no-untyped-call]
        self.connection.close()
