"""Redis is away: said once, whoever of a worker meets it, and once more when all of them are served again.

Away is whatever keeps Redis from serving: it cannot be reached, hangs, loads its data, is a replica, has no
memory or no disk left. A worker meets that in several places at once, each of which tries again by itself.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from deltabus import telemetry
from deltabus.refusal import advice

#: Seconds after which an outage that lasts is worth another line.
REMINDER: Final = 60.0

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
        self._said = 0.0
        #: When the refusal that a duty meets was said last.
        self._refusals: dict[str, float] = {}

    def meets(self, duty: str, reason: object) -> None:
        """`duty` is not served, and tries again. To be called at each try."""
        now = self._clock()
        if (hint := advice(reason)) is not None:
            self._refused(duty, now, f"{_words(reason)}; {hint}")
            return
        if not self._met_by:
            telemetry.observer().outage(away=True)
            self._since = self._said = now
            _log.warning("Redis at %s is away, trying until it is back: %s", self._address, _words(reason))
        elif now - self._said >= REMINDER:
            self._said = now
            seconds = now - self._since
            _log.warning("Redis at %s has been away for %.0f s: %s", self._address, seconds, _words(reason))
        self._met_by.add(duty)

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
