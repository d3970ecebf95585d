"""How long the kit waits: by silence and not by the clock, so that a slow machine fails no plugin.

What counts against a plugin is time in which nothing happens at all: there is nothing to run, to read or to write. And
it counts only as far as the test had the processor: where the machine keeps it away for seconds, that is one wait like
any other. An endpoint in a thread or a process of its own has had as many turns by then.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Collection
from typing import Any, Final

#: Seconds after which a wait ends to look again; the most that one wait counts, however long the machine makes it.
_TURN: Final = 0.05
#: Times the patience that everything may take where things happen without end, or the loop spins.
UTMOST: Final = 10


class PatientLoop(asyncio.SelectorEventLoop):
    """A loop that knows how long nothing has happened on it."""

    def __init__(self) -> None:
        self._ear = _Ear()
        super().__init__(self._ear)

    async def wait(self, tasks: Collection[asyncio.Future[Any]], patience: float) -> bool:
        """Wait until one of the tasks is done; False where patience is over before.

        Args:
            tasks: not cancelled where patience is over.
            patience: seconds of silence until something is heard. Ten times as long is the end in any case.
        """
        ear = self._ear
        heard, since, start = ear.heard, ear.silence, ear.time
        while not any(task.done() for task in tasks):
            if heard != ear.heard:
                heard, since = ear.heard, ear.silence
            if ear.silence - since >= patience or ear.time - start >= patience * UTMOST:
                return False
            await asyncio.wait(tasks, timeout=_TURN, return_when=asyncio.FIRST_COMPLETED)
        return True


class _Ear(selectors.DefaultSelector):
    """Counts what happens, and the seconds in which nothing does."""

    def __init__(self) -> None:
        super().__init__()
        #: Waits that ended because something happened.
        self.heard = 0
        #: Seconds in all that were waited in vain, and seconds in all, as far as they count.
        self.silence = 0.0
        self.time = 0.0
        self._last = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        before = time.monotonic()
        ready = super().select(_TURN if timeout is None else min(timeout, _TURN))
        now = time.monotonic()
        self.time += min(now - self._last, _TURN)
        self._last = now
        if ready:
            self.heard += 1
        elif timeout is None or timeout > 0:  # else there was something to run
            self.silence += min(now - before, _TURN)
        return ready
