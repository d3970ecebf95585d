"""Lets streams rest between two reads while their process is busy, so that a read brings more than one chunk.

What a chunk costs is for the most part what a read costs. With 500 streams of 50 chunks a second, a chunk takes 34 us
of CPU where no stream rests, and 22 with these. It is late for it: 35 ms in the median, in place of 2 to 7. But the
first of an answer, before which nothing rests, comes after 4 or 5 ms instead of 13 to 67, as nobody is in its way.
Network cards know this as interrupt moderation. A process that has time to spare reads at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from time import perf_counter
from typing import Final

#: Share of a core from which a process counts as busy: what is left is for bursts.
BUSY: Final = 0.6

#: Shortest and longest rest, in seconds. Text that comes ten times a second still flows.
REST: Final = (0.005, 0.1)

#: Factors by which rests get longer, and shorter.
CHANGE: Final = (1.5, 0.9)

#: Seconds between two looks at how busy the process is.
PERIOD: Final = 0.1

#: Chunks of a read, in units of what they were before, that rests of half the longest are to bring; otherwise they are
#: given up for `AGAIN` seconds: streams that say something five times a second would only be late.
WORTH: Final = 1.3
AGAIN: Final = 10.0


class Pace:
    """That of the streams of one client, which are all on one loop.

    Args:
        clock: seconds that pass.
        cpu: seconds that this thread works.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter, cpu: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._cpu = cpu
        self._rest = 0.0
        #: Reads and chunks since the last look, when that was, and how much had been worked by then.
        self._reads = 0
        self._chunks = 0
        self._looked = clock()
        self._worked = cpu()
        #: Chunks of a read before the streams rested.
        self._before = 1.0
        #: When rests may be tried again that were of no use.
        self._again = -math.inf

    def rest(self, chunks: int) -> float:
        """Seconds for which a stream is to rest that has just read so many chunks, one at least, and all there were."""
        self._reads += 1
        self._chunks += chunks
        now = self._clock()
        if now - self._looked >= PERIOD:
            self._look(now)
        return self._rest

    def _look(self, now: float) -> None:
        worked = self._cpu()
        seconds = now - self._looked
        busy = (worked - self._worked) / seconds
        chunks = self._chunks / self._reads
        self._looked, self._worked, self._reads, self._chunks = now, worked, 0, 0
        shortest, longest = REST
        longer, shorter = CHANGE
        if seconds > 10 * PERIOD:
            self._rest = 0.0  # hardly anything was read since
        elif busy <= BUSY:
            self._rest *= shorter
            if self._rest < shortest:
                self._rest = 0.0
        elif self._rest >= longest / 2 and chunks < WORTH * self._before:
            self._rest, self._again = 0.0, now + AGAIN
        elif now >= self._again:
            if not self._rest:
                self._before = chunks
            self._rest = min(longest, max(shortest, self._rest * longer))
