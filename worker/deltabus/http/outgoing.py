"""A request's body that is streamed: of a known size, sent once, never held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import AsyncGeneratorType
from typing import cast

from deltabus.http.watchdog import Watchdog
from deltabus.provider import InvalidRequest

#: Bytes that are handed to the connection at a time: small enough that a slow line is seen to move.
STEP = 128 * 1024


class Outgoing:
    """The body. Whoever makes it closes it, after its exchange.

    Args:
        size: bytes: exactly what `pieces` will bring.
        pieces: closed with this.
    """

    def __init__(self, size: int, pieces: AsyncGenerator[bytes]) -> None:
        self.size = size
        #: Bytes that the connection has taken.
        self.sent = 0
        #: What the source raised: why there is no answer.
        self.failure: Exception | None = None
        #: Told of each step of the way.
        self.watchdog: Watchdog | None = None
        self._pieces = pieces
        self._sending: AsyncGeneratorType[bytes, None] | None = None
        #: Nobody reads from `pieces` any more.
        self._idle = asyncio.Event()

    @property
    def complete(self) -> bool:
        """All of it has been taken."""
        return self.sent == self.size

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._sending = cast("AsyncGeneratorType[bytes, None]", self._send())
        return self._sending

    async def aclose(self) -> None:
        """Close the source. Whoever was sending has been cancelled before."""
        if self._sending is not None:
            if self._sending.ag_running:
                await self._idle.wait()
            await self._sending.aclose()
        await self._pieces.aclose()

    async def _send(self) -> AsyncGenerator[bytes]:
        watchdog = self.watchdog
        assert watchdog is not None
        try:
            while True:
                watchdog.fetching()
                piece = await anext(self._pieces, b"")
                if not piece:
                    break
                self._check(self.sent + len(piece) > self.size, "more")
                watchdog.writing()
                for place in range(0, len(piece), STEP):
                    step = memoryview(piece)[place : place + STEP]
                    yield step  # type: ignore[misc]  # A view of bytes is as good, and copies nothing.
                    self.sent += len(step)
                    watchdog.writing()
            self._check(self.sent < self.size, "fewer")
            watchdog.written()
        except Exception as exc:
            self.failure = exc
            raise
        finally:
            self._idle.set()

    def _check(self, wrong: bool, which: str) -> None:
        if wrong:
            raise InvalidRequest(f"the source has {which} bytes than the {self.size} that it said it had")
