"""A bus at one moment, as `look` finds it: its queues, workers, running tasks, newest failures, and its Redis.

Two of them, a while apart, give rates. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec


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
    #: Seconds that its lease still lasts, below 0 where it has run out; None: none that ends, as RQ's own workers.
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
    #: A replica shows what its master had a moment ago; or, where their link is down, when it broke.
    role: Literal["master", "replica", "replica without its master"]


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    #: Unix time in seconds, by the server's clock.
    at: float
    suspended: bool
    #: None: Redis keeps this to itself, or from this user.
    server: ServerView | None
    queues: tuple[QueueView, ...]
    workers: tuple[WorkerView, ...]
    #: Those that have run for longest.
    tasks: tuple[TaskView, ...]
    #: The newest ones, the newest first.
    failures: tuple[FailureView, ...]
    #: Queues and workers that were not read, being too many for one look; no sum has what is in them.
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

    @property
    def more_tasks(self) -> int:
        """Tasks that run besides those of `tasks`."""
        return max(0, self.running - len(self.tasks))

    @property
    def more_failures(self) -> int:
        """Tasks that have failed and are kept, besides those of `failures`."""
        return max(0, self.dead - len(self.failures))


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What happened between two looks, per second."""

    #: Seconds between them.
    over: float
    completed: float
    failed: float
    #: Messages published on the server: each event of a task is one. None: Redis does not tell.
    events: float | None
    #: Events of each task that both saw.
    tasks: dict[str, float]


def rates(before: Overview, after: Overview) -> Rates:
    """The rates between two looks. Of workers that came or went in between, nothing is counted."""
    over = max(after.at - before.at, 0.001)
    earlier = {worker.name: worker for worker in before.workers}
    both = [(earlier[worker.name], worker) for worker in after.workers if worker.name in earlier]
    events = {task.id: task.events for task in before.tasks}

    def rate(less: int, more: int) -> float:
        # What counts may have begun anew: a worker that came back, a server, a log behind a snapshot.
        return max(0, more - less) / over

    published = None
    if before.server is not None and after.server is not None:
        published = rate(before.server.published, after.server.published)
    return Rates(
        over=over,
        completed=sum(rate(old.completed, new.completed) for old, new in both),
        failed=sum(rate(old.failed, new.failed) for old, new in both),
        events=published,
        tasks={task.id: rate(events[task.id], task.events) for task in after.tasks if task.id in events},
    )
