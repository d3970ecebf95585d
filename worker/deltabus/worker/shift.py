"""One working life of an `AsyncWorker`: take jobs into slots until told to stop, then drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import structlog
from redis.exceptions import RedisError
from rq.worker.base import DequeueStrategy, WorkerStatus

from deltabus import connections, telemetry
from deltabus.depot import Depot
from deltabus.engine import Engine
from deltabus.errors import ConfigError
from deltabus.log import Log
from deltabus.registry import Registry
from deltabus.settings import Settings
from deltabus.temporary import TemporaryFiles
from deltabus.worker.intake import BLOCK, Intake, Taken
from deltabus.worker.ledger import EXECUTION_TTL, Ledger
from deltabus.worker.reconciler import Reconciler
from deltabus.worker.recovery import Recovery
from deltabus.worker.slot import Slot, Station
from deltabus.worker.vigil import Vigil

if TYPE_CHECKING:
    from deltabus.worker import AsyncWorker

log = structlog.get_logger("deltabus.worker")

#: Threads in which RQ's own code books what hangs on jobs: callbacks may block.
BOOKKEEPERS: Final = 4

#: Seconds between two looks at RQ's suspension switch while it is on.
SUSPENSION_INTERVAL: Final = 1.0

#: Seconds in which jobs are handed back when the worker must leave.
HAND_BACK_TIMEOUT: Final = 5.0

#: First and longest pause, in seconds, between two tries to take jobs while Redis is away.
BACKOFF: Final = (0.1, 1.0)
#: Seconds after which a wait for jobs that Redis has not refused is one that it serves.
REFUSAL: Final = 0.5


class Shift:
    """Runs the jobs of `worker`; `run` is called once.

    Args:
        burst: leave when the queues are empty.
        max_jobs: leave after so many jobs.
        max_idle_time: leave after so many seconds without a job.
    """

    def __init__(
        self,
        worker: AsyncWorker,
        settings: Settings,
        *,
        burst: bool = False,
        max_jobs: int | None = None,
        max_idle_time: float | None = None,
    ) -> None:
        self._worker = worker
        self._settings = settings
        self._burst = burst
        self._max_jobs = max_jobs
        self._max_idle_time = max_idle_time
        self._observer = telemetry.observer()
        self._slots: dict[asyncio.Task[None], Slot] = {}
        self._taken = 0
        self._slot_freed = asyncio.Event()
        self._stop = asyncio.Event()
        self._leave = asyncio.Event()
        self._stop_asked_at = 0.0
        self._idle_since = time.monotonic()
        #: Jobs that could not be handed back: the lease must run out, so that others find them.
        self.abandoned = 0

    def stop(self) -> None:
        """Drain; asked again, leave at once. Called on the loop, by signals and commands."""
        if not self._stop.is_set():
            log.info("draining", running=len(self._slots), seconds=self._settings.drain_timeout)
            self._observer.draining()
            self._stop_asked_at = time.monotonic()
            self._stop.set()
            self._slot_freed.set()
        elif time.monotonic() - self._stop_asked_at >= self._worker.signal_echo:
            self._leave.set()

    def _give_way(self) -> None:
        """Leave at once and leave everything as it is: another worker goes by this name, and has taken over."""
        log.error("another worker goes by this name: this one was taken for dead, and leaves", worker=self._worker.name)
        self.abandoned += 1
        self._stop.set()
        self._slot_freed.set()
        self._leave.set()

    async def run(self) -> int:
        """Work; returns how many jobs were taken."""
        async with self._tools():
            async with self._vigil.kept(self._stop):
                self._observer.started(self._settings.concurrency)
                await self._take_jobs()
                self._observer.draining()
                await self._drain()
            if not self.abandoned:
                with contextlib.suppress(RedisError, OSError):  # its turn runs out by itself
                    await self._reconciler.leave()
        return self._taken

    @contextlib.asynccontextmanager
    async def _tools(self) -> AsyncIterator[None]:
        worker, settings = self._worker, self._settings
        keys = {queue.name: queue.key for queue in worker.queues}
        async with contextlib.AsyncExitStack() as stack:
            redis = await stack.enter_async_context(worker.open_redis())
            event_log = Log(redis, settings, outage=worker.outage, reply_timeout=settings.lease)
            stack.push_async_callback(self._close, event_log)
            registry = Registry(settings)
            stack.push_async_callback(registry.aclose)
            depot = Depot(redis, settings, outage=worker.outage)
            stack.push_async_callback(depot.aclose)
            temporary = TemporaryFiles(redis, registry)
            stack.push_async_callback(temporary.aclose)
            ledger = Ledger(
                redis,
                worker.connection,
                worker_name=worker.name,
                worker_key=worker.key,
                failure_ttl=settings.failure_ttl,
                lease=settings.lease,
                outage=worker.outage,
            )
            stack.push_async_callback(self._close, ledger)
            self._intake = Intake(
                redis,
                worker.name,
                list(keys.items()),
                max_bytes=settings.max_request_bytes,
                lease=settings.lease,
                execution_ttl=EXECUTION_TTL,
                stopped=self._stop,
            )
            stack.push_async_callback(self._intake.aclose)
            engine = Engine(event_log, registry, depot, temporary, settings)
            self._station = Station(
                worker=worker.name,
                settings=settings,
                result_ttl=worker.result_ttl,
                queue_keys=keys,
                connection=worker.connection,
                engine=engine,
                intake=self._intake,
                ledger=ledger,
                books=worker,
                bookkeepers=stack.enter_context(ThreadPoolExecutor(BOOKKEEPERS, "rq-bookkeeper")),
            )
            self._recovery = Recovery(redis, worker.name, keys, lease=settings.lease, result_ttl=settings.result_ttl)
            self._reconciler = Reconciler(
                redis,
                event_log,
                worker.name,
                keys,
                lease=settings.lease,
                result_ttl=settings.result_ttl,
                scattered=connections.is_cluster(redis),
                outage=worker.outage,
            )
            stack.push_async_callback(self._reconciler.aclose)
            self._make_providers(registry)
            self._vigil = Vigil(
                worker,
                redis,
                engine=engine,
                ledger=ledger,
                intake=self._intake,
                recovery=self._recovery,
                reconciler=self._reconciler,
                temporary=temporary,
                slots=self._slots.values(),
                stop=self.stop,
                give_way=self._give_way,
                outage=worker.outage,
            )
            yield

    async def _close(self, writer: Log | Ledger) -> None:
        """What could not be written while jobs were handed back is waited for no longer."""
        await (writer.aclose(0.0) if self.abandoned else writer.aclose())

    async def _take_jobs(self) -> None:
        pause = BACKOFF[0]
        while not self._stop.is_set():
            try:
                going_on = await self._take_some()
                pause = BACKOFF[0]
            except Exception as exc:
                if isinstance(exc, RedisError | OSError):
                    self._worker.outage.meets("take", exc)
                else:
                    log.exception("cannot take jobs, trying again", seconds=pause)
                await self._stopped_within(pause)
                going_on, pause = True, min(pause * 2, BACKOFF[1])
            if not going_on:
                return

    async def _take_some(self) -> bool:
        """Fill free slots, waiting for a slot or a job where there is none. False: there is no reason to go on."""
        if self._max_jobs is not None and self._taken >= self._max_jobs:
            return False
        # Before the look at the queues: what runs, or ended since, may enqueue something behind it.
        busy = bool(self._slots)
        self._slot_freed.clear()
        if (room := self._room()) == 0:
            await self._vigil.show(WorkerStatus.BUSY)
            self._worker.outage.is_over_for("take")  # there is nothing to ask for
            await self._a_slot_is_freed()
            return True
        taken = await self._intake.take(room)
        if taken or self._burst or self._intake.suspended:
            self._worker.outage.is_over_for("take")  # else it has only read, which a replica serves, too
        self._observer.suspended(self._intake.suspended)
        if not taken and self._burst:
            if not busy or self._intake.suspended:
                return False
            await self._a_slot_is_freed()
            return True
        if self._intake.suspended:
            await self._vigil.show(WorkerStatus.SUSPENDED)
            await self._stopped_within(SUSPENSION_INTERVAL)
            return True
        if not taken:
            await self._vigil.show(WorkerStatus.BUSY if self._slots else WorkerStatus.IDLE)
            if (patience := self._patience()) <= 0:
                return False
            served = asyncio.get_running_loop().call_later(REFUSAL, self._worker.outage.is_over_for, "take")
            try:
                taken = await self._intake.wait(room, patience)
            finally:
                served.cancel()
            self._worker.outage.is_over_for("take")
        for job in taken:
            self._fill(job)
        return True

    def _room(self) -> int:
        free = self._settings.concurrency - len(self._slots)
        if self._worker.dequeue_strategy != DequeueStrategy.DEFAULT:
            free = min(free, 1)  # another queue may be next after each job
        return free if self._max_jobs is None else min(free, self._max_jobs - self._taken)

    def _patience(self) -> float:
        """Seconds to wait for a job."""
        if self._max_idle_time is None:
            return BLOCK
        if self._slots:
            return self._max_idle_time  # they may end at any moment
        return self._max_idle_time - (time.monotonic() - self._idle_since)

    def _fill(self, taken: Taken) -> None:
        self._taken += 1
        slot = Slot(self._station, taken)
        task = asyncio.create_task(slot.process())
        self._slots[task] = slot
        self._observer.taken(taken.queue, len(self._slots))
        task.add_done_callback(self._free)
        if self._worker.dequeue_strategy != DequeueStrategy.DEFAULT:
            self._intake.reorder(self._worker.order_after(taken.queue))

    def _free(self, task: asyncio.Task[None]) -> None:
        self.abandoned += self._slots.pop(task).stranded
        self._observer.freed(len(self._slots))
        self._idle_since = time.monotonic()
        self._slot_freed.set()

    async def _a_slot_is_freed(self) -> None:
        if not self._stop.is_set():
            await self._slot_freed.wait()

    async def _stopped_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    async def _drain(self) -> None:
        """Let running jobs finish; when told to stop, only for so long, and hand the rest back."""
        finished = asyncio.create_task(self._all_finished())
        asked = asyncio.create_task(self._patience_is_over())
        await asyncio.wait([finished, asked], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not finished.done():
            log.info("handing back", jobs=len(self._slots))
            for slot in self._slots.values():
                slot.hand_back()
            await asyncio.wait([finished], timeout=HAND_BACK_TIMEOUT)
        self.abandoned += len(self._slots) + self._intake.is_unsure  # Redis is away
        for task in self._slots:
            task.cancel()
        await finished

    async def _all_finished(self) -> None:
        while self._slots:
            await asyncio.wait(list(self._slots))

    async def _patience_is_over(self) -> None:
        await self._stop.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._leave.wait(), self._settings.drain_timeout)

    def _make_providers(self, registry: Registry) -> None:
        """Import the plugins before there is work, which they would hold up; a broken one fails only its own tasks."""
        for name in registry.names:
            problem = None
            try:
                registry.provider(name)
            except ConfigError as exc:
                problem = str(exc)
                log.error(  # noqa: TRY400 # no traceback
                    "a provider cannot be used, and its tasks fail: see `deltabus check`", provider=name, error=problem
                )
            self._observer.provider(name, problem)
