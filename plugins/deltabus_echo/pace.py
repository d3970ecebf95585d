"""When the next chunk is due: streams that are due in the same millisecond share one timer.

A timer for each chunk costs more than the chunk itself, and this provider stands in for servers
where a thousand streams are measured at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

#: Wake-ups are gathered to so many in a second.
TICKS: Final = 1000


class Pace:
    """The wake-ups of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._sleepers: dict[int, list[asyncio.Future[None]]] = {}

    async def until(self, due: float) -> None:
        """Sleep until `due`, on the loop's clock, or a tick longer; always let others run."""
        if due <= self.loop.time():
            await asyncio.sleep(0)
            return
        tick = int(due * TICKS) + 1
        sleeper = self.loop.create_future()
        sleepers = self._sleepers.get(tick)
        if sleepers is None:
            self._sleepers[tick] = [sleeper]
            self.loop.call_at(tick / TICKS, self._wake, tick)
        else:
            sleepers.append(sleeper)
        await sleeper

    def _wake(self, tick: int) -> None:
        for sleeper in self._sleepers.pop(tick):
            if not sleeper.done():  # Its stream may have been cancelled.
                sleeper.set_result(None)
