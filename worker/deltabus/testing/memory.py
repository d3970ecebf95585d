"""A bus with a worker on it, in this process, without a server: for unit tests of programs that use the bus.

    def test_the_answer_is_kept():
        with memory_bus() as bus:
            assert my_service.ask(bus, "hello") == "hello"

    async with memory_bus() as bus: ...          # the same with an `AsyncBus`

    with memory_bus(crash_after=3) as bus: ...   # the worker dies behind event 1-3, and another takes over

Everything is what runs in production, but for the server: fakeredis (extra `testing`) stands in for it.
The echo provider answers, unless the settings name another. What the worker logs goes into `logging`. The bus is of use
inside its block, in the process that made it: elsewhere, where nobody works, its calls raise RuntimeError.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import redis
from redis.asyncio import Redis
from rq.defaults import RQ_KEY_PREFIX
from rq.intermediate_queue import IntermediateQueue

from deltabus import keys
from deltabus.blocking import Bus
from deltabus.bus import AsyncBus
from deltabus.direct import DirectBus
from deltabus.errors import ConfigError
from deltabus.monitoring.instruments import Instruments
from deltabus.session import Session
from deltabus.settings import Settings, load
from deltabus.testing import lines
from deltabus.testing.crash import Crash
from deltabus.worker import AsyncWorker

try:
    import fakeredis
except ImportError as exc:
    raise ConfigError("memory_bus() needs fakeredis: pip install 'deltabus[testing]'") from exc


def memory_bus(settings: Settings | None = None, *, crash_after: int | None = None) -> MemoryBus:
    """A bus of its own for one `with` block.

    Args:
        settings: for bus and worker; by default the defaults, whatever file and environment say.
        crash_after: once, the worker dies with all it runs, when the event of that number of some task is in its log:
            0 is `started`, and the terminal event counts as the next one behind the attempt's last. Another worker
            takes over at once. So that the numbers do not depend on the machine, each chunk is an event of its own
            (`max_pending_bytes` is 1).

    Raises:
        ValueError: `crash_after` is below 0.
        AssertionError: at the end of the block, where the worker did not die: a test that nothing happened to has
            shown nothing.
    """
    settings = load(environ={}) if settings is None else settings
    if crash_after is None:
        return MemoryBus(settings)
    if crash_after < 0:
        raise ValueError(f"crash_after={crash_after}: events are numbered from 0, which is `started`")
    return MemoryBus(replace(settings, max_pending_bytes=1), crash_after)


class MemoryBus:
    """Starts a worker and gives a bus: `with` a `Bus`, `async with` an `AsyncBus`."""

    def __init__(self, settings: Settings, crash_after: int | None = None) -> None:
        self._settings = settings
        self._server = fakeredis.FakeServer(server_type="redis", version=(7,))
        self._crash = None if crash_after is None else Crash(crash_after, fakeredis.FakeRedis(server=self._server))
        self._replaced = threading.Event()
        self._worker = _Worker(self._server, settings, self._crash, self._replace)
        self._thread = _hire(self._worker)
        self._block = _Block()
        self._bus: Bus | None = None
        self._async_bus: AsyncBus | None = None

    def __enter__(self) -> Bus:
        self._start()
        self._bus = _Bus(self._block, settings=self._settings, client=self._client())
        return self._bus

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._bus is not None
        if self._block.is_elsewhere:
            return
        self._bus.close()
        self._stop(error)

    async def __aenter__(self) -> AsyncBus:
        self._start()
        self._async_bus = _AsyncBus(self._block, settings=self._settings, client=self._client())
        return self._async_bus

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._async_bus is not None
        if self._block.is_elsewhere:
            return
        await self._async_bus.aclose()
        self._stop(error)

    def _start(self) -> None:
        lines.lead()
        self._thread.start()

    def _client(self) -> Redis:
        return fakeredis.FakeAsyncRedis(server=self._server)

    def _replace(self) -> None:
        """Put another worker in the place of one that has died: of its name, so that it takes over at once."""
        dead = self._worker
        try:
            with fakeredis.FakeRedis(server=self._server) as redis:
                # What comes of its lease running out, and nobody has to wait for that.
                redis.zadd(keys.workers(RQ_KEY_PREFIX), {dead.name: 0})
                for queue in dead.queues:
                    intermediate = IntermediateQueue.get_intermediate_queue_key(queue.key)
                    while redis.lmove(intermediate, queue.key, "RIGHT", "LEFT"):
                        pass
            self._worker = _Worker(self._server, self._settings, name=dead.name)
            self._thread = _hire(self._worker)
            self._thread.start()
        finally:
            self._replaced.set()

    def _stop(self, error: BaseException | None) -> None:
        """End the worker; tasks that still run are dropped with their bus."""
        self._block.is_over = True
        try:
            self._dismiss(error)
        finally:
            lines.leave()

    def _dismiss(self, error: BaseException | None) -> None:
        alive = self._crash is None or self._crash.call_off()
        if not alive:
            self._replaced.wait()
        self._worker.began.wait()
        self._worker.stop()
        self._thread.join()
        if self._crash is not None:
            self._crash.close()
            if alive and error is None:
                raise AssertionError(self._crash.explain())


class _Block:
    """Where somebody works on what is enqueued: in a `with` block, in one process."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self.is_over = False

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a fork of the process."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Refuse what would wait for ever.

        Raises:
            RuntimeError: it says why.
        """
        if self.is_elsewhere:
            raise RuntimeError("this memory_bus() belongs to another process, its worker too: make one after the fork")
        if self.is_over:
            raise RuntimeError("the block of this memory_bus() is over, and its worker gone: use the bus inside `with`")


class _Bus(Bus):
    def __init__(self, block: _Block, **options: Any) -> None:
        super().__init__(**options)
        self._block = block

    def _here(self) -> DirectBus:
        self._block.check()
        return super()._here()


class _AsyncBus(AsyncBus):
    def __init__(self, block: _Block, **options: Any) -> None:
        super().__init__(**options)
        self._block = block

    def _open(self) -> Session:
        self._block.check()
        return super()._open()


def _hire(worker: _Worker) -> threading.Thread:
    """The thread of a worker."""

    def work() -> None:
        try:
            worker.work()
        finally:
            worker.began.set()

    return threading.Thread(target=work, name="deltabus memory worker", daemon=True)


class _Unwatched(Instruments):
    """Those of a worker whose loop may stand still: in a debugger, or because it is dead."""

    @contextlib.contextmanager
    def looked_after(
        self, settings: Settings, connection: redis.Redis, queues: Sequence[str], told: Callable[[float], None]
    ) -> Iterator[None]:
        yield


class _Worker(AsyncWorker):
    """An AsyncWorker on a fake server, in a thread, that leaves the program's logging alone.

    Args:
        crash: when it dies; None: never.
        on_death: called then, on its thread.
    """

    def __init__(
        self,
        server: fakeredis.FakeServer,
        settings: Settings,
        crash: Crash | None = None,
        on_death: Callable[[], None] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self._server = server
        self._crash = crash
        self._on_death = on_death
        #: Set once the worker can be stopped, or has stopped.
        self.began = threading.Event()
        connection = fakeredis.FakeRedis(server=server)
        if crash is not None:
            crash.befall(connection)
        super().__init__(settings.queues, name, connection=connection, settings=replace(settings, drain_timeout=0.0))
        self._instruments = _Unwatched(None)

    def open_redis(self) -> Redis:
        self.began.set()
        client = fakeredis.FakeAsyncRedis(server=self._server)
        if self._crash is not None:
            self._crash.befall(client)
        return client

    def _live(self, work: Coroutine[Any, Any, int]) -> int:
        if self._crash is None or self._on_death is None:
            return super()._live(work)
        return self._crash.live(work, self._on_death)

    def _configure_logs(self, level: str | None) -> None:
        pass

    def teardown(self) -> Any:
        super().teardown()  # type: ignore[no-untyped-call]
        self.connection.close()
