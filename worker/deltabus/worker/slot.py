"""One job in one slot of an `AsyncWorker`: from the intermediate list to RQ's records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import msgspec
import structlog
from redis import Redis as SyncRedis
from redis.exceptions import RedisError
from rq.executions import Execution
from rq.rate_limit import release_slot

from deltabus import jobs, telemetry
from deltabus.context import Context
from deltabus.engine import Engine
from deltabus.errors import (
    BusError,
    CancelRequested,
    ErrorInfo,
    Fenced,
    Internal,
    InvalidRequest,
    PayloadTooLarge,
    TaskError,
    WorkerLost,
)
from deltabus.events import Cancelled, Completed, Failed, Terminal
from deltabus.failure import Failure
from deltabus.jobs import FAILURES_FIELD, LOST_FIELD, BusJob, Start
from deltabus.run import Ending, HandBack, LeftToRQ, Parked, Run
from deltabus.settings import Settings
from deltabus.worker.intake import Intake, Taken
from deltabus.worker.ledger import Ledger, Outcome

log = structlog.get_logger("deltabus.worker")


class Books(Protocol):
    """RQ's own bookkeeping, for jobs on which more hangs than a result. It blocks: threads call it."""

    @property
    def books_every_failure(self) -> bool:
        """Whether every failure is to be booked here, on whatever job."""

    def book_success(self, job: BusJob, execution: Execution, result: Any) -> None: ...
    def book_failure(self, job: BusJob, execution: Execution, error: ErrorInfo) -> None: ...
    def book_stopped(self, job: BusJob, execution: Execution) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """What all slots of a worker share."""

    worker: str
    settings: Settings
    #: Seconds for which results are kept where a job does not say so.
    result_ttl: int
    queue_keys: Mapping[str, str]
    connection: SyncRedis
    engine: Engine
    intake: Intake
    ledger: Ledger
    books: Books
    bookkeepers: Executor


class Slot:
    """Processes one job; `process` is called once."""

    def __init__(self, station: Station, taken: Taken) -> None:
        self._station = station
        self._taken = taken
        self._queue_key = station.queue_keys[taken.queue]
        self._stopped = False
        self._deleted = False
        #: RQ's record of the job's running, once it is written.
        self.execution: Execution | None = None
        self._run = Run(
            task=taken.id,
            queue=taken.queue,
            handler=_no_handler,
            argument=None,
            timeout=float(station.settings.job_timeout),
            worker=station.worker,
            may_park=True,
            is_booked=self._is_booked,
        )
        #: The job could be neither booked nor given back.
        self.stranded = False
        self._lost = 0
        self._error: TaskError | None = None
        try:
            self._read(taken)
        except TaskError as error:
            self._error = error
        except Exception:
            log.exception("a job could not be read", task=taken.id)
            self._error = Internal("the job cannot be read; the worker's log has the details")
        if taken.start is not None:
            self._begin(taken.start)
        if self._error is not None:
            self.job.retries_left = 0  # it would fail again

    @cached_property
    def job(self) -> BusJob:
        """The job. Where its hash could not be read, one of which only id and queue can be relied on."""
        return jobs.bare(self._run.task, connection=self._station.connection, queue=self._run.queue)

    @property
    def task(self) -> str:
        """The task's id, which is the job's."""
        return self._run.task

    def cancel(self, reason: str | None) -> None:
        """End the task as `cancelled`."""
        self._run.interrupt(CancelRequested(reason))

    def forget(self) -> None:
        """End the task as `cancelled`; RQ's record of the job has been deleted, and is not written anew."""
        self._deleted = True
        self._run.interrupt(CancelRequested("the job was deleted"))

    def stop(self) -> None:
        """End the task as RQ's stop command wants it: `cancelled` on the log, stopped in RQ's records."""
        self._stopped = True
        self._run.interrupt(CancelRequested("stopped by RQ's stop command"))

    def hand_back(self) -> None:
        """End the attempt and put the task back to the front of its queue, as if it had not been taken."""
        self._run.interrupt(HandBack("the worker is shutting down"))

    async def process(self) -> None:
        """Start, run and book the job. Never raises: what cannot be booked is left to recovery."""
        try:
            if isinstance(self._error, jobs.UnreadableJob) and not await self._mend(self._error):
                return
            if self.execution is None and not await self._start():
                return
            assert self.execution is not None
            await self._book(await self._perform(), self.execution)
        except Fenced:
            telemetry.observer().fenced(self.task)
            log.warning("fenced: a newer attempt owns this task; nothing is recorded", task=self.task)
            await self._give_up(fenced=True)
        except Exception:
            log.exception("a job could not be processed; it is tried again", task=self.task)
            await self._give_up()
        finally:
            # Slot and run hold each other. To look for such circles took Python a tenth of the worker's CPU.
            self._run.is_booked = None

    async def _start(self) -> bool:
        """Start a job that needed a look first. False: it is done with."""
        try:
            taken = await self._station.intake.start(self._taken, self.job.origin)
        except (RedisError, OSError):
            self.stranded = True
            raise
        if taken is None:
            return False
        if taken.start is None:
            await self._settle(Cancelled(task=self.task, at=time.time(), reason="cancelled before it began"))
            await self._station.ledger.drop(self.job, self._queue_key)
            return False
        self._begin(taken.start)
        return True

    def _begin(self, start: Start) -> None:
        self.job.begin(self._station.worker, start.at)
        self.execution = self._station.ledger.execution(self.job, start)
        self._run.execution = start.execution

    async def _give_up(self, *, fenced: bool = False) -> None:
        """Requeue the job, if RQ's records still say that it runs here; one that was requeued too often is failed.

        A fenced one is requeued only where RQ's records know of no other run.
        """
        if self.execution is None:
            return
        ledger = self._station.ledger
        try:
            if fenced:
                await ledger.cede(self.job, self.execution, self._queue_key)
            elif self._lost < self._station.settings.max_deliveries:
                await ledger.hand_back(self.job, self.execution, self._queue_key, lost=True)
            else:
                error = WorkerLost("it cannot be settled on its log; the worker's log has the details")
                await ledger.fail(self.job, self.execution, error.info)
        except (RedisError, BusError):
            self.stranded = True
            log.exception("a job could not be given back; it waits for this worker's lease to run out", task=self.task)

    def _read(self, taken: Taken) -> None:
        """Make a job of the hash, and a run of the job.

        Raises:
            TaskError: what is wrong with either.
        """
        limit = self._station.settings.max_request_bytes
        if taken.oversize is not None:
            raise PayloadTooLarge(
                f"the payload has {taken.oversize} bytes; {limit} are allowed (`max_request_bytes`)", param="data"
            )
        if not taken.fields:
            raise jobs.UnreadableJob("the queue holds this id, but there is no job hash: it expired or never was")
        self.job = job = jobs.restore(taken.id, taken.fields, connection=self._station.connection, queue=taken.queue)
        self._lost = jobs.count(taken.fields, LOST_FIELD)
        if self._lost >= self._station.settings.max_deliveries:
            raise WorkerLost(f"{self._lost} workers died while they ran this task (`max_deliveries`)")
        run = self._run
        run.enqueued = taken.fields.get(b"enqueued_at", b"")
        run.argument = jobs.argument(job)
        run.handler = jobs.handler(job)
        run.timeout = float(job.timeout or run.timeout)
        run.result_ttl = job.result_ttl
        run.rq_retries_in = job.get_retry_interval() if job.should_retry else None
        run.failures = jobs.count(taken.fields, FAILURES_FIELD)
        # Parked, it would keep its place, for which others wait, until RQ's scheduler comes by, if ever.
        run.may_park = not job.rate_limit_key

    async def _perform(self) -> Ending:
        if self._error is not None:
            return await self._settle(Failed(task=self.task, at=time.time(), error=self._error.info))
        return await self._station.engine.run(self._run)

    async def _mend(self, error: jobs.UnreadableJob) -> bool:
        """Make the job's hash readable, so that RQ's tools can show the failure. False: there cannot be a hash."""
        if await self._station.ledger.mend(self.job, error.fields):
            return True
        error = jobs.UnreadableJob(f"the key `{self.job.key}` is not a hash: RQ did not write it")
        await self._settle(Failed(task=self.task, at=time.time(), error=error.info))
        await self._station.ledger.drop(self.job, self._queue_key)
        return False

    async def _settle(self, event: Terminal) -> Ending:
        return await self._station.engine.settle(self._run, event)

    async def _book(self, ending: Ending, execution: Execution) -> None:
        """Record the ending with RQ: in the shared pipeline, or by RQ's own code where more hangs on the job."""
        job, ledger = self.job, self._station.ledger
        match ending:
            case Completed():
                await self._book_success(ending, execution)
            case Failed():
                await self._book_failure(ending, execution)
            case Cancelled():
                await self._book_cancellation(execution)
            case LeftToRQ():
                await self._by_rq(self._station.books.book_failure, execution, ending.error)
            case Parked():
                await ledger.park(job, execution, delay=ending.delay, failures=ending.failures)
            case _:
                await ledger.hand_back(job, execution, self._queue_key)

    async def _book_success(self, ending: Completed, execution: Execution) -> None:
        ttl = self.job.get_result_ttl(self._station.result_ttl)
        if self.job.is_plain and ttl != 0:
            outcome = await self._station.ledger.succeed(self.job, execution, ending.result, ttl=ttl)
            if outcome is not Outcome.REFUSED:
                return
        await self._by_rq(self._station.books.book_success, execution, ending.result)

    async def _book_failure(self, ending: Failed, execution: Execution) -> None:
        ledger, books = self._station.ledger, self._station.books
        self.job.retries_left = 0  # it is settled: another round could only book it again
        note = self._note(ending, execution)
        if self.job.is_plain and not books.books_every_failure:
            outcome = await ledger.fail(self.job, execution, ending.error, note)
            if outcome is not Outcome.REFUSED:
                return
        await ledger.note(self.job, execution, note)
        await self._by_rq(books.book_failure, execution, ending.error)

    async def _book_cancellation(self, execution: Execution) -> None:
        job, ledger = self.job, self._station.ledger
        if self._stopped:
            await self._by_rq(self._station.books.book_stopped, execution)
            return
        await (ledger.forget if self._deleted else ledger.cancel)(job, execution)
        if job.rate_limit_key:
            await self._in_thread(release_slot, job)

    def _note(self, ending: Failed, execution: Execution) -> Failure:
        argument = self._run.argument
        reply_to = argument.get("reply_to") if isinstance(argument, dict) else None
        return Failure(
            error=ending.error,
            execution=execution.id,
            attempts=self._run.attempts,
            partial_bytes=0 if ending.partial is None else len(msgspec.json.encode(ending.partial)),
            reply_to=reply_to if isinstance(reply_to, str) else None,
        )

    async def _by_rq(self, book: Callable[..., None], execution: Execution, *args: Any) -> None:
        """Let RQ's own code book the job, if it is still ours.

        Raises:
            BusError: it could not: it logs what Redis says, and goes on as if nothing were the matter.
        """
        ledger = self._station.ledger
        if await ledger.is_running(execution):
            await self._in_thread(book, self.job, execution, *args)
            if await ledger.is_running(execution):
                raise BusError("RQ's record of the job's end could not be written")

    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._station.bookkeepers, work, *args)

    async def _is_booked(self, event: Terminal) -> bool:
        if self.execution is not None and not await self._station.ledger.is_running(self.execution):
            raise Fenced(f"task {self.task} was taken over and settled")
        if not self._taken.is_open:
            return True
        result = await asyncio.to_thread(self.job.latest_result)
        return result is not None and result.execution_id == event.execution


async def _no_handler(_: Context) -> Any:
    raise InvalidRequest("this job has no task function")
