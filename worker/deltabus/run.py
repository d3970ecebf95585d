"""What a worker orders from the engine, and how it can end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from deltabus.context import Handler
from deltabus.envelope import Envelope
from deltabus.errors import DeltabusError, ErrorInfo
from deltabus.events import Terminal
from deltabus.telemetry import Watch


class HandBack(DeltabusError):
    """The worker is leaving: the attempt ends, and the task goes back to its queue uncharged."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The attempt ended because the worker leaves; the task goes to the front of its queue."""


@dataclass(frozen=True, slots=True)
class Parked:
    """The task waits for its next attempt outside the worker, for `delay` seconds."""

    delay: float
    #: Attempts that have failed so far.
    failures: int


@dataclass(frozen=True, slots=True)
class LeftToRQ:
    """The attempt failed, and RQ will run the job again (`retry=Retry(…)`)."""

    error: ErrorInfo


#: How a run ends: settled, or to be continued.
Ending = Terminal | HandedBack | Parked | LeftToRQ


@dataclass(slots=True, eq=False)
class Run:
    """One attempt as a worker orders it."""

    task: str
    queue: str
    handler: Handler
    #: The argument of the job, unchecked.
    argument: Any
    #: Seconds that RQ allows the job; below 0: no limit.
    timeout: float
    worker: str
    #: Unix time, in seconds, at which the worker ends the run by force, whichever attempt it is at.
    ends_at: float = float("inf")
    execution: str | None = None
    #: Seconds to keep the log after the end, where the job says so.
    result_ttl: int | None = None
    #: Attempts that failed before this run.
    failures: int = 0
    #: The worker can park a task that has long to wait.
    may_park: bool = False
    #: Seconds after which RQ runs the job again if it fails (`retry=Retry(…)`); None: it does not.
    rq_retries_in: float | None = None
    #: Whether RQ has recorded this ending: then the job was requeued on purpose, and a new round begins. Raises
    #: `Fenced` where this run is not the job's any more, as when somebody else has taken it over and settled it.
    is_booked: Callable[[Terminal], Awaitable[bool]] | None = None
    #: An attempt has begun: whatever ending is found from now on is one of this round.
    begun: bool = False
    #: Number of the newest attempt of this run, which is how many the task has had; None: none has begun.
    attempts: int | None = None
    #: When the job was enqueued, as RQ's hash of it says.
    enqueued: bytes = b""
    #: The argument, once it was found good.
    envelope: Envelope | None = None
    #: Of the newest attempt.
    watch: Watch | None = None
    interrupted: DeltabusError | None = None
    #: What `interrupt` cancels: set while the run may be interrupted.
    runner: asyncio.Task[Any] | None = None

    def interrupt(self, reason: DeltabusError) -> None:
        """End the attempt now: `CancelRequested`, `HandBack`, `Fenced` or `Sealed`. The first reason counts."""
        if self.interrupted is None:
            self.interrupted = reason
            if self.runner is not None:
                self.runner.cancel()
