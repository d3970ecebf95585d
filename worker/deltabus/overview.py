"""A bus at one moment: its queues, workers, running tasks, newest failures, and its Redis. RQ's own keys, read only.

One look takes three round trips and a bounded number of commands, none of which walks through all that there is.
A second look, a while later, gives rates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from deltabus import failure, keys, refusal, rqdate
from deltabus.errors import BusError, BusUnavailable
from deltabus.records import RQKeys

#: What one look reads of each at the most, in all. Of what is beyond, there are counts.
QUEUES: Final = 100
WORKERS: Final = 200
TASKS: Final = 50
FAILURES: Final = 10

#: How RQ describes a job, where nobody else does: the function, perhaps with its arguments, which are not to be shown.
_CALL: Final = re.compile(r"((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)(?:\(|$)")

#: Characters of a name, which anybody may have chosen.
_NAME: Final = 200


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """A queue."""

    name: str
    waiting: int
    #: Seconds since the job was enqueued that is taken next; 0 where none waits.
    oldest: float
    running: int
    scheduled: int
    deferred: int
    failed: int


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker."""

    name: str
    #: RQ's word: starting, idle, busy, suspended, …
    state: str
    queues: tuple[str, ...]
    host: str
    pid: int
    #: Tasks that it runs.
    running: int
    #: Tasks that it can run at once; 1 for RQ's own workers.
    slots: int
    #: Seconds that its lease still lasts, below 0 where it has run out; None: one of RQ's own, which have none.
    lease: float | None
    #: Seconds since it told of itself, and since it began.
    silent: float
    age: float
    completed: int
    failed: int


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A running task."""

    id: str
    queue: str
    #: Name of its function, without a path that is deltabus' own; empty where RQ's description is of another form.
    function: str
    worker: str
    #: Seconds since it was taken.
    age: float
    #: Events in its log.
    events: int
    #: How often it was begun before, and lost or failed.
    retries: int


class FailureView(msgspec.Struct, frozen=True, kw_only=True):
    """A task that has failed and is kept."""

    id: str
    queue: str
    #: Seconds since then.
    age: float
    #: See `deltabus.errors`; None: it was none of deltabus'.
    code: str | None = None
    provider: str | None = None


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """The Redis server; of a Cluster, the node that has the queues."""

    version: str
    used_memory: int
    #: Bytes; 0: no limit.
    max_memory: int
    clients: int
    commands_per_second: int
    #: Messages published since it started, by everybody.
    published: int


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    #: Unix time in seconds, by the server's clock.
    at: float
    suspended: bool
    server: ServerView
    queues: tuple[QueueView, ...]
    workers: tuple[WorkerView, ...]
    #: Those that have run for longest.
    tasks: tuple[TaskView, ...]
    #: The newest ones, the newest first.
    failures: tuple[FailureView, ...]
    #: Queues and workers that were not read, being too many.
    more_queues: int
    more_workers: int
    #: Commands that this look has taken.
    commands: int

    @property
    def waiting(self) -> int:
        """Jobs in all queues."""
        return sum(queue.waiting for queue in self.queues)

    @property
    def running(self) -> int:
        """Tasks that run."""
        return sum(queue.running for queue in self.queues)

    @property
    def dead(self) -> int:
        """Tasks that have failed and are kept."""
        return sum(queue.failed for queue in self.queues)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What happened between two looks, per second."""

    #: Seconds between them.
    over: float
    completed: float
    failed: float
    #: Messages published on the server: each event of a task is one.
    events: float
    #: Events of each task that both saw.
    tasks: dict[str, float]


def look(redis: Redis, prefix: str) -> Overview:
    """Look at a bus.

    Args:
        redis: returns bytes.
        prefix: RQ's key prefix (`Settings.rq_key_prefix`).

    Raises:
        BusUnavailable: Redis cannot be reached.
        BusError: Redis refuses.
    """
    return _Look(redis, prefix).take()


def rates(before: Overview, after: Overview) -> Rates:
    """The rates between two looks. Of workers that came or went in between, nothing is counted."""
    over = max(after.at - before.at, 0.001)
    earlier = {worker.name: worker for worker in before.workers}
    both = [(earlier[worker.name], worker) for worker in after.workers if worker.name in earlier]
    events = {task.id: task.events for task in before.tasks}

    def rate(less: int, more: int) -> float:
        # What counts may have begun anew: a worker that came back, a server, a log behind a snapshot.
        return max(0, more - less) / over

    return Rates(
        over=over,
        completed=sum(rate(old.completed, new.completed) for old, new in both),
        failed=sum(rate(old.failed, new.failed) for old, new in both),
        events=rate(before.server.published, after.server.published),
        tasks={task.id: rate(events[task.id], task.events) for task in after.tasks if task.id in events},
    )


class _Look:
    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._names = RQKeys(prefix)
        self._commands = 0

    def take(self) -> Overview:
        pipeline = self._pipeline()
        pipeline.time()
        pipeline.exists(f"{self._prefix}:suspended")
        pipeline.info()
        pipeline.info("commandstats")
        pipeline.smembers(self._names.queues.decode())
        pipeline.smembers(f"{self._prefix}:workers")
        pipeline.zrange(keys.workers(self._prefix), 0, -1, withscores=True)
        now, suspended, info, stats, queue_keys, worker_keys, leases = self._run(pipeline)
        self._now = now[0] + now[1] / 1_000_000
        queues = sorted(_text(key).removeprefix(f"{self._prefix}:queue:") for key in queue_keys)
        workers = sorted(_text(key).removeprefix(f"{self._prefix}:worker:") for key in worker_keys)

        pipeline = self._pipeline()
        for queue in queues[:QUEUES]:
            self._ask_queue(pipeline, queue)
        for worker in workers[:WORKERS]:
            pipeline.hmget(f"{self._prefix}:worker:{worker}", list(_WORKER))
            pipeline.scard(f"{self._prefix}:worker:{worker}:executions")
        found = iter(self._run(pipeline))
        rows = [(queue, [next(found) for _ in range(_QUEUE_COMMANDS)]) for queue in queues[:QUEUES]]
        staff = [(worker, next(found), next(found)) for worker in workers[:WORKERS]]

        running = [(queue, task.partition(":")[0]) for queue, task in _first(rows, 6, TASKS, 1)]
        failed = _first(rows, 7, FAILURES, -1)
        heads = [_text(row[1]) for _, row in rows if row[1] is not None]
        pipeline = self._pipeline()
        for task in heads:
            pipeline.hget(self._job(task), "enqueued_at")
        for _, task in running:
            pipeline.hmget(self._job(task), list(_TASK))
            pipeline.xlen(keys.log(task))
        for _, task in failed:
            pipeline.hmget(self._job(task), ["ended_at", failure.FAILURE_FIELD])
        found = iter(self._run(pipeline))
        dates = {task: rqdate.unix(next(found)) for task in heads}
        tasks = [self._task(queue, task, next(found), next(found)) for queue, task in running]
        failures = [self._failure(queue, task, next(found)) for queue, task in failed]
        held = {_text(name): end for name, end in leases}
        return Overview(
            at=self._now,
            suspended=bool(suspended),
            server=_server(info, stats),
            queues=tuple(self._queue(queue, row, dates) for queue, row in rows),
            # RQ forgets a dead worker's name later than the worker.
            workers=tuple(
                self._worker(name, fields, count, held.get(name)) for name, fields, count in staff if any(fields)
            ),
            tasks=tuple(sorted(filter(None, tasks), key=lambda task: -task.age)),
            failures=tuple(sorted(failures, key=lambda one: one.age)),
            more_queues=max(0, len(queues) - QUEUES),
            more_workers=max(0, len(workers) - WORKERS),
            commands=self._commands,
        )

    def _ask_queue(self, pipeline: Pipeline, queue: str) -> None:
        """`_QUEUE_COMMANDS` of them."""
        pipeline.llen(f"{self._prefix}:queue:{queue}")
        pipeline.lindex(f"{self._prefix}:queue:{queue}", 0)
        for registry in ("wip", "scheduled", "deferred", "failed"):
            pipeline.zcard(f"{self._prefix}:{registry}:{queue}")
        # By when they go; those that came first are the first to go.
        pipeline.zrange(f"{self._prefix}:wip:{queue}", 0, TASKS - 1, withscores=True)
        pipeline.zrevrange(f"{self._prefix}:failed:{queue}", 0, FAILURES - 1, withscores=True)

    def _queue(self, name: str, row: Sequence[Any], dates: dict[str, float]) -> QueueView:
        waiting, head, running, scheduled, deferred, failed, *_ = row
        enqueued = 0.0 if head is None else dates[_text(head)]
        return QueueView(
            name=_name(name),
            waiting=waiting,
            oldest=self._since(enqueued),
            running=running,
            scheduled=scheduled,
            deferred=deferred,
            failed=failed,
        )

    def _worker(self, name: str, fields: Sequence[bytes | None], running: int, end: float | None) -> WorkerView:
        state, queues, host, pid, heartbeat, birth, completed, failed, slots = fields
        return WorkerView(
            name=_name(name),
            state=_name(_text(state)) or "unknown",
            queues=tuple(_name(queue) for queue in _text(queues).split(",") if queue),
            host=_name(_text(host)),
            pid=_number(pid),
            running=running,
            slots=_number(slots) or 1,
            lease=None if end is None else end - self._now,
            silent=self._since(rqdate.unix(heartbeat)),
            age=self._since(rqdate.unix(birth)),
            completed=_number(completed),
            failed=_number(failed),
        )

    def _task(self, queue: str, task: str, fields: Sequence[bytes | None], events: int) -> TaskView | None:
        started, worker, function, failures, lost = fields
        begun = rqdate.unix(started)
        if not begun:
            return None  # it has ended in between
        return TaskView(
            id=_name(task),
            queue=_name(queue),
            function=_name(found[1].removeprefix("deltabus.tasks.")) if (found := _CALL.match(_text(function))) else "",
            worker=_name(_text(worker)),
            age=self._since(begun),
            events=events,
            retries=_number(failures) + _number(lost),
        )

    def _failure(self, queue: str, task: str, fields: Sequence[bytes | None]) -> FailureView:
        ended, note = fields
        known = failure.read(note)
        return FailureView(
            id=_name(task),
            queue=_name(queue),
            age=self._since(rqdate.unix(ended)),
            code=None if known is None else known.error.code,
            provider=None if known is None else known.error.provider,
        )

    def _since(self, when: float) -> float:
        """Seconds; dates are by producers' and workers' clocks."""
        return max(0.0, self._now - when) if when else 0.0

    def _job(self, task: str) -> str:
        return f"{self._prefix}:job:{task}"

    def _pipeline(self) -> Pipeline:
        return self._redis.pipeline(transaction=False)

    def _run(self, pipeline: Pipeline) -> list[Any]:
        asked = [command for command, _ in pipeline.command_stack]
        self._commands += len(asked)
        try:
            found = pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as exc:
            raise BusUnavailable(f"cannot reach Redis: {exc}") from exc
        for error in found:
            if refusal.lacks_right(error):
                raise BusError(f"Redis refuses: {error}; {refusal.advice(error)}") from error
        # A key of the wrong type counts as empty; what is wrong with it, `deltabus check` says.
        return [
            _empty(words) if isinstance(one, ResponseError) else one for words, one in zip(asked, found, strict=True)
        ]


#: Fields of RQ's hash of a worker, and of a running job.
_WORKER: Final = (
    *("state", "queues", "hostname", "pid", "last_heartbeat", "birth"),
    *("successful_job_count", "failed_job_count", keys.SLOTS_FIELD),
)
_TASK: Final = ("started_at", "worker_name", "description", "deltabus_failures", "deltabus_lost")

#: Commands for each queue.
_QUEUE_COMMANDS: Final = 8


def _first(rows: Sequence[tuple[str, Sequence[Any]]], column: int, count: int, order: int) -> list[tuple[str, str]]:
    """So many of all queues' members of a registry, by their scores; each with its queue."""
    found = [(order * score, queue, _text(member)) for queue, row in rows for member, score in row[column]]
    return [(queue, member) for _, queue, member in sorted(found)[:count]]


def _empty(words: Sequence[Any]) -> Any:
    match str(words[0]).upper():
        case "LLEN" | "ZCARD" | "SCARD" | "XLEN" | "EXISTS":
            return 0
        case "LINDEX" | "HGET":
            return None
        case "INFO":
            return {}  # some hosted servers keep it to themselves
        case "HMGET":
            return [None] * (len(words) - 2)
    return []


def _server(info: dict[str, Any], stats: dict[str, Any]) -> ServerView:
    published = (stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in ("publish", "spublish"))
    return ServerView(
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        used_memory=info.get("used_memory", 0),
        max_memory=info.get("maxmemory", 0),
        clients=info.get("connected_clients", 0),
        commands_per_second=info.get("instantaneous_ops_per_sec", 0),
        published=sum(published),
    )


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="replace")


def _name(name: str) -> str:
    """No longer than a screen or a line of JSON wants it."""
    return name[:_NAME]


def _number(value: bytes | None) -> int:
    return int(value) if value and value.isdigit() and len(value) <= 18 else 0
