"""Time that flies: limits of minutes run out at once, and none of them runs out because the machine is slow."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeVar

_T = TypeVar("_T")

#: Seconds; a limit that only time that flies can reach.
LONG = 60


def pass_by(seconds: float) -> None:
    """So much time has passed on the running loop, as far as anybody on it can tell."""
    loop: Any = asyncio.get_running_loop()
    loop.ahead = ahead = getattr(loop, "ahead", 0.0) + seconds
    loop.time = lambda: time.monotonic() + ahead


async def fly(task: asyncio.Task[_T]) -> _T:
    """What comes of a task while time flies: `LONG` in each turn of the loop."""
    while not task.done():
        pass_by(LONG)
        await asyncio.sleep(0)
    return task.result()
