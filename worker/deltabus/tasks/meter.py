"""Counts bytes on their way, and tells subscribers: a `progress` event every now and then, and one at the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from deltabus.context import Context
from deltabus.errors import DeltabusError
from deltabus.events import Progress
from deltabus.provider import Content

#: Seconds between two events of one task, at least; the one at the end comes when it comes.
INTERVAL: Final = 0.25


class Meter:
    """How far one transfer of an attempt is.

    Nobody who moves bytes waits for Redis, or gets an error that is the log's: events go out beside the
    transfer, one at a time. Only `finish` waits.

    Args:
        total: bytes in all, where that is known.
    """

    def __init__(self, context: Context, total: int | None = None) -> None:
        self._context = context
        self._total = total
        self._done = 0
        self._told = -1
        self._due = time.monotonic() + INTERVAL
        self._telling: asyncio.Task[None] | None = None

    def add(self, count: int) -> None:
        """So many more bytes are through."""
        self._done += count
        if self._total is not None:
            self._done = min(self._done, self._total)  # What is read twice is not twice as far.
        now = time.monotonic()
        if now >= self._due and self._telling is None and self._done > self._told:
            self._due = now + INTERVAL
            self._telling = asyncio.create_task(self._tell_beside())

    async def reach(self, done: int, total: int | None) -> None:
        """So many bytes are through, of so many: for those who count themselves."""
        self._total = total
        self.add(done - self._done)

    async def finish(self) -> None:
        """All are through: that is in the log when this returns.

        Raises:
            Fenced, Sealed, Internal: the attempt is over.
        """
        if self._telling is not None:
            await self._telling
        if self._done > self._told:
            await self._tell()

    async def aclose(self) -> None:
        """Tell nothing further."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    async def _tell_beside(self) -> None:
        try:
            # An attempt that is over interrupts its run by itself.
            with contextlib.suppress(DeltabusError):
                await self._tell()
        finally:
            self._telling = None

    async def _tell(self) -> None:
        done = self._done
        self._context.told = True
        attempt = self._context.attempt
        await attempt.emit(Progress(task=attempt.task, at=time.time(), done=done, total=self._total))
        self._told = done


class Metered(Content):
    """Bytes that are counted as they are read."""

    def __init__(self, content: Content, meter: Meter) -> None:
        self.name = content.name
        self.media_type = content.media_type
        self.size = content.size
        self._content = content
        self._meter = meter

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        async with aclosing(self._content.read(start, length)) as pieces:
            async for piece in pieces:
                yield piece
                self._meter.add(len(piece))
