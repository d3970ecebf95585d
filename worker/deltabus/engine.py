"""One attempt at a task, from its envelope to its ending: the same under every kind of worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from deltabus import envelope as envelopes
from deltabus import events
from deltabus.envelope import Envelope
from deltabus.errors import CancelRequested, DeadlineExceeded, DeltabusError, Fenced, Internal, Sealed, TaskError
from deltabus.events import Cancelled, Completed, Failed, Retrying, Terminal
from deltabus.log import Attempt, Log
from deltabus.registry import Registry
from deltabus.settings import Settings

log = structlog.get_logger("deltabus.engine")

#: How an attempt ends. `Retrying`: not settled, the task will run again.
Ending = Terminal | Retrying


class HandBack(DeltabusError):
    """The worker is leaving: the attempt ends, and the task goes back to its queue uncharged."""


@dataclass(slots=True, eq=False)
class Context:
    """What a task function gets: its task, and the means to do it."""

    task: str
    envelope: Envelope
    attempt: Attempt
    registry: Registry
    settings: Settings
    #: Unix time in seconds at which the attempt is ended, if it has not ended by then.
    ends_at: float
    #: Says what has been accumulated, for the `failed` event.
    partial: Callable[[], Any] | None = None


Handler = Callable[[Context], Awaitable[Any]]


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
    execution: str | None = None
    #: Seconds to keep the log after the end, where the job says so.
    result_ttl: int | None = None
    #: RQ will run the job again if it fails (`retry=Retry(…)`).
    retried_by_rq: bool = False
    #: Whether RQ has recorded this ending: then the job was requeued on purpose, and a new round begins.
    is_booked: Callable[[Terminal], Awaitable[bool]] | None = None
    interrupted: DeltabusError | None = None
    _runner: asyncio.Task[Any] | None = field(default=None, repr=False)

    def interrupt(self, reason: DeltabusError) -> None:
        """End the attempt now: `CancelRequested`, `HandBack`, `Fenced` or `Sealed`. The first reason counts."""
        if self.interrupted is None:
            self.interrupted = reason
            if self._runner is not None:
                self._runner.cancel()


class Engine:
    """Runs attempts; one for a process."""

    def __init__(self, log: Log, registry: Registry, settings: Settings) -> None:
        self._log = log
        self._registry = registry
        self._settings = settings
        self._attempts: set[Attempt] = set()

    async def renew(self) -> None:
        """Renew the leases of all running attempts on their logs."""
        await self._log.renew(tuple(self._attempts))

    async def run(self, run: Run) -> Ending:
        """Carry out an attempt. When this returns, its ending is in the task's log.

        Raises:
            Fenced: a newer attempt owns the task; nothing may be recorded.
        """
        try:
            envelope = envelopes.parse(run.argument)
            ends_at = _limit(run, envelope)
            attempt = await self._begin(run, envelope)
        except TaskError as error:
            return await self.settle(run, Failed(task=run.task, at=time.time(), error=error.info))
        except CancelRequested as cancel:
            return await self.settle(run, Cancelled(task=run.task, at=time.time(), reason=cancel.reason))
        except Sealed as sealed:
            return _ending(sealed)
        self._attempts.add(attempt)
        try:
            context = Context(run.task, envelope, attempt, self._registry, self._settings, ends_at)
            return await self._record(run, attempt, await self._perform(run, context))
        finally:
            self._attempts.discard(attempt)

    async def settle(self, run: Run, event: Terminal) -> Ending:
        """Write the ending of a task that has no open attempt; somebody else's, if they were first."""
        reply_to = run.argument.get("reply_to") if isinstance(run.argument, dict) else None
        reply_to = reply_to if isinstance(reply_to, str) else None
        try:
            await self._log.settle(
                run.task, _signed(run, event), queue=run.queue, reply_to=reply_to, result_ttl=run.result_ttl
            )
        except Sealed as sealed:
            return _ending(sealed)
        return event

    async def _begin(self, run: Run, envelope: Envelope, *, reopen: bool = False) -> Attempt:
        try:
            return await self._log.begin(
                run.task,
                worker=run.worker,
                queue=run.queue,
                on_interrupt=run.interrupt,
                reply_to=envelope.reply_to,
                reopen=reopen,
                result_ttl=run.result_ttl,
            )
        except Sealed as sealed:
            if reopen or run.is_booked is None or not await run.is_booked(_ending(sealed)):
                raise
        return await self._begin(run, envelope, reopen=True)

    async def _perform(self, run: Run, context: Context) -> Ending:
        """Call the task function under its limits; whatever happens becomes an ending."""
        if run.interrupted is not None:
            return self._interrupted(run, context, run.interrupted)
        run._runner = asyncio.current_task()  # noqa: SLF001 # the two halves of one attempt
        limit = asyncio.timeout(max(0.0, context.ends_at - time.time()))
        try:
            async with limit:
                result = await run.handler(context)
            return Completed(task=run.task, at=time.time(), result=result)
        except TaskError as error:
            return self._failed(run, error, context)
        except asyncio.CancelledError:
            if run.interrupted is None or run._runner is None:  # noqa: SLF001
                context.attempt.abandon()
                raise
            run._runner.uncancel()  # noqa: SLF001
            return self._interrupted(run, context, run.interrupted)
        except (CancelRequested, Fenced, Sealed) as reason:
            return self._interrupted(run, context, reason)
        except Exception:
            if limit.expired():
                return self._failed(run, DeadlineExceeded("the time allowed for this task is over"), context)
            log.exception("a task function or a plugin raised what it may not raise", task=run.task)
            return self._failed(run, Internal("an internal error; the worker's log has the details"), context)
        finally:
            run._runner = None  # noqa: SLF001

    def _interrupted(self, run: Run, context: Context, reason: DeltabusError) -> Ending:
        if isinstance(reason, CancelRequested):
            return Cancelled(task=run.task, at=time.time(), reason=reason.reason)
        if isinstance(reason, HandBack):
            return Retrying(task=run.task, at=time.time(), reason=str(reason))
        if isinstance(reason, TaskError):
            return self._failed(run, reason, context)
        if isinstance(reason, Sealed):
            return _ending(reason)
        context.attempt.abandon()
        raise reason

    def _failed(self, run: Run, error: TaskError, context: Context) -> Ending:
        if run.retried_by_rq:
            return Retrying(task=run.task, at=time.time(), reason="RQ retries the job", error=error.info)
        partial = context.partial() if context.partial is not None else None
        return Failed(task=run.task, at=time.time(), error=error.info, partial=partial)

    async def _record(self, run: Run, attempt: Attempt, ending: Ending) -> Ending:
        try:
            if isinstance(ending, Retrying):
                await attempt.emit(ending)
            else:
                await attempt.seal(_signed(run, ending))
        except Sealed as sealed:
            return _ending(sealed)
        return ending


def _limit(run: Run, envelope: Envelope) -> float:
    """When the attempt must have ended: the nearest of the task's, the attempt's and RQ's limits."""
    now = time.time()
    limits = [run.timeout if run.timeout > 0 else float("inf"), envelope.timeout or float("inf")]
    ends_at = min(now + min(limits), envelope.deadline or float("inf"))
    if ends_at <= now:
        raise DeadlineExceeded("the task's deadline passed before it could begin", param="deadline")
    return ends_at


def _signed(run: Run, event: Terminal) -> Terminal:
    """The event with RQ's execution, by which `Run.is_booked` recognises it."""
    return msgspec.structs.replace(event, execution=run.execution)


def _ending(sealed: Sealed) -> Terminal:
    event = events.decode(sealed.message)
    if not isinstance(event, Terminal):
        raise TypeError(f"the seal of task {sealed.task} is not a terminal event")
    return event
