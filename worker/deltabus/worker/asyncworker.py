"""`AsyncWorker`: an RQ worker that runs hundreds of jobs at once on one asyncio loop.

    rq worker -w deltabus.worker.AsyncWorker -S json chat file

To RQ it is a worker like any other: registered, visible, commanded and suspended as they are. What RQ
does for one job in one process, `Shift` does for many; whatever hangs on a job besides its result
(callbacks, dependents, repeats, retries, webhooks, rate limits) is left to RQ's own code, in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, WatchError
from rq.callbacks import execute_stopped_callback
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT, DEFAULT_RESULT_TTL, RQ_KEY_PREFIX
from rq.executions import Execution
from rq.job import Job
from rq.job_lifecycle import call_exception_handlers
from rq.queue import Queue
from rq.timeouts import TimerDeathPenalty
from rq.utils import now
from rq.worker.base import BaseWorker, DequeueStrategy, WorkerStatus

from deltabus import connections, keys, logs, openfiles, telemetry, tracing
from deltabus.allowlist import AllowList
from deltabus.cyclicgarbage import rarely_collected
from deltabus.errors import ErrorInfo, TaskFailed
from deltabus.jobs import FAILURES_FIELD, LOST_FIELD, BusJob, JSONSerializer
from deltabus.monitoring.board import Board
from deltabus.monitoring.instruments import Instruments
from deltabus.neighbour import died_here, home, lives_here
from deltabus.outage import Outage
from deltabus.queues import BusQueue
from deltabus.registry import plugin_of
from deltabus.servicemanager import ServiceManager
from deltabus.settings import Settings, load
from deltabus.stopsignals import stop_signals
from deltabus.tasklog import TaskLog
from deltabus.telemetry import Observer, Observers
from deltabus.topology.discovery import is_elsewhere
from deltabus.topology.ownconnection import address
from deltabus.worker.shift import Shift

#: Shortest time, in seconds, without an answer after which a connection counts as dead.
MIN_TIMEOUT: Final = 1.0

#: Seconds between two looks at the lease of a worker of the same name, and seconds to wait beyond its end.
NAMESAKE_INTERVAL: Final = 0.2
NAMESAKE_GRACE: Final = 0.01

log = structlog.get_logger("deltabus.worker")

#: Seconds for which RQ's own code, which blocks, waits for an answer of Redis. It is what redis-py 8 waits by itself.
ANSWER_TIMEOUT: Final = 5


class AsyncWorker(BaseWorker):
    """An RQ worker with one asyncio loop and `settings.concurrency` slots.

    Args:
        queues: names or RQ queues, highest priority first.
        settings: None reads `deltabus.toml` and the environment, as always.
        board: where it counts, for a supervisor to show; None: it shows that itself, where `metrics_port` is set.

    Other arguments are RQ's. The serializer is JSON and the job class is `BusJob`, whatever is asked for.
    """

    #: Seconds within which a second signal is the first one, seen twice (terminal and pool): RQ's rule.
    signal_echo = 1.0

    #: Callbacks run in threads, where RQ's alarm signals do not work.
    death_penalty_class = TimerDeathPenalty
    job_class = BusJob
    queue_class = BusQueue

    def __init__(
        self,
        queues: Any,
        name: str | None = None,
        *args: Any,
        settings: Settings | None = None,
        board: Board | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs |= {
            "serializer": JSONSerializer,
            "job_class": BusJob,
            "queue_class": BusQueue,
            "log_job_description": False,
        }
        every = queues if isinstance(queues, list | tuple) else [queues]
        names: list[str] = [queue if isinstance(queue, str) else queue.name for queue in every]
        super().__init__(names, name, *args, **kwargs)
        self.log_result_lifespan = False
        self._settings = settings
        self._instruments = Instruments(board)
        #: Who is told that this works and lives; nobody, unless the command line says whom.
        self.manager = ServiceManager({})
        self._tracing: Sequence[Observer] = ()
        self._outage = Outage(address(self.connection))
        self._shift: tuple[asyncio.AbstractEventLoop, Shift] | None = None
        #: Jobs that the last shift could not hand back.
        self._abandoned = 0
        #: RQ marks a stopped job by one attribute of the worker: one at a time may use it.
        self._stopping = threading.Lock()

    @property
    def settings(self) -> Settings:
        """The worker's settings, read at the first use: RQ also makes workers only to look at them."""
        if self._settings is None:
            self._settings = load()
        return self._settings

    @property
    def connection_timeout(self) -> int:
        """Seconds for which RQ's own code waits for an answer of Redis. Nothing here blocks in BLPOP, as it does in RQ.

        RQ's seven minutes on a connection that went dead without a word would outlast every drain.
        """
        return ANSWER_TIMEOUT

    @property
    def result_ttl(self) -> int:
        """Seconds for which results are kept where a job does not say so. RQ's own default counts as not set."""
        chosen = int(self.default_result_ttl)
        return self.settings.result_ttl if chosen == DEFAULT_RESULT_TTL else chosen

    def work(  # noqa: PLR0917 # RQ's signature
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Work until told to stop, or as `burst`, `max_jobs` and `max_idle_time` say; see `BaseWorker.work`.

        Returns:
            whether any job was taken.
        """
        BusJob.allow = AllowList(self.settings.webhook_hosts, self.settings.functions)
        if self.settings.functions:
            BusJob.allow.check()
        BusJob.max_bytes = self.settings.max_request_bytes
        self._dequeue_strategy = dequeue_strategy
        self.default_result_ttl = self.result_ttl
        self._configure_logs(logging_level)
        openfiles.allow(self.settings.concurrency)
        self._tracing = tracing.observers(self.settings, plugin_of)
        with self._instruments.shown(self.settings, self.connection, self.queue_names()):
            self._begin()
            if with_scheduler:
                self._start_scheduler(burst, logging_level, date_format, log_format)
            return self._run(burst=burst, max_jobs=max_jobs, max_idle_time=max_idle_time) > 0

    def _run(self, **limits: Any) -> int:
        """Run a shift, and sign off; returns how many jobs were taken."""
        done = False
        try:
            taken = self._live(self._work(**limits))
            done = True
        finally:
            if not self._abandoned:  # RQ would forget what this worker was running
                self._sign_off(keep_lease=not done)
        return taken

    def _live(self, work: Coroutine[Any, Any, int]) -> int:
        """Run a shift on a loop of its own, to its end."""
        with rarely_collected(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)

    def _sign_off(self, *, keep_lease: bool) -> None:
        """Take this worker out of RQ's records, then give up its lease: while it is there, others bury it."""
        for _ in range(2):  # a line that has died without a word is found out by the first try
            with contextlib.suppress(RedisError):
                self.teardown()  # type: ignore[no-untyped-call]
                if not keep_lease:
                    self.connection.zrem(keys.workers(RQ_KEY_PREFIX), self.name)
                return

    def _configure_logs(self, level: str | None) -> None:
        """RQ's lines come out in the form of ours, once, and from the same level on: RQ has set another by now."""
        for name in ("rq.worker", "rq.job"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)
        logs.configure(self.settings if level is None else replace(self.settings, log_level=level.lower()))

    def _begin(self) -> None:
        self.register_birth()
        self.set_state(WorkerStatus.STARTED)

    @property
    def outage(self) -> Outage:
        """Whether Redis serves this worker: for all of its parts to say."""
        return self._outage

    def open_redis(self) -> Redis:
        """An asyncio client for the server that the worker is connected to.

        What gets no answer is tried again before the lease has run out.
        """
        return connections.asynchronous(self.connection, socket_timeout=max(MIN_TIMEOUT, self.settings.lease / 3))

    def leave_replica(self, error: Exception) -> None:
        """After a failover: where that error says so, RQ's own connections are made anew."""
        if is_elsewhere(error):
            self.connection.connection_pool.disconnect(inuse_connections=False)

    def stop(self) -> None:
        """Drain, as on a signal; may be called from any thread."""
        if self._shift is not None:
            loop, shift = self._shift
            loop.call_soon_threadsafe(shift.stop)

    async def _work(self, *, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> int:
        task_log = TaskLog(self.settings.task_lines)
        queues = self.queue_names()
        instruments = self._instruments.observers(self.settings, queues)
        telemetry.observe(Observers(task_log, *self._tracing, *instruments, *self.observers()))
        shift = Shift(self, self.settings, burst=burst, max_jobs=max_jobs, max_idle_time=max_idle_time)
        loop = asyncio.get_running_loop()
        self._shift = loop, shift
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                loop.add_signal_handler(number, shift.stop)
        # Said when a signal is a drain: whoever waits for this line may send one.
        log.info(
            "worker started",
            worker=self.name,
            pid=os.getpid(),
            queues=queues,
            concurrency=self.settings.concurrency,
        )
        try:
            with (
                self.manager.on_duty(f"works on {', '.join(queues)}"),
                self._instruments.looked_after(self.settings, self.connection, queues, self._outage.runs),
            ):
                return await shift.run()
        finally:
            task_log.sum_up()
            self._shift = None
            self._abandoned = shift.abandoned

    def observers(self) -> Sequence[Observer]:
        """Who is told what happens here, besides log and instruments; asked once, on the loop, before all else."""
        return ()

    def subscribe(self) -> None:
        """Commands are received on the loop, by `Shift`; RQ would start a thread."""

    def order_after(self, queue: str) -> Sequence[str]:
        """Queue names in the order in which to look at them next (RQ's dequeue strategies)."""
        self.reorder_queues(next(known for known in self._ordered_queues if known.name == queue))
        return [known.name for known in self._ordered_queues]

    @property
    def dequeue_strategy(self) -> DequeueStrategy:
        """In which order queues are looked at."""
        return self._dequeue_strategy or DequeueStrategy.DEFAULT

    def register_birth(self) -> None:
        """As RQ does it, which takes no name twice. But a holder of the name that was killed loses it.

        Raises:
            ValueError: there is a worker of this name.
        """
        self.bury_namesake()
        super().register_birth()  # type: ignore[no-untyped-call]
        self.connection.hset(self.key, items=[keys.SLOTS_FIELD, self.settings.concurrency, keys.HOME_FIELD, home()])

    def bury_namesake(self) -> None:
        """Take over the name of a worker of ours that was killed.

        At once where its process is seen to be gone, else once its lease has run out. RQ would keep the name from its
        successor for minutes, and the queues without a worker. What the dead one was running is requeued by the new
        one's first patrol.
        """
        seen = None
        while self.connection.exists(self.key) and not self.connection.hexists(self.key, "death"):
            with self.connection.pipeline() as pipeline:
                pipeline.watch(self.key)  # type: ignore[no-untyped-call]
                end = pipeline.zscore(keys.workers(RQ_KEY_PREFIX), self.name)
                seconds, microseconds = pipeline.time()  # at once, as it is watching
                now = seconds + microseconds / 1_000_000
                namesake: dict[bytes, bytes] = pipeline.hgetall(self.key)  # type: ignore[assignment] # at once, too
                if end is None or (seen is not None and end != seen) or lives_here(namesake):
                    return  # not one of ours, it has just renewed its lease, or it is only frozen
                if end <= now or died_here(namesake):
                    pipeline.multi()
                    pipeline.delete(self.key)
                    # A lease, so that of several successors one is the first.
                    pipeline.zadd(keys.workers(RQ_KEY_PREFIX), {self.name: now + self.settings.lease})
                    with contextlib.suppress(WatchError):
                        pipeline.execute()
                    continue
                if seen is None:
                    log.warning(
                        "a worker of this name is registered, and cannot be seen to be gone from here: its lease is "
                        "waited for",
                        worker=self.name,
                        host=namesake.get(b"hostname", b"").decode(errors="replace"),
                        seconds=round(end - now, 1),
                    )
                seen = end
            time.sleep(min(end - now + NAMESAKE_GRACE, NAMESAKE_INTERVAL))

    def is_registered_as(self, hostname: bytes, pid: bytes | None) -> bool:
        """Whether this is the process that RQ's hash of the worker tells of."""
        return (hostname, pid) == (socket.gethostname().encode(), str(os.getpid()).encode())

    def register_again(self) -> None:
        """Come back after Redis has lost the worker's hash."""
        self.connection.delete(self.key)
        self.register_birth()

    @property
    def books_every_failure(self) -> bool:
        """Whether RQ's exception handlers were added or its default one taken away."""
        return bool(self._exc_handlers) or self.disable_default_exception_handler

    # What follows runs in a thread: RQ's own code, for jobs on which more hangs than a result.

    def book_success(self, job: BusJob, execution: Execution, result: Any) -> None:
        """Success callback, result, repeat, dependents, rate limit, webhooks: as RQ does it."""
        queue = self._queue(job)
        try:
            self._finalize_success(job, queue, execution, result)
        except Exception as exc:  # noqa: BLE001 # the job's own callback: recorded as RQ records it
            self._finalize_failure(job, queue, execution, (type(exc), exc, exc.__traceback__))

    def book_failure(self, job: BusJob, execution: Execution, error: ErrorInfo) -> None:
        """Failure callback, retry or failure record, dependents, rate limit, webhooks: as RQ does it."""
        exc = TaskFailed(job.id, error)
        self.connection.hdel(job.key, LOST_FIELD, FAILURES_FIELD)  # whoever runs it again begins anew
        self._finalize_failure(job, self._queue(job), execution, (TaskFailed, exc, None))

    def book_stopped(self, job: BusJob, execution: Execution) -> None:
        """The record of a job that RQ's stop command ended."""
        job.ended_at = now()
        try:
            execute_stopped_callback(job, self.death_penalty_class)
        except Exception:
            log.exception("the stopped callback failed", task=job.id)
        with self._stopping:
            self._stopped_job_id = job.id
            self.handle_job_failure(job, self._queue(job), exc_string="stopped on request", execution=execution)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Call the exception handlers, without RQ's log line, which holds the job's arguments."""
        code = exc_info[1].info.code if isinstance(exc_info[1], TaskFailed) else type(exc_info[1]).__name__
        log.info("job failed", task=job.id, queue=job.origin, code=code)
        try:
            call_exception_handlers(self._exc_handlers, job, *exc_info)
        except Exception:
            log.exception("an exception handler failed", task=job.id)

    def _queue(self, job: BusJob) -> Queue:
        return self.queue_class(job.origin, connection=self.connection, job_class=BusJob, serializer=JSONSerializer)


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform
        return None
    return uvloop.new_event_loop
