"""Ends a wait that takes too long, with one timer for a whole answer instead of one for each read."""

from __future__ import annotations

import asyncio
import math
import time
from types import TracebackType
from typing import Self

from deltabus.provider import DeadlineExceeded, ProviderTimeout, TaskError
from deltabus_openai.config import Timeouts


class Watchdog:
    """Watches the waits of one request.

    Usage::

        with watchdog.first_byte():
            await …  # raises ProviderTimeout or DeadlineExceeded when it takes too long

    Like `asyncio.timeout`, it cancels the task that waits, and turns its own cancellation, and no
    other, into an error. Unlike it, it arms a timer only when none is due early enough, so a read of
    a busy stream costs no timer; and only waits count: time in which nobody reads does not.
    """

    def __init__(self, timeouts: Timeouts, deadline: float | None = None) -> None:
        """Start the clock.

        Args:
            timeouts: the limits.
            deadline: Unix time in seconds, of the task.
        """
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        #: When the whole request is over (the loop's time), and as what.
        self._total = self._start + (timeouts.total or math.inf)
        self._over = "total"
        if deadline is not None and (due := self._start + deadline - time.time()) < self._total:
            self._total = due
            self._over = "deadline"
        self._timer: asyncio.TimerHandle | None = None
        self._armed = math.inf
        #: The task that waits; None between waits.
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._due = math.inf
        self._phase = ""
        self._expired = False

    def first_byte(self, most: float = math.inf) -> Self:
        """A wait for the first byte of the answer's body, counted from the start of the request.

        Args:
            most: seconds that this wait may take even where the timeouts allow more.
        """
        self._phase = "first_byte"
        self._due = min(self._start + (self._timeouts.first_byte or math.inf), self._loop.time() + most)
        return self

    def next_byte(self, most: float = math.inf) -> Self:
        """A wait for more of the body; `most` as in `first_byte`."""
        self._phase = "between_bytes"
        self._due = self._loop.time() + min(self._timeouts.between_bytes or math.inf, most)
        return self

    def close(self) -> None:
        """Drop the timer; a later wait arms another."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._armed = math.inf

    def __enter__(self) -> None:
        if self._total < self._due:
            self._due = self._total
            self._phase = self._over
        if self._due < self._armed:
            if self._due <= self._loop.time():
                raise self._error()
            self._arm()
        task = asyncio.current_task()
        assert task is not None  # A coroutine that awaits runs in a task.
        self._cancelling = task.cancelling()
        self._task = task

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._expired:
            self._expired = False
            assert task is not None  # Only a wait expires.
            # Whoever else cancelled the task wants it gone, and not an error.
            if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                raise self._error() from exc

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = self._due
        self._timer = self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._armed = math.inf
        if self._task is None:
            return  # Nobody waits; the next wait arms anew.
        if self._loop.time() < self._due:
            self._arm()  # It was armed for an earlier wait, which ended in time.
            return
        self._expired = True
        self._task.cancel()

    def _error(self) -> TaskError:
        if self._phase == "deadline":
            return DeadlineExceeded("the task's deadline passed before the answer was complete")
        what = {"total": "the answer was not complete", "first_byte": "no answer began"}.get(
            self._phase, "no byte came"
        )
        limit = getattr(self._timeouts, self._phase)
        return ProviderTimeout(f"{what} in time (timeouts.{self._phase}" + (f" = {limit:g} s)" if limit else ")"))
