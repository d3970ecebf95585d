"""When the timers of a process that idles fire: together, so that they share a wake-up.

Others take the caches of a process that sleeps. To wake costs half a millisecond, far more than what it wakes for.
"""

from __future__ import annotations

import random
import time
from typing import Final

#: Longest period, in seconds, and the part of a lease that it is at most: whoever looks waits for a whole lease.
LONGEST: Final = 2.5
PARTS: Final = 4

#: Part of a period that a timer may come late instead of at once again.
_SLACK: Final = 0.1

#: Seconds by which this process wakes later than others: Redis hears from one after the other.
_PHASE: Final = random.uniform(0, LONGEST)  # noqa: S311 # it hides nothing


def period(lease: float) -> float:
    """Seconds from one wake-up to the next, of a worker with a lease of so many seconds."""
    return min(LONGEST, lease / PARTS)


def pause(period: float) -> float:
    """Seconds until all timers of this period fire; those of its half do so as well."""
    left = period - (time.monotonic() - _PHASE) % period
    return left if left > _SLACK * period else left + period
