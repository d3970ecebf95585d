"""A stable address in front of Redis: led to another server, cut, gone dead without a word, or slow."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from processes import PATIENCE

from deltabus.testing.door import settle, shut


class Line:
    """A proxy on a loop and a thread of its own; a context manager. Its methods may be called from any thread.

    Args:
        url: of the server that it leads to, at first.
    """

    def __init__(self, url: str) -> None:
        self._target = _port(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line")
        self._writers: set[asyncio.StreamWriter] = set()
        self._dead: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._opened = threading.Semaphore(0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """The stable address."""
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    def lead_to(self, url: str) -> None:
        """New connections lead there. Those that are open stay where they are."""
        self._target = _port(url)

    def cut(self) -> None:
        """Reset every connection."""
        self._loop.call_soon_threadsafe(self._abort)

    def die(self) -> None:
        """Swallow whatever comes on the connections that are open, and tell nobody. New ones are fine."""
        self._loop.call_soon_threadsafe(lambda: self._dead.update(self._writers))

    def slow_down(self, seconds: float) -> None:
        """Hold each portion back for so long."""
        self._delay = seconds

    def wait_for_new(self, count: int = 1) -> None:
        """Wait until somebody has tried so often to connect, beyond what was waited for already."""
        for _ in range(count):
            assert self._opened.acquire(timeout=PATIENCE), "nobody connects"

    def forget_new(self) -> None:
        """Count connections from here."""
        while self._opened.acquire(blocking=False):
            pass

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _close(self) -> None:
        await shut(self._server)
        await settle()  # each has begun by then: one that is cancelled before closes nothing
        self._abort()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        await settle()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        writers = {writer}
        self._opened.release()
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
                writers.add(server_writer)
                self._writers |= writers
                pumps = [
                    asyncio.create_task(self._pump(reader, server_writer)),
                    asyncio.create_task(self._pump(server_reader, writer)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for end in writers:
                end.transport.abort()
            self._writers -= writers
            self._dead -= writers
            self._passing.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 18):
            if self._delay:
                await asyncio.sleep(self._delay)
            if writer not in self._dead:
                writer.write(data)
                await writer.drain()


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port
