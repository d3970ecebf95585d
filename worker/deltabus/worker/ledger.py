"""RQ's records of what this worker runs: started, finished, failed, cancelled; written in batches.

RQ's own classes compose the commands, so that `rq info`, dashboards and stock workers find what they expect.
The commands of one step go through one guarded script, and the steps of many jobs through one group commit.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError
from rq.executions import Execution, ExecutionRegistry
from rq.intermediate_queue import IntermediateQueue
from rq.job import JobStatus
from rq.registry import CanceledJobRegistry
from rq.results import Result
from rq.utils import utcformat

from deltabus.commit import FLUSH_TIMEOUT, GroupCommit, pack, pack_command
from deltabus.errors import ErrorInfo, TaskFailed
from deltabus.failure import FAILURE_FIELD, Failure, encode
from deltabus.jobs import FAILURES_FIELD, LOST_FIELD, NOTES, BusJob, JSONSerializer, Start, time_of
from deltabus.outage import Outage
from deltabus.queues import BusQueue
from deltabus.scripts import BOOK, CEDE, FINISH, STATUSES

log = structlog.get_logger("deltabus.worker")

#: Seconds after which RQ takes an execution for abandoned, and fails its job behind the log's back: whoever looks at a
#: registry sets that off, even `rq info`. Our own leases (see `recovery`) are much shorter, but somebody must be there
#: to see them run out: this is how long all workers may be away.
EXECUTION_TTL: Final = 7 * 24 * 3600

#: Jobs that are looked after at once: it takes some milliseconds, in which no delta goes on.
AT_ONCE: Final = 100

T = TypeVar("T")


class Outcome(IntEnum):
    """What became of a commit."""

    #: The execution is not ours any more: nothing was written.
    LOST = 0
    DONE = 1
    #: Other jobs depend on this one: RQ's own code must finish it.
    REFUSED = 2


class Ledger:
    """The bookkeeping of one worker.

    Args:
        connection: the worker's blocking client. RQ's objects want one; nothing is sent on it from here.
        worker_key: key of RQ's hash of this worker.
        failure_ttl: seconds for which failed and cancelled jobs are kept where they do not say so.
        lease: seconds without an answer after which what was asked is asked again.
        outage: see `GroupCommit`.
    """

    def __init__(
        self,
        redis: Redis,
        connection: SyncRedis,
        *,
        worker_name: str,
        worker_key: str,
        failure_ttl: int,
        lease: float,
        outage: Outage | None = None,
    ) -> None:
        self._redis = redis
        self._connection = connection
        self._worker_name = worker_name
        self._worker_key = worker_key
        self._failure_ttl = failure_ttl
        scripts = [BOOK, CEDE, FINISH, STATUSES]
        self._commit = GroupCommit(redis, scripts, outage=outage, reply_timeout=lease, line="records")

    def execution(self, job: BusJob, start: Start) -> Execution:
        """RQ's object for what a script has recorded."""
        execution = Execution(start.execution, job.id, self._connection, self._worker_name)
        execution.created_at = execution.last_heartbeat = start.at
        execution._job = job  # noqa: SLF001 # as `Execution.create` does it
        return execution

    async def mend(self, job: BusJob, broken: Sequence[bytes]) -> bool:
        """Take broken fields out of a job's hash and put in what RQ needs to read it.

        Returns:
            False: the key is not a hash.
        """
        pipeline = self._redis.pipeline(transaction=True)
        if broken:
            pipeline.hdel(job.key, *broken)
        for field, value in {"data": job.data, "origin": job.origin, "created_at": utcformat(job.created_at)}.items():
            pipeline.hsetnx(job.key, field, value)  # type: ignore[arg-type] # bytes are as good as text
        try:
            await pipeline.execute()
        except ResponseError as exc:
            if "WRONGTYPE" in str(exc):
                return False
            raise
        return True

    async def drop(self, job: BusJob, queue_key: str) -> None:
        """Forget an id for which RQ can have no records."""
        await self._redis.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key), 1, job.id)

    async def succeed(self, job: BusJob, execution: Execution, result: Any, *, ttl: int) -> Outcome:
        """Record a result, for `ttl` seconds (-1: for ever)."""
        return await self._finish(job, execution, _SUCCESS, ttl, return_value=result)

    async def note(self, job: BusJob, execution: Execution, failure: Failure) -> Outcome:
        """Note how a job that still runs has failed, before RQ's own code records that it did."""
        pipeline = self._recorder()
        pipeline.hset(job.key, FAILURE_FIELD, encode(failure))
        return await self._submit(execution, pipeline)

    async def fail(self, job: BusJob, execution: Execution, error: ErrorInfo, note: Failure | None = None) -> Outcome:
        """Record a failure, for the job's or the settings' `failure_ttl`."""
        ttl = self._failure_ttl if job.failure_ttl is None else job.failure_ttl
        lines = traceback.format_exception_only(TaskFailed(job.id, error))
        return await self._finish(job, execution, _FAILURE, ttl, note, exc_string="".join(lines))

    async def cancel(self, job: BusJob, execution: Execution) -> Outcome:
        """Record that a running job was cancelled; kept as long as a failure."""
        pipeline = self._recorder()
        job.ended_at = _now()
        job._status = JobStatus.CANCELED  # noqa: SLF001
        pipeline.hset(job.key, mapping={"status": job._status.value, "ended_at": utcformat(job.ended_at)})  # noqa: SLF001
        if job.started_at:
            seconds = (job.ended_at - job.started_at).total_seconds()
            pipeline.hincrbyfloat(self._worker_key, "total_working_time", seconds)
        CanceledJobRegistry(job.origin, self._connection, serializer=JSONSerializer).add(job, pipeline=pipeline)
        job.cleanup(self._failure_ttl, pipeline=pipeline, remove_from_queue=False)
        execution.delete(job, pipeline)
        # Whoever requeues the job begins anew.
        pipeline.hdel(job.key, *NOTES)
        # RQ leaves the dependents of a cancelled job where they are.
        return await self._submit(execution, pipeline)

    async def forget(self, job: BusJob, execution: Execution) -> Outcome:
        """Record that a job whose hash was deleted does not run any more."""
        pipeline = self._recorder()
        job._status = JobStatus.CANCELED  # noqa: SLF001
        execution.delete(job, pipeline)
        return await self._submit(execution, pipeline)

    async def hand_back(self, job: BusJob, execution: Execution, queue_key: str, *, lost: bool = False) -> Outcome:
        """Put a running job back to the front of its queue, as if it had not been taken; `lost` counts it."""
        pipeline = self._recorder()
        pipeline.hset(job.key, mapping={"status": JobStatus.QUEUED.value, "started_at": "", "worker_name": ""})
        if lost:
            pipeline.hincrby(job.key, LOST_FIELD, 1)
        execution.delete(job, pipeline)
        pipeline.lpush(queue_key, job.id)
        # A job that others wait for goes back like any other: the second guard is the execution itself.
        return await self._submit(execution, pipeline)

    async def cede(self, job: BusJob, execution: Execution, queue_key: str) -> Outcome:
        """End a run that a newer attempt has fenced off; the job is put back only where nobody else runs it."""
        index, started = ExecutionRegistry.key_template.format(job.id), job.started_job_registry.key
        names = [execution.key, job.key, index, started, execution.worker_executions_key, queue_key]
        arguments = [job.id, execution.id, execution.key.removesuffix(execution.id)]
        return Outcome(await self._commit.call(pack(CEDE, names, arguments)))

    async def park(self, job: BusJob, execution: Execution, *, delay: float, failures: int) -> Outcome:
        """Put a running job into RQ's scheduled registry, from where any worker or scheduler releases it."""
        pipeline = self._recorder()
        job._status = JobStatus.SCHEDULED  # noqa: SLF001
        fields: dict[Any, Any] = {
            "status": JobStatus.SCHEDULED.value,
            "started_at": "",
            "worker_name": "",
            FAILURES_FIELD: failures,
        }
        pipeline.hset(job.key, mapping=fields)
        queue = BusQueue(job.origin, self._connection, serializer=JSONSerializer)
        pipeline.zadd(queue.scheduled_job_registry.key, {job.id: math.ceil(_now().timestamp() + delay)})
        execution.delete(job, pipeline)
        return await self._submit(execution, pipeline)

    async def is_running(self, execution: Execution) -> bool:
        """Whether RQ's records say that this execution goes on. An outage is waited out."""
        return bool(await self._commit.call(pack_command("EXISTS", execution.key)))

    async def statuses(self, listed: Sequence[BusJob]) -> list[str | None]:
        """What RQ has as the jobs' statuses; None where there is no such job any more. An outage is waited out.

        Raises:
            ResponseError: Redis does not say.
        """
        found: list[bytes | None] = []
        for some in _portions(listed):
            found += await self._commit.call(pack(STATUSES, [job.key for job in some], ()))
        return [None if status is None else status.decode(errors="replace") for status in found]

    async def renew(self, running: Sequence[tuple[BusJob, Execution]]) -> None:
        """Renew RQ's own leases of what still runs here: an execution that is over must not come back."""
        now = utcformat(_now())
        for some in _portions(running):
            renewals = []
            for job, execution in some:
                pipeline = self._recorder()
                execution.heartbeat(job.started_job_registry, EXECUTION_TTL, pipeline)
                pipeline.hset(job.key, "last_heartbeat", now)
                renewals.append(self._submit(execution, pipeline))
            await asyncio.gather(*renewals)

    async def aclose(self, patience: float = FLUSH_TIMEOUT) -> None:
        """Write what is pending, for so many seconds at most."""
        await self._commit.aclose(patience)

    def _recorder(self) -> Pipeline:
        return self._connection.pipeline(transaction=False)

    async def _finish(
        self,
        job: BusJob,
        execution: Execution,
        kind: _Kind,
        ttl: int,
        note: Failure | None = None,
        **content: Any,
    ) -> Outcome:
        """Record an end: RQ's own classes give the names of keys and the form of the result, a script does the rest."""
        job.ended_at = _now()
        job._status = kind.status  # noqa: SLF001
        result = _Result(
            job.id,
            kind.result,
            self._connection,
            created_at=job.ended_at,
            worker_name=self._worker_name,
            serializer=JSONSerializer,
            execution_id=execution.id,
            execution_started_at=execution.created_at,
            execution_ended_at=job.ended_at,
            **content,
        )
        registry = job.finished_job_registry if kind is _SUCCESS else job.failed_job_registry
        # RQ's rules: in the one registry "+inf" never runs out, in the other a score below 0.
        score: float = ttl if ttl < 0 else int(job.ended_at.timestamp()) + ttl
        if kind is _SUCCESS and ttl == -1:
            score = math.inf
        names = [
            execution.key,
            job.key,
            job.dependents_key,
            job.dependencies_key,
            Result.get_key(job.id),  # type: ignore[no-untyped-call]
            registry.key,
            job.started_job_registry.key,
            ExecutionRegistry.key_template.format(job.id),
            execution.worker_executions_key,
            self._worker_key,
        ]
        ran = (job.ended_at - job.started_at).total_seconds() if job.started_at else 0.0
        arguments: list[Any] = [job.id, execution.id, kind.status.value, time_of(job.ended_at), repr(ran), kind.counter]
        arguments += [ttl, str(score), b"" if note is None else encode(note)]
        for name, value in result.serialize().items():
            arguments += (name, repr(value) if isinstance(value, float) else value)
        reply = await self._commit.call(pack(FINISH, names, arguments))
        if isinstance(reply, bytes):
            # Whatever is under that name, RQ did not put it there. The job is over all the same.
            log.error("RQ's record of a job's end is not complete", task=job.id, error=reply.decode(errors="replace"))
            return Outcome.DONE
        return Outcome(reply)

    async def _submit(self, execution: Execution, pipeline: Pipeline) -> Outcome:
        arguments: list[Any] = []
        for words, _ in pipeline.command_stack:
            arguments.append(len(words))
            # As redis-py would encode them: RQ's statuses are strings that `str` would not show as such.
            arguments += (repr(word) if isinstance(word, float) else word for word in words)
        return Outcome(await self._commit.call(pack(BOOK, [execution.key], arguments)))


class _Result(Result):
    """RQ's result of a job. The job's serializer has been looked at already: see `BusJob`."""

    def __init__(self, *args: Any, serializer: Any, **content: Any) -> None:
        super().__init__(*args, **content)
        self.serializer = serializer


class _Kind(NamedTuple):
    """A way to end, in RQ's words."""

    status: JobStatus
    result: Result.Type
    #: Field of RQ's hash of a worker.
    counter: str


_SUCCESS: Final = _Kind(JobStatus.FINISHED, Result.Type.SUCCESSFUL, "successful_job_count")
_FAILURE: Final = _Kind(JobStatus.FAILED, Result.Type.FAILED, "failed_job_count")


def _portions(listed: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(listed), AT_ONCE):
        yield listed[first : first + AT_ONCE]


def _now() -> datetime:
    return datetime.now(UTC)
