"""One look at a bus: RQ's own keys and ours, read only.

It takes five round trips, one more for each thousand commands, five commands for each queue and two for each worker,
none of which walks through all that there is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, NamedTuple

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from deltabus import failure, keys, refusal, rqdate
from deltabus.errors import BusError, BusUnavailable
from deltabus.overview import FailureView, Overview, QueueView, ServerView, TaskView, WorkerView
from deltabus.topology.discovery import is_elsewhere

#: What one look reads of each at the most. How many there are beyond, it says.
QUEUES: Final = 20_000
WORKERS: Final = 20_000
TASKS: Final = 50
FAILURES: Final = 10

#: Commands of one round trip: others get their turn in between, and nobody has to hold the replies of all.
BATCH: Final = 1000

#: How RQ describes a job, where nobody else does: the function, perhaps with its arguments, which are not to be shown.
_CALL: Final = re.compile(r"((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)(?:\(|$)")

#: Characters of a name, which anybody may have chosen.
_NAME: Final = 200

#: Fields of RQ's hash of a worker, and of a running job.
_WORKER: Final = (
    *("state", "queues", "hostname", "pid", "last_heartbeat", "birth"),
    *("successful_job_count", "failed_job_count", keys.SLOTS_FIELD),
)
_TASK: Final = ("started_at", "worker_name", "description", "deltabus_failures", "deltabus_lost")


def look(redis: Redis, prefix: str) -> Overview:
    """Look at a bus.

    What is of another type than it should be counts as empty, as does what Redis says of itself where it keeps that
    from us: what is wrong there, `deltabus check` tells.

    Args:
        redis: returns bytes.
        prefix: RQ's key prefix (`Settings.rq_key_prefix`).

    Raises:
        BusUnavailable: Redis cannot be reached, or answers nobody at the moment: it loads its data, a script keeps it
            busy, its master is away.
        BusError: Redis refuses.
    """
    return _Look(redis, prefix).take()


class _Counts(NamedTuple):
    """How many there are of each in a queue."""

    queue: bytes
    waiting: int
    running: int
    scheduled: int
    deferred: int
    failed: int


#: RQ's names of the registries, in the order of `_Counts`.
_REGISTRIES: Final = ("wip", "scheduled", "deferred", "failed")


class _Look:
    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._commands = 0
        self._now = 0.0

    def take(self) -> Overview:
        ask = self._redis.pipeline(transaction=False)
        ask.time()
        ask.exists(f"{self._prefix}:suspended")
        ask.info()
        ask.info("commandstats")
        ask.smembers(f"{self._prefix}:queues")
        ask.smembers(f"{self._prefix}:workers")
        ask.zrange(keys.workers(self._prefix), 0, -1, withscores=True)
        now, suspended, info, stats, queue_keys, worker_keys, leases = self._run(ask)
        self._now = now[0] + now[1] / 1_000_000
        queues = self._names("queue", queue_keys)
        workers = self._names("worker", worker_keys)
        counts, staff = self._count(queues[:QUEUES], workers[:WORKERS], dict(leases))
        heads, running, failed = self._ends(counts)
        oldest, ran, fell = self._choose(heads, running, failed)
        return Overview(
            at=self._now,
            suspended=bool(suspended),
            server=_server(info, stats),
            queues=tuple(self._queue(row, oldest.get(row.queue, 0.0)) for row in counts),
            workers=staff,
            more_queues=max(0, len(queues) - QUEUES),
            more_workers=max(0, len(workers) - WORKERS),
            **self._describe(ran, fell),
            commands=self._commands,
        )

    def _count(
        self, queues: Sequence[bytes], workers: Sequence[bytes], leases: dict[bytes, float]
    ) -> tuple[list[_Counts], tuple[WorkerView, ...]]:
        """What is in each queue, and the workers."""
        ask = self._redis.pipeline(transaction=False)
        for queue in queues:
            ask.llen(self._key("queue", queue))
            for registry in _REGISTRIES:
                ask.zcard(self._key(registry, queue))
        for worker in workers:
            ask.hmget(self._key("worker", worker), list(_WORKER))
            ask.scard(self._key("worker", worker) + b":executions")
        found = iter(self._run(ask))
        counts = [_Counts(queue, *(next(found) for _ in range(1 + len(_REGISTRIES)))) for queue in queues]
        staff = [(worker, next(found), next(found)) for worker in workers]
        # RQ forgets a dead worker's name later than the worker.
        return counts, tuple(
            self._worker(name, fields, count, leases.get(name)) for name, fields, count in staff if any(fields)
        )

    def _ends(
        self, counts: Sequence[_Counts]
    ) -> tuple[list[tuple[bytes, bytes]], list[tuple[float, bytes]], list[tuple[float, bytes]]]:
        """Of each queue the job that is taken next; and which queues have what has run for longest, or failed last."""
        waiting = [row.queue for row in counts if row.waiting]
        running = [row.queue for row in counts if row.running]
        failed = [row.queue for row in counts if row.failed]
        ask = self._redis.pipeline(transaction=False)
        for queue in waiting:
            ask.lindex(self._key("queue", queue), 0)
        for queue in running:
            # By when they go; those that came first are the first to go.
            ask.zrange(self._key("wip", queue), 0, 0, withscores=True)
        for queue in failed:
            ask.zrevrange(self._key("failed", queue), 0, 0, withscores=True)
        found = iter(self._run(ask))
        heads = [(queue, task) for queue in waiting if (task := next(found)) is not None]
        first = [(score, queue) for queue in running for _, score in next(found)]
        last = [(-score, queue) for queue in failed for _, score in next(found)]
        # No other queue can have any of so many.
        return heads, sorted(first)[:TASKS], sorted(last)[:FAILURES]

    def _choose(
        self,
        heads: Sequence[tuple[bytes, bytes]],
        running: Sequence[tuple[float, bytes]],
        failed: Sequence[tuple[float, bytes]],
    ) -> tuple[dict[bytes, float], list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
        """When the next job of each queue was enqueued; the tasks that are shown, each with its queue."""
        ask = self._redis.pipeline(transaction=False)
        for _, task in heads:
            ask.hget(self._key("job", task), "enqueued_at")
        for _, queue in running:
            ask.zrange(self._key("wip", queue), 0, TASKS - 1, withscores=True)
        for _, queue in failed:
            ask.zrevrange(self._key("failed", queue), 0, FAILURES - 1, withscores=True)
        found = iter(self._run(ask))
        oldest = {queue: rqdate.unix(next(found)) for queue, _ in heads}
        ran = sorted((score, queue, member) for _, queue in running for member, score in next(found))
        fell = sorted((-score, queue, member) for _, queue in failed for member, score in next(found))
        return (
            oldest,
            [(queue, member.partition(b":")[0]) for _, queue, member in ran[:TASKS]],
            [(queue, member) for _, queue, member in fell[:FAILURES]],
        )

    def _describe(
        self, running: Sequence[tuple[bytes, bytes]], failed: Sequence[tuple[bytes, bytes]]
    ) -> dict[Literal["tasks", "failures"], Any]:
        """The tasks."""
        ask = self._redis.pipeline(transaction=False)
        for _, task in running:
            ask.hmget(self._key("job", task), list(_TASK))
            ask.xlen(keys.log(_text(task)))
        for _, task in failed:
            ask.hmget(self._key("job", task), ["ended_at", failure.FAILURE_FIELD])
        found = iter(self._run(ask))
        tasks = [self._task(queue, task, next(found), next(found)) for queue, task in running]
        failures = [self._failure(queue, task, next(found)) for queue, task in failed]
        return {
            "tasks": tuple(sorted(filter(None, tasks), key=lambda task: -task.age)),
            "failures": tuple(sorted(failures, key=lambda one: one.age)),
        }

    def _queue(self, row: _Counts, enqueued: float) -> QueueView:
        return QueueView(
            name=_name(row.queue),
            waiting=row.waiting,
            oldest=self._since(enqueued),
            running=row.running,
            scheduled=row.scheduled,
            deferred=row.deferred,
            failed=row.failed,
        )

    def _worker(self, name: bytes, fields: Sequence[bytes | None], running: int, end: float | None) -> WorkerView:
        state, queues, host, pid, heartbeat, birth, completed, failed, slots = fields
        return WorkerView(
            name=_name(name),
            state=_name(state) or "unknown",
            queues=tuple(_name(queue) for queue in (queues or b"").split(b",") if queue),
            host=_name(host),
            pid=_number(pid),
            running=running,
            slots=_number(slots) or 1,
            # Anybody may have written it: one that never ends is none, and one that never began has ended.
            lease=None if end is None or end == math.inf else max(end, 0.0) - self._now,
            silent=self._since(rqdate.unix(heartbeat)),
            age=self._since(rqdate.unix(birth)),
            completed=_number(completed),
            failed=_number(failed),
        )

    def _task(self, queue: bytes, task: bytes, fields: Sequence[bytes | None], events: int) -> TaskView | None:
        started, worker, function, failures, lost = fields
        begun = rqdate.unix(started)
        if not begun:
            return None  # it has ended in between
        call = _CALL.match(_text(function))
        return TaskView(
            id=_name(task),
            queue=_name(queue),
            function=call[1].removeprefix("deltabus.tasks.")[:_NAME] if call else "",
            worker=_name(worker),
            age=self._since(begun),
            events=events,
            retries=_number(failures) + _number(lost),
        )

    def _failure(self, queue: bytes, task: bytes, fields: Sequence[bytes | None]) -> FailureView:
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

    def _key(self, kind: str, name: bytes) -> bytes:
        return f"{self._prefix}:{kind}:".encode() + name

    def _names(self, kind: str, found: Iterable[bytes]) -> list[bytes]:
        return sorted(key.removeprefix(self._key(kind, b"")) for key in found)

    def _run(self, pipeline: Pipeline) -> list[Any]:
        """The replies to all that it has been given."""
        stack = pipeline.command_stack
        replies: list[Any] = []
        for begin in range(0, len(stack), BATCH):
            part = self._redis.pipeline(transaction=False)
            for words, options in stack[begin : begin + BATCH]:
                part.execute_command(*words, **options)  # type: ignore[no-untyped-call]
            self._commands += len(part)
            try:
                found = part.execute(raise_on_error=False)
            except (RedisError, OSError) as exc:
                raise BusUnavailable(f"cannot reach Redis: {exc}") from exc
            replies += (
                self._refused(words, one) if isinstance(one, RedisError) else one
                for (words, _), one in zip(stack[begin : begin + BATCH], found, strict=True)
            )
        return replies

    def _refused(self, words: Sequence[Any], error: RedisError) -> Any:
        """What stands for a reply that is none.

        Raises:
            BusUnavailable, BusError: nothing does.
        """
        is_info = str(words[0]).upper() == "INFO"
        if is_info and (refusal.lacks_right(error) or "unknown command" in str(error)):
            return {}
        if refusal.lacks_right(error) or refusal.is_of_cluster(error):
            raise BusError(f"Redis refuses: {error}; {refusal.advice(error)}") from error
        if isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE"):
            return _empty(words)
        if is_elsewhere(error):
            # Whoever knows where the master is, is asked again.
            self._redis.connection_pool.disconnect()
        raise BusUnavailable(f"Redis does not answer: {error}") from error


def _empty(words: Sequence[Any]) -> Any:
    """The reply to a command where there is no such key."""
    match str(words[0]).upper():
        case "LLEN" | "ZCARD" | "SCARD" | "XLEN":
            return 0
        case "LINDEX" | "HGET":
            return None
        case "HMGET":
            return [None] * (len(words) - 2)
    return []


def _server(info: dict[str, Any], stats: dict[str, Any]) -> ServerView | None:
    if not info:
        return None
    published = (stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in ("publish", "spublish"))
    return ServerView(
        version=str(info.get("valkey_version") or info.get("redis_version", "")),
        used_memory=info.get("used_memory", 0),
        max_memory=info.get("maxmemory", 0),
        clients=info.get("connected_clients", 0),
        commands_per_second=info.get("instantaneous_ops_per_sec", 0),
        published=sum(published),
        role=_role(info),
    )


def _role(info: dict[str, Any]) -> Literal["master", "replica", "replica without its master"]:
    if info.get("role") != "slave":
        return "master"
    return "replica" if info.get("master_link_status") == "up" else "replica without its master"


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="replace")


def _name(name: bytes | None) -> str:
    """No longer than a screen or a line of JSON wants it."""
    return _text(name)[:_NAME]


def _number(value: bytes | None) -> int:
    return int(value) if value and value.isdigit() and len(value) <= 18 else 0
