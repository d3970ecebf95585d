"""Threads for what blocks: files, and storage clients. The loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Reads and writes of one kind that a process has under way at once.
THREADS: Final = 8


class Closable(Protocol):
    """Something that must not be left open."""

    def close(self) -> Any: ...


C = TypeVar("C", bound=Closable)


class Threads:
    """A few threads; they start when they are needed.

    Args:
        name: what they are for.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, f"deltabus-{name}")

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` in a thread. If the caller is cancelled, it goes on all the same: it must not matter."""
        return await asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))

    async def open(self, make: Callable[P, C], /, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call `make` in a thread; what it opens is closed if the caller is cancelled meanwhile."""
        future = self._pool.submit(make, *args, **kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(_close)
            raise

    async def aclose(self) -> None:
        """End the threads, when what they do is done."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def _close(future: Future[C]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
