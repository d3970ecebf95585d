"""What makes a task function of a handler.

`AsyncWorker` runs a task's handler on its loop. RQ's own workers call the function as they call any:
then it brings a loop, a log and providers of its own along, for one task at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, Protocol, cast

import structlog
from rq import get_current_job
from rq.job import Job
from rq.utils import utcformat

from deltabus import connections, logs, telemetry, tracing
from deltabus.context import Handler
from deltabus.depot import Depot
from deltabus.engine import Engine
from deltabus.errors import TaskCancelled, TaskFailed
from deltabus.events import Cancelled, Completed, Failed, Terminal
from deltabus.log import Log
from deltabus.registry import Registry, plugin_of
from deltabus.run import LeftToRQ, Run
from deltabus.settings import load
from deltabus.tasklog import TaskLog
from deltabus.telemetry import Observers
from deltabus.temporary import TemporaryFiles

#: RQ's default for jobs without a timeout (`rq.Queue.DEFAULT_TIMEOUT`), seconds.
RQ_TIMEOUT: Final = 180

#: Seconds that are kept free before the time that RQ allows a job is over, to settle it.
ALARM_MARGIN: Final = 1.0


class TaskFunction(Protocol):
    """What `task` makes: RQ calls it with the envelope, `AsyncWorker` takes its `handler`."""

    handler: Handler

    def __call__(self, envelope: dict[str, Any]) -> Coroutine[Any, Any, Any]: ...


def task(handler: Handler) -> TaskFunction:
    """Make a task function of a handler, for registration under the entry point `deltabus.tasks`.

    The handler is called with a `Context`; what it returns is the result (JSON), what it writes to
    `context.attempt` is streamed, and a `TaskError` that it raises is how the task fails.
    """

    @wraps(cast("Callable[..., Any]", handler))
    async def call(envelope: dict[str, Any]) -> Any:
        return await _under_stock_rq(handler, envelope)

    function = cast("TaskFunction", call)
    function.handler = handler
    return function


async def _under_stock_rq(handler: Handler, envelope: dict[str, Any]) -> Any:
    job = get_current_job()
    if job is None:
        raise RuntimeError("a task function runs inside a job; enqueue it, or use deltabus.testing.memory_bus()")
    settings = load()
    if not structlog.is_configured():  # structlog's own defaults show local variables: prompts and keys
        logs.configure(settings)
    task_log = TaskLog(settings.task_lines)
    telemetry.observe(Observers(task_log, *tracing.observers(settings, plugin_of)))
    registry = Registry(settings)
    async with connections.asynchronous(job.connection) as redis:
        log = Log(redis, settings)
        depot = Depot(redis, settings)
        temporary = TemporaryFiles(redis, registry)
        engine = Engine(log, registry, depot, temporary, settings)
        heart = asyncio.create_task(_beat(engine, settings.heartbeat_interval))
        try:
            ending = await engine.run(
                Run(
                    task=job.id,
                    queue=job.origin,
                    handler=handler,
                    argument=envelope,
                    timeout=-1,
                    ends_at=_ends_at(job),
                    worker=job.worker_name or "rq",
                    execution=_execution(job),
                    enqueued=utcformat(job.enqueued_at).encode() if job.enqueued_at else b"",
                    rq_retries_in=job.get_retry_interval() if job.should_retry else None,
                    is_booked=lambda event: _is_booked(job, event),
                )
            )
        finally:
            task_log.sum_up()
            heart.cancel()
            await log.aclose()
            await temporary.aclose()
            await registry.aclose()
            await depot.aclose()
            if settings.traces != "off":
                await asyncio.to_thread(tracing.flush)  # RQ's work horse ends without a word
    if isinstance(ending, Completed):
        return ending.result
    if isinstance(ending, Cancelled):
        raise TaskCancelled(job.id, ending.reason)
    assert isinstance(ending, Failed | LeftToRQ)  # nobody hands back or parks here
    raise TaskFailed(job.id, ending.error)


async def _beat(engine: Engine, interval: float) -> None:
    """Keep the log's lease, and hear of a cancel while the provider is silent: RQ's worker does neither."""
    while True:
        await asyncio.sleep(interval)
        await engine.renew()


def _ends_at(job: Job) -> float:
    """Shortly before RQ's alarm, which would tear the attempt off without an ending on its log."""
    timeout = float(job.timeout or RQ_TIMEOUT)
    if timeout < 0:
        return float("inf")
    started = job.started_at.timestamp() if job.started_at else time.time()
    return started + timeout - min(ALARM_MARGIN, timeout / 4)


def _execution(job: Job) -> str | None:
    executions = job.get_executions()
    return executions[-1].id if executions else None


async def _is_booked(job: Job, event: Terminal) -> bool:
    """Whether RQ has recorded this ending, or has enqueued the job after it: then this is a new round."""
    if job.enqueued_at is not None and job.enqueued_at.timestamp() > event.at:
        return True
    result = await asyncio.to_thread(job.latest_result)
    return result is not None and result.execution_id == event.execution
