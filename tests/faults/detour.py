"""A worker's way to Redis, on which it can be struck between any two of its steps (see `chaos.proxy`)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from processes import PATIENCE

from chaos.proxy import POINTS, Point, Proxy, Then, Trap


class Detour:
    """A proxy on a loop and a thread of its own; a context manager.

    Args:
        url: of Redis.
    """

    def __init__(self, url: str) -> None:
        port = urlsplit(url).port
        assert port is not None
        self._proxy = Proxy(port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="detour")

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._proxy.__aenter__(), self._loop).result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._proxy.__aexit__(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return self._proxy.url

    def strike_at(self, point: str | Point, strike: Callable[[], object], then: Then) -> Callable[[], None]:
        """Strike once, at a point, named or made for the occasion; returns what waits until it has happened."""
        happened = threading.Event()

        def spring() -> None:
            strike()
            happened.set()

        def wait() -> None:
            assert happened.wait(PATIENCE), f"{point}: never reached"

        self._proxy.trap = Trap(POINTS[point] if isinstance(point, str) else point, spring, then)
        return wait

    def silence(self) -> None:
        """Let nothing through any more on the connections that there are, and say nothing."""
        self._loop.call_soon_threadsafe(self._proxy.silence)

    def resume(self) -> None:
        """Let through what was held."""
        self._loop.call_soon_threadsafe(self._proxy.resume)
