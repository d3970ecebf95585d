"""A task from its envelope to its ending, attempt by attempt: the same under every kind of worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Final, TypeVar

import msgspec
import structlog

from deltabus import answers, events, telemetry
from deltabus import envelope as envelopes
from deltabus.context import Context
from deltabus.depot import Depot
from deltabus.envelope import Envelope
from deltabus.errors import (
    CancelRequested,
    DeadlineExceeded,
    ErrorInfo,
    Fenced,
    Internal,
    Sealed,
    TaskError,
)
from deltabus.events import Cancelled, Completed, Failed, Retrying, Terminal
from deltabus.log import Attempt, Log
from deltabus.provider import Request
from deltabus.registry import Registry
from deltabus.retry import Fail, Policy, Retry, decide
from deltabus.run import Ending, HandBack, HandedBack, LeftToRQ, Parked, Run
from deltabus.settings import Settings
from deltabus.telemetry import Watch
from deltabus.temporary import TemporaryFiles

T = TypeVar("T")
R = TypeVar("R", bound=Request)

log = structlog.get_logger("deltabus.engine")


#: Part of a heartbeat for which Redis may have told nothing of an attempt: one that is silent is renewed at each.
HEARD: Final = 0.9

#: Seconds after which a log is renewed at the latest, though Redis answers: others take one that is not for abandoned
#: (`follow.ABANDONED`; the reconciler after three leases).
MOST_KEPT: Final = 20.0


@dataclass(frozen=True, slots=True)
class _TryAgain:
    """What was streamed is void; another attempt follows."""

    error: ErrorInfo
    delay: float


#: What an attempt's end is called: see `Observer.ended`.
_ENDINGS: Final[Mapping[type, str]] = {
    Completed: "completed",
    Failed: "failed",
    Cancelled: "cancelled",
    _TryAgain: "retrying",
    Parked: "parked",
    LeftToRQ: "left_to_rq",
    HandedBack: "handed_back",
    NoneType: "lost",
}


class Engine:
    """Runs attempts; one for a process."""

    def __init__(
        self, log: Log, registry: Registry, depot: Depot, temporary: TemporaryFiles, settings: Settings
    ) -> None:
        self._log = log
        self._registry = registry
        self._depot = depot
        self._temporary = temporary
        self._settings = settings
        self._observer = telemetry.observer()
        self._attempts: set[Attempt] = set()

    async def renew(self) -> None:
        """Renew the leases of all running attempts on their logs.

        Those that Redis has just answered know what there is to know: of 5,000 streams that go on, each renewal costs
        as much as a delta.
        """
        heard, kept = HEARD * self._settings.heartbeat_interval, min(self._settings.lease, MOST_KEPT)
        await self._log.renew([attempt for attempt in self._attempts if attempt.is_due(heard=heard, kept=kept)])

    async def lost(self, tasks: Collection[str]) -> set[str]:
        """Of which of these tasks Redis lost the log while they ran here: it may have lost RQ's record of them too."""
        attempts = [attempt for attempt in self._attempts if attempt.task in tasks]
        await self._log.renew(attempts)
        return {attempt.task for attempt in attempts if attempt.log_was_lost}

    async def run(self, run: Run) -> Ending:
        """Carry out a task, with its retries. When this returns, its ending is in the task's log.

        Raises:
            Fenced: a newer attempt owns the task; nothing may be recorded.
        """
        try:
            envelope = run.envelope = envelopes.parse(run.argument)
            while True:
                ending = await self._attempt(run, envelope)
                if not isinstance(ending, _TryAgain):
                    return ending
                await _interruptibly(run, asyncio.sleep(ending.delay))
        except TaskError as error:
            return await self.settle(run, Failed(task=run.task, at=time.time(), error=error.info))
        except CancelRequested as cancel:
            return await self.settle(run, Cancelled(task=run.task, at=time.time(), reason=cancel.reason))
        except HandBack:
            return HandedBack()
        except Sealed as sealed:
            return _ending(sealed)

    async def settle(self, run: Run, event: Terminal) -> Terminal:
        """Write the ending of a task that has no open attempt; returns somebody else's, if they were first.

        Where Redis refuses the log (its key is not a stream), RQ's record alone has to say how the task ended.
        """
        try:
            await self._seal(run, _signed(run, event))
            self._observer.settled(run.watch or _watch(run, 0, run.envelope), event)
        except Sealed as sealed:
            return _ending(sealed)
        except Internal as refused:
            log.error("a task's ending could not be logged", task=run.task, error=refused.message)  # noqa: TRY400
        return event

    async def _seal(self, run: Run, event: Terminal, *, former: Sealed | None = None) -> None:
        reply_to = run.argument.get("reply_to") if isinstance(run.argument, dict) else None
        reply_to = reply_to if isinstance(reply_to, str) else None
        try:
            await self._log.settle(
                run.task, event, queue=run.queue, reply_to=reply_to, former=former, result_ttl=run.result_ttl
            )
        except Sealed as sealed:
            if former is not None or not await _is_former(run, sealed):
                raise
            former = sealed
        else:
            return
        await self._seal(run, event, former=former)

    async def _attempt(self, run: Run, envelope: Envelope) -> Ending | _TryAgain:
        ends_at = _limit(run, envelope)
        attempt = await self._begin(run, envelope)
        run.begun, run.attempts = True, attempt.number
        watch = _watch(run, attempt.number, envelope)
        run.watch = attempt.watch = watch
        context = Context(
            task=run.task,
            envelope=envelope,
            attempt=attempt,
            registry=self._registry,
            depot=self._depot,
            temporary=self._temporary,
            settings=self._settings,
            ends_at=ends_at,
            again=attempt.number > 1,
        )
        self._attempts.add(attempt)
        ending = None
        token = telemetry.attend(watch)
        try:
            self._observer.begun(watch)
            ending = await self._record(run, attempt, await self._perform(run, context))
        except Fenced:
            attempt.abandon()
            raise
        finally:
            self._attempts.discard(attempt)
            self._observer.ended(watch, _ENDINGS[type(ending)])
            telemetry.leave(token)
        return ending

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
            if reopen or not await _is_former(run, sealed):
                raise
        return await self._begin(run, envelope, reopen=True)

    async def _perform(self, run: Run, context: Context) -> Terminal | HandBack | LeftToRQ | _TryAgain:
        """Call the task function until it succeeds, fails for good, or subscribers must be told."""
        try:
            while True:
                try:
                    result = await _interruptibly(run, _call(run, context))
                    return Completed(task=run.task, at=time.time(), result=result)
                except TaskError as error:
                    verdict = self._judge(run, context, error)
                if not isinstance(verdict, Retry):
                    return verdict
                context.partial = None
                await _interruptibly(run, asyncio.sleep(verdict.delay))  # nothing was streamed: nobody need know
        except CancelRequested as cancel:
            return Cancelled(task=run.task, at=time.time(), reason=cancel.reason)
        except HandBack as reason:
            return reason

    def _judge(self, run: Run, context: Context, error: TaskError) -> Failed | LeftToRQ | _TryAgain | Retry:
        streamed = context.partial is not None
        decision = decide(
            error,
            self._policy(context.envelope),
            failures=run.failures,
            streamed=streamed,
            now=time.time(),
            deadline=min(_deadline(context.envelope), run.ends_at),
        )
        if run.watch is not None:
            self._observer.failed(run.watch, error, None if isinstance(decision, Fail) else decision.delay)
        if isinstance(decision, Fail):
            if run.rq_retries_in is not None:
                return LeftToRQ(error.info)
            limit = self._settings.max_answer_bytes
            partial = None if context.partial is None else answers.partial(run.task, context.partial, limit)
            return Failed(task=run.task, at=time.time(), error=error.info, partial=partial)
        run.failures += 1
        context.again = True
        if streamed or context.told or self._is_parked(run, decision.delay):
            return _TryAgain(error.info, decision.delay)
        return decision

    def _policy(self, envelope: Envelope) -> Policy:
        settings, own = self._settings, envelope.retry
        return Policy(
            max_retries=settings.max_retries if own.max is None else own.max,
            delay=settings.retry_delay,
            max_delay=settings.max_retry_delay,
            after_delta=own.after_delta or settings.after_delta,
        )

    def _is_parked(self, run: Run, delay: float) -> bool:
        return run.may_park and delay > self._settings.park_after

    async def _record(
        self, run: Run, attempt: Attempt, verdict: Terminal | HandBack | LeftToRQ | _TryAgain
    ) -> Ending | _TryAgain:
        """Write the end of the attempt to the log."""
        if isinstance(verdict, Terminal):
            await attempt.seal(_signed(run, verdict))
            if run.watch is not None:
                self._observer.settled(run.watch, verdict)
            return verdict
        now = time.time()
        if isinstance(verdict, HandBack):
            await attempt.emit(Retrying(task=run.task, at=now, reason=str(verdict)))
        elif isinstance(verdict, LeftToRQ):
            reason, delay = "RQ retries the job", run.rq_retries_in or 0.0
            await attempt.emit(Retrying(task=run.task, at=now, reason=reason, error=verdict.error, delay=delay))
        else:
            reason = verdict.error.code
            await attempt.emit(Retrying(task=run.task, at=now, reason=reason, error=verdict.error, delay=verdict.delay))
        attempt.abandon()
        if isinstance(verdict, HandBack):
            return HandedBack()
        if isinstance(verdict, _TryAgain) and self._is_parked(run, verdict.delay):
            return Parked(verdict.delay, run.failures)
        return verdict


async def _call(run: Run, context: Context) -> Any:
    """Call the task function within its time. Whatever is not an error of ours becomes one.

    Raises:
        TaskError: why it failed.
        CancelRequested, Fenced, Sealed: what it met when it wrote to the log.
    """
    limit = asyncio.timeout(max(0.0, context.ends_at - time.time()))
    if run.watch is not None:
        run.watch.call()
    try:
        async with limit:
            result = await run.handler(context)
    except (TaskError, CancelRequested, Fenced, Sealed):
        raise
    except Exception as exc:
        if limit.expired():
            raise DeadlineExceeded("the time allowed for this task is over") from exc
        log.exception("a task function or a plugin raised what it may not raise", task=run.task)
        raise Internal("an internal error; the worker's log has the details") from exc
    answers.check(run.task, result, context.settings.max_answer_bytes)
    return result


async def _interruptibly(run: Run, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, unless or until the run is interrupted: then raise the reason."""
    if run.interrupted is not None:
        work.close()
        raise run.interrupted
    run.runner = runner = asyncio.current_task()
    assert runner is not None
    try:
        return await work
    except asyncio.CancelledError:
        if run.interrupted is None:
            raise
        runner.uncancel()
        raise run.interrupted from None
    finally:
        run.runner = None


def _watch(run: Run, attempt: int, envelope: Envelope | None) -> Watch:
    function = getattr(run.handler, "__name__", "")
    return Watch(run.task, run.queue, attempt, run.worker, envelope, enqueued=run.enqueued, function=function)


def _deadline(envelope: Envelope) -> float:
    """The task's deadline; 0 is one that is long over."""
    return float("inf") if envelope.deadline is None else envelope.deadline


def _limit(run: Run, envelope: Envelope) -> float:
    """When the attempt must have ended: the nearest of the task's, the attempt's and RQ's limits."""
    now = time.time()
    limits = [run.timeout if run.timeout > 0 else float("inf"), envelope.timeout or float("inf")]
    ends_at = min(now + min(limits), _deadline(envelope), run.ends_at)
    if ends_at <= now:
        raise DeadlineExceeded("the task's deadline passed before it could begin", param="deadline")
    return ends_at


async def _is_former(run: Run, sealed: Sealed) -> bool:
    """Whether a seal is of a round that is over: RQ has recorded it, and the job was enqueued again."""
    return not run.begun and run.is_booked is not None and await run.is_booked(_ending(sealed))


def _signed(run: Run, event: Terminal) -> Terminal:
    """The event with RQ's execution, by which `Run.is_booked` recognises it."""
    return msgspec.structs.replace(event, execution=run.execution)


def _ending(sealed: Sealed) -> Terminal:
    """How a task ended that is sealed; one whose seal says nothing, as nobody of ours writes it, has failed."""
    try:
        event = events.decode(sealed.message)
    except msgspec.MsgspecError:
        event = None
    if isinstance(event, Terminal):
        return event
    log.error("a task's log was sealed with what is no event: it has failed", task=sealed.task)
    error = Internal("its log was sealed with what is no ending of this protocol: somebody else wrote it")
    return Failed(task=sealed.task, at=time.time(), error=error.info)
