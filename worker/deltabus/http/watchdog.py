"""Ends waits that take too long, with one timer for a whole answer instead of one for each read."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from deltabus.http.config import Timeouts
from deltabus.provider import DeadlineExceeded, ProviderTimeout, TaskError


class Watchdog:
    """Watches over one request.

    Until its answer begins, `sending` is a scope that cancels what takes too long. After that, each
    read is announced by `begin`, and `end` says that it is over. A read that takes too long makes the
    dog `bark`, which is to make the read fail; `error` then says why.

    A timer is armed only when none is due early enough, so a read of a busy stream costs none. Only
    waits count: time in which nobody reads is the consumer's.
    """

    def __init__(self, timeouts: Timeouts, deadline: float | None = None) -> None:
        """Start the clock.

        Args:
            timeouts: the limits.
            deadline: Unix time in seconds, of the task.
        """
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        start = self._loop.time()
        #: When the whole request is over (the loop's time), and as what.
        self._total = start + (timeouts.total or math.inf)
        self._over = "total"
        if deadline is not None and (due := start + deadline - time.time()) < self._total:
            self._total = due
            self._over = "deadline"
        self._first_byte = start + (timeouts.first_byte or math.inf)
        self._between_bytes = timeouts.between_bytes or math.inf
        self._phase = "first_byte"
        #: Of `sending`, while it lasts.
        self._scope: asyncio.Timeout | None = None
        #: When the wait under way is over; never, between waits.
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        #: When the timer rings; never, where there is none.
        self._armed = math.inf
        #: Called once, when a read takes too long.
        self.bark: Callable[[], object] = lambda: None
        #: It has barked.
        self.barked = False

    def sending(self) -> asyncio.Timeout:
        """A scope for sending the request and waiting for the answer's headers: `asyncio.timeout`'s.

        A body that is streamed may take as long as it moves: `fetching`, `writing` and `written` tell of its way.

        Raises:
            TaskError: it is too late to begin.
        """
        self._phase = "first_byte" if self._first_byte <= self._total else self._over
        due = min(self._first_byte, self._total)
        if due <= self._loop.time():
            raise self.error()
        self._scope = asyncio.timeout_at(None if due == math.inf else due)
        return self._scope

    def fetching(self) -> None:
        """The request's body waits for its source, which has limits of its own."""
        self._postpone("first_byte", math.inf)

    def writing(self) -> None:
        """A step of the request's body goes out, or has gone: `between_bytes` counts."""
        self._postpone("writing", self._between_bytes)

    def written(self) -> None:
        """The request's body has gone out: `first_byte` counts from here."""
        self._first_byte = self._loop.time() + (self._timeouts.first_byte or math.inf)
        self._postpone("first_byte", self._timeouts.first_byte or math.inf)

    def sent(self) -> None:
        """`sending` is over."""
        self._scope = None

    def begin(self, most: float = math.inf, *, first: bool = False) -> None:
        """A read of the body begins.

        Args:
            most: seconds that it may take even where the timeouts allow more.
            first: nothing of the body is here yet: `first_byte` counts, and not `between_bytes`.

        Raises:
            TaskError: the time of the whole request is over.
        """
        now = self._loop.time()
        if first:
            self._phase = "first_byte"
            due = min(self._first_byte, now + most)
        else:
            self._phase = "between_bytes"
            due = now + min(self._between_bytes, most)
        if self._total < due:
            self._phase = self._over
            due = self._total
            if due <= now:
                raise self.error()
        self._due = due
        if due < self._armed:
            self._arm()

    def end(self) -> None:
        """The read is over."""
        self._due = math.inf

    def leaves(self, seconds: float) -> bool:
        """Whether the whole request has more time than that."""
        return self._loop.time() + seconds < self._total

    def close(self) -> None:
        """Drop the timer; a later wait arms another."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._armed = math.inf

    def error(self) -> TaskError:
        """What it means that the wait took too long."""
        if self._phase == "deadline":
            return DeadlineExceeded("the task's deadline passed before the answer was complete")
        what, key = {
            "total": ("the answer was not complete", "total"),
            "first_byte": ("no answer began", "first_byte"),
            "writing": ("no more of the request was taken", "between_bytes"),
        }.get(self._phase, ("no byte came", "between_bytes"))
        limit = getattr(self._timeouts, key)
        return ProviderTimeout(f"{what} in time (timeouts.{key}" + (f" = {limit:g} s)" if limit else ")"))

    def _postpone(self, phase: str, seconds: float) -> None:
        """Give what is under way in `sending` another time to be over."""
        if self._scope is None or self._scope.expired():
            return
        due = self._loop.time() + seconds
        self._phase = phase
        if self._total < due:
            self._phase = self._over
            due = self._total
        self._scope.reschedule(None if due == math.inf else due)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = self._due
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._armed = math.inf
        if self._due <= self._loop.time():
            self.barked = True
            self.bark()
        elif self._due < math.inf:
            self._arm()  # It was armed for an earlier wait, which ended in time.
