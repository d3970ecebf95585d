"""A bus with a worker on it, in this process, without a server: for unit tests of programs that use the bus.

    def test_the_answer_is_kept():
        with memory_bus() as bus:
            assert my_service.ask(bus, "hello") == "hello"

    async with memory_bus() as bus: ...          # the same with an `AsyncBus`

Everything is what runs in production, but for the server: fakeredis (extra `testing`) stands in for it.
The echo provider answers, unless the settings name another.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from types import TracebackType
from typing import Any

from redis.asyncio import Redis

from deltabus.blocking import Bus
from deltabus.bus import AsyncBus
from deltabus.errors import ConfigError
from deltabus.settings import Settings, load
from deltabus.worker import AsyncWorker

try:
    import fakeredis
except ImportError as exc:
    raise ConfigError("memory_bus() needs fakeredis: pip install 'deltabus[testing]'") from exc


def memory_bus(settings: Settings | None = None) -> MemoryBus:
    """A bus of its own for one `with` block.

    Args:
        settings: for bus and worker; by default the defaults, whatever file and environment say.
    """
    return MemoryBus(load(environ={}) if settings is None else settings)


class MemoryBus:
    """Starts a worker and gives a bus: `with` a `Bus`, `async with` an `AsyncBus`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = fakeredis.FakeServer(server_type="redis", version=(7,))
        self._worker = _Worker(self._server, settings)
        self._thread = threading.Thread(target=self._worker.work, name="deltabus memory worker", daemon=True)
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

    def _stop(self) -> None:
        """End the worker; tasks that still run are dropped with their bus."""
        self._worker.began.wait()
        self._worker.stop()
        self._thread.join()


class _Worker(AsyncWorker):
    """An AsyncWorker on a fake server, in a thread, that leaves the program's logging alone."""

    def __init__(self, server: fakeredis.FakeServer, settings: Settings) -> None:
        self._server = server
        #: Set once the worker can be stopped.
        self.began = threading.Event()
        connection = fakeredis.FakeRedis(server=server)
        super().__init__(settings.queues, connection=connection, settings=replace(settings, drain_timeout=0.0))

    def open_redis(self) -> Redis:
        self.began.set()
        return fakeredis.FakeAsyncRedis(server=self._server)

    def _configure_logs(self, level: str | None) -> None:
        pass

    def teardown(self) -> Any:
        super().teardown()  # type: ignore[no-untyped-call]
        self.connection.close()
