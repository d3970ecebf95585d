"""What happens in a worker, told to whoever wants to know: metrics, health, traces, the log of tasks.

Core calls an `Observer` at few points and imports no library for it. The worker says once who observes,
on its loop, before it starts anything there; everything that runs on that loop then finds it::

    telemetry.observe(Observers(TaskLog(...), Metrics(...)))    # AsyncWorker
    telemetry.observer().reconnected("log")                     # core
    telemetry.watch()                                           # the attempt in whose task this code runs, or None

**An observer** overrides the methods of `Observer` that it cares for; all others cost nothing. They are called
on the worker's loop, from where the thing happens, so they neither block nor await. What one raises is logged
and harms nobody.

**A `Watch`** is one attempt: its facts and its clock readings. Of one task come, in this order::

    taken  begun (calling answered* failed?)+ settled? ended  begun …  freed

- `begun`: the attempt's `started` is in the log. `calling`: the task function is called, once more for each try
  that subscribers need not know of. `answered`: an endpoint's HTTP status. `failed`: the try failed.
- `settled`: the task's terminal event is in the log, written by this worker. A task that is refused before any
  attempt is settled without `begun` and `ended`: its watch has attempt 0.
- `ended`: the attempt is over, however that came: each `begun` has one.

An observer that remembers something of an attempt keeps it in a dict of its own, by the watch, from `begun` to
`ended`. The envelope of the task, with its `trace` and `tenant`, is in the watch.

A task or a timer that is made while an attempt runs and goes on for others gets the context `aside()`, or its log
lines would name that attempt.

**Per delta** nobody is called but the watch, which counts and reads the clock. An observer that wants every gap
between two deltas puts a function into `watch.gaps`, and one that wants the time that each append took into
`watch.appends`: from `begun` or `first_delta`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, Token, copy_context
from time import perf_counter
from typing import Any, Final

from deltabus import rqdate
from deltabus.envelope import Envelope
from deltabus.errors import TaskError
from deltabus.events import Terminal

# The standard library's, because producers load this module too.
_log = logging.getLogger(__name__)

_NONE: Final[Mapping[str, str]] = {}


class Watch:
    """One attempt at a task. Times are seconds of `time.perf_counter`; 0.0: it has not come to that."""

    __slots__ = (
        "_submitted",
        "appends",
        "attempt",
        "began",
        "called",
        "deltas",
        "enqueued",
        "envelope",
        "first_delta",
        "function",
        "gaps",
        "last_delta",
        "observer",
        "provider",
        "queue",
        "server",
        "task",
        "trace_headers",
        "tries",
        "worker",
    )

    def __init__(
        self,
        task: str,
        queue: str,
        attempt: int,
        worker: str,
        envelope: Envelope | None = None,
        *,
        enqueued: bytes = b"",
        function: str = "",
    ) -> None:
        self.task = task
        self.queue = queue
        #: From 1; 0: the task was settled without one.
        self.attempt = attempt
        self.worker = worker
        #: None: it was never read.
        self.envelope = envelope
        #: When the job was enqueued, as RQ's hash of it says; see `enqueued_at`.
        self.enqueued = enqueued
        #: Name of the task function, as `chat`.
        self.function = function
        self.observer = observer()
        #: The configured provider that serves it; empty until that is known.
        self.provider = ""
        #: Host and port that the provider was asked at.
        self.server: tuple[str, int] | None = None
        #: W3C headers of the call under way, where traces are made, for providers that are to have them.
        self.trace_headers: Mapping[str, str] = _NONE
        #: Calls of the task function.
        self.tries = 0
        self.deltas = 0
        self.began = perf_counter()
        #: The newest call of the task function.
        self.called = 0.0
        self.first_delta = 0.0
        self.last_delta = 0.0
        self._submitted = 0.0
        #: Called with the seconds between two deltas.
        self.gaps: Callable[[float], None] | None = None
        #: Called with the seconds from handing an event over to its being in the log.
        self.appends: Callable[[float], None] | None = None

    @property
    def model(self) -> str:
        """The model that the producer asked for: any string, and empty where there was none."""
        model = None if self.envelope is None else self.envelope.request.get("model")
        return model if isinstance(model, str) else ""

    @property
    def tenant(self) -> str:
        """Whom the producer wants the task accounted to: any string, and empty where it does not say."""
        return "" if self.envelope is None else self.envelope.tenant or ""

    @property
    def enqueued_at(self) -> float:
        """When the job was enqueued, by the producer's clock: Unix time in seconds, 0.0 where nobody knows."""
        return rqdate.unix(self.enqueued)

    @property
    def seconds(self) -> float:
        """Since the attempt began."""
        return perf_counter() - self.began

    def call(self) -> None:
        """The task function is called."""
        self.called = perf_counter()
        self.tries += 1
        self.observer.calling(self)

    def delta(self) -> None:
        """A chunk has come."""
        now = perf_counter()
        if self.deltas:
            if self.gaps is not None:
                self.gaps(now - self.last_delta)
            self.last_delta = now
            self.deltas += 1
        else:
            self.first_delta = self.last_delta = now
            self.deltas = 1
            self.observer.first_delta(self)

    def submit(self) -> None:
        """An event is handed over to be appended."""
        self._submitted = perf_counter()

    def land(self) -> None:
        """It is in the log."""
        if self.appends is not None:
            self.appends(perf_counter() - self._submitted)


class Observer:
    """Somebody who wants to know; as it stands, nobody."""

    # A worker's life.

    def started(self, slots: int) -> None:
        """The worker has its lease, and takes jobs from now on, so many at once."""

    def provider(self, name: str, problem: str | None) -> None:
        """A configured provider is ready, or cannot be used, and why."""

    def suspended(self, on: bool) -> None:
        """RQ's suspension switch was seen: nothing is taken while it is on. Said at each look."""

    def draining(self) -> None:
        """Nothing is taken any more. It may be said more than once."""

    def outage(self, away: bool) -> None:
        """Redis does not serve this worker, or does so again."""

    def reconnected(self, line: str) -> None:
        """A connection to Redis was made anew: of the `log`, the `records`, a `queue` or the `commands`."""

    def recovered(self, jobs: int, why: str) -> None:
        """So many jobs were requeued that belonged to nobody: `worker_lost`, `never_started` or `nobodys`."""

    # A task's.

    def taken(self, queue: str, used: int) -> None:
        """A job went into a slot; so many are used now."""

    def freed(self, used: int) -> None:
        """A slot is free again; so many are used now."""

    def begun(self, watch: Watch) -> None:
        """An attempt has begun."""

    def calling(self, watch: Watch) -> None:
        """Its task function is called."""

    def first_delta(self, watch: Watch) -> None:
        """The first chunk of the attempt has come."""

    def answered(self, provider: str, status: int) -> None:
        """An endpoint has answered with this HTTP status; `telemetry.watch()` is the attempt that asked it."""

    def failed(self, watch: Watch, error: TaskError, retry_in: float | None) -> None:
        """A try has failed; the next comes after so many seconds, None: there is none here."""

    def settled(self, watch: Watch, event: Terminal) -> None:
        """The task's terminal event is in the log."""

    def ended(self, watch: Watch, ending: str) -> None:
        """The attempt is over.

        Args:
            ending: `completed`, `failed`, `cancelled`, `retrying` (the next attempt comes in this slot), `parked` (it
                comes later), `left_to_rq` (RQ runs the job again), `handed_back` (the worker leaves) or `lost` (the
                task is somebody else's, or was settled by somebody else).
        """

    def fenced(self, task: str) -> None:
        """A newer attempt turned out to own this worker's task."""


class Observers(Observer):
    """Several of them, in this order; one that raises does not keep what it was told from the others."""

    def __init__(self, *observers: Observer) -> None:
        self._told: Final[dict[str, tuple[Callable[..., None], ...]]] = {
            name: tuple(
                getattr(observer, name)
                for observer in observers
                if getattr(type(observer), name) is not getattr(Observer, name)
            )
            for name in vars(Observer)
            if not name.startswith("_")
        }

    def _tell(self, event: str, *facts: Any) -> None:
        for told in self._told[event]:
            try:
                told(*facts)
            except Exception:  # noqa: BLE001 # an observer's own
                # Whoever looks on must not stop the work.
                _log.exception("an observer failed at %s", event)

    def started(self, slots: int) -> None:
        self._tell("started", slots)

    def provider(self, name: str, problem: str | None) -> None:
        self._tell("provider", name, problem)

    def suspended(self, on: bool) -> None:
        self._tell("suspended", on)

    def draining(self) -> None:
        self._tell("draining")

    def outage(self, away: bool) -> None:
        self._tell("outage", away)

    def reconnected(self, line: str) -> None:
        self._tell("reconnected", line)

    def recovered(self, jobs: int, why: str) -> None:
        self._tell("recovered", jobs, why)

    def taken(self, queue: str, used: int) -> None:
        self._tell("taken", queue, used)

    def freed(self, used: int) -> None:
        self._tell("freed", used)

    def begun(self, watch: Watch) -> None:
        self._tell("begun", watch)

    def calling(self, watch: Watch) -> None:
        self._tell("calling", watch)

    def first_delta(self, watch: Watch) -> None:
        self._tell("first_delta", watch)

    def answered(self, provider: str, status: int) -> None:
        self._tell("answered", provider, status)

    def failed(self, watch: Watch, error: TaskError, retry_in: float | None) -> None:
        self._tell("failed", watch, error, retry_in)

    def settled(self, watch: Watch, event: Terminal) -> None:
        self._tell("settled", watch, event)

    def ended(self, watch: Watch, ending: str) -> None:
        self._tell("ended", watch, ending)

    def fenced(self, task: str) -> None:
        self._tell("fenced", task)


_OBSERVER: Final[ContextVar[Observer]] = ContextVar("deltabus_observer", default=Observer())  # noqa: B039 # no state
_WATCH: Final[ContextVar[Watch | None]] = ContextVar("deltabus_watch", default=None)


def observe(by: Observer) -> None:
    """Say who observes whatever this context, and all tasks that are made in it, do."""
    _OBSERVER.set(by)


def observer() -> Observer:
    """Who observes this context."""
    return _OBSERVER.get()


def attend(watch: Watch) -> Token[Watch | None]:
    """Say that what follows, in this asyncio task and those that it makes, is done for an attempt."""
    return _WATCH.set(watch)


def leave(token: Token[Watch | None]) -> None:
    """It is not any more."""
    _WATCH.reset(token)


def aside() -> Context:
    """This context without the attempt: for what is begun while one runs, and goes on for all."""
    context = copy_context()
    context.run(_WATCH.set, None)
    return context


def watch() -> Watch | None:
    """The attempt for which the running code works; None: it works for no attempt, or for all."""
    return _WATCH.get()
