"""Redis is away: said once, whoever of a worker meets it, and once more when all of them are served again.

Away is whatever keeps Redis from serving: it cannot be reached, hangs, loads its data. Where it is there, and takes no
writes, as a replica, or without memory or disk, that is said instead. A worker meets it in several places at once, each
of which tries again by itself.

A process that did not run for a while, as it was stopped, finds all its replies late: that is no outage.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from deltabus import telemetry
from deltabus.refusal import advice, no_writes

#: Seconds after which an outage that lasts is worth another line.
REMINDER: Final = 60.0

#: Seconds for which a process that did not run meets what has timed out meanwhile.
GRACE: Final = 5.0

#: Seconds that a loop does not run at the least, for that to be the reason of what is late.
LEAST_SLEEP: Final = 1.0

# The standard library's, because producers load this module too.
_log = logging.getLogger(__name__)


class Outage:
    """What one process knows of whether Redis serves it.

    Args:
        address: of Redis, without credentials.
        clock: seconds, monotonic.
    """

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._clock = clock
        self._met_by: set[str] = set()
        self._since = 0.0
        #: When each kind of it was said last: that it is away, or why it takes no writes.
        self._said: dict[str | None, float] = {}
        #: When the loop ran last, and how often it wants to, in seconds; 0.0: nobody says.
        self._ran = 0.0
        self._every = 0.0
        #: For how long it did not, where nobody was told yet, and until when.
        self._slept = 0.0
        self._woke = -GRACE
        #: When the refusal that a duty meets was said last.
        self._refusals: dict[str, float] = {}

    def meets(self, duty: str, reason: object) -> None:
        """`duty` is not served, and tries again. To be called at each try."""
        now = self._clock()
        if (hint := advice(reason)) is not None:
            self._refused(duty, now, f"{_words(reason)}; {hint}")
            return
        if self._is_just_late(now):
            return
        if not self._met_by:
            telemetry.observer().outage(away=True)
            self._since = now
            self._said.clear()
        self._met_by.add(duty)
        state = no_writes(reason)
        # Connections that break in a failover say less than the refusal that was told.
        said = self._said.get(state, -REMINDER) if state is not None else max(self._said.values(), default=-REMINDER)
        if now - said < REMINDER:
            return
        seconds = f" for {now - self._since:.0f} s" if state in self._said else ""
        self._said[state] = now
        if state is not None:
            what = f"has taken no writes{seconds}" if seconds else "is there and takes no writes, trying until it does"
        else:
            what = f"has been away{seconds}" if seconds else "is away, trying until it is back"
        _log.warning("Redis at %s %s: %s", self._address, what, state or _words(reason))

    def runs(self, every: float) -> None:
        """The loop runs. To be called on it every so many seconds."""
        self._look_back(now := self._clock())
        self._ran, self._every = now, every

    def is_over_for(self, duty: str) -> None:
        """`duty` is served."""
        if self._refusals.pop(duty, None) is not None:
            _log.info("Redis at %s lets this worker do again what it needs for: %s", self._address, duty)
        if duty not in self._met_by:
            return
        self._met_by.discard(duty)
        if not self._met_by:
            telemetry.observer().outage(away=False)
            _log.info("Redis at %s is back after %.1f s", self._address, self._clock() - self._since)

    def _look_back(self, now: float) -> None:
        """See whether the loop has not run for a while, until now."""
        if self._ran and (seconds := now - self._ran) > max(2 * self._every, LEAST_SLEEP):
            self._slept, self._woke = seconds, now
        self._ran = now

    def _is_just_late(self, now: float) -> bool:
        """Whether what is met may come of this process' not having run; that is said."""
        if self._ran:
            self._look_back(now)
        if now - self._woke >= GRACE:
            return False
        if self._slept:
            _log.warning(
                "this process did not run for %.1f s, as it was stopped, or its machine was, or had no time for it; "
                "what timed out meanwhile is tried again",
                self._slept,
            )
            self._slept = 0.0
        return True

    def _refused(self, duty: str, now: float, words: str) -> None:
        """It is there, and says no: said once for each duty, and again from time to time."""
        if now - self._refusals.get(duty, -REMINDER) >= REMINDER:
            self._refusals[duty] = now
            _log.error("Redis at %s refuses what this worker needs for: %s: %s", self._address, duty, words)


def _words(reason: object) -> str:
    """The reason, where it has words; an error of the operating system may have none."""
    words = str(reason) or type(reason).__name__
    if os.strerror(errno.EMFILE) in words:  # then it is not Redis
        words += " This process has no file left: raise its limit (LimitNOFILE=, ulimit -n), or lower `concurrency`"
    return words
