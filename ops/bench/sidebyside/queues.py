"""The workers of the no-op race: how each is started, fed, and seen to be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import redis

from deltabus import Bus
from sidebyside.process import Process
from sidebyside.sample import OURS
from sidebyside.stage import Stage

#: Requests that are put on the queue in one call.
BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class Racer:
    """A worker of a queue."""

    name: str
    #: Tasks of a full race: some two seconds' worth.
    tasks: int
    #: Its environment; empty: our own.
    environment: str
    #: Its program with arguments.
    command: tuple[str, ...]
    #: The program that puts tasks on its queue.
    feeder: str
    #: How many of so many tasks are not done yet, as its own keys say it; None: RQ's registry of finished jobs says it.
    left: Callable[[redis.Redis, int], int] | None = None

    def feed(self, stage: Stage, tasks: int) -> None:
        """Put so many tasks on the queue."""
        if self.environment:
            stage.ask_peer(self.environment, self.feeder, str(tasks))
        else:
            feed(stage, tasks)

    def done(self, client: redis.Redis, tasks: int) -> int:
        """How many of them are done."""
        if self.left is None:
            return int(client.zcard("rq:finished:bench"))
        return tasks - self.left(client, tasks)

    @contextmanager
    def work(self, stage: Stage) -> Iterator[Process]:
        """The worker, in one process."""
        if self.environment:
            with stage.peer(self.environment, *self.command) as process:
                yield process
        else:
            with stage.worker(*self.command) as process:
                yield process


def feed(stage: Stage, tasks: int) -> None:
    """Put tasks on our queue that the provider `echo` answers at once."""
    with stage.bus() as bus:
        put(bus, tasks)


def put(bus: Bus, tasks: int) -> None:
    """The same, over a bus that is there."""
    request = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    for begin in range(0, tasks, BATCH):
        bus.chat_many([request] * min(BATCH, tasks - begin), queue="bench")


RQ_WORKER: Final = ("rq", "worker", "--quiet", "bench")

RACERS: Final = (
    Racer(OURS, 6000, "", ("bench",), ""),
    Racer("RQ SimpleWorker", 800, "rq", (*RQ_WORKER, "-w", "rq.SimpleWorker"), "rq_tasks.py"),
    Racer("RQ Worker", 150, "rq", RQ_WORKER, "rq_tasks.py"),
    Racer(
        "arq",
        2000,
        "arq",
        ("arq", "arq_tasks.WorkerSettings"),
        "arq_tasks.py",
        lambda client, _: int(client.zcard("arq:queue")),
    ),
    Racer(
        "taskiq-redis",
        2000,
        "taskiq",
        ("taskiq", "worker", "taskiq_tasks:broker", "--workers", "1", "--log-level", "WARNING"),
        "taskiq_tasks.py",
        lambda client, tasks: tasks - _acknowledged(client, "taskiq"),
    ),
    Racer(
        "dramatiq",
        4000,
        "dramatiq",
        ("dramatiq", "dramatiq_tasks", "--processes", "1"),
        "dramatiq_tasks.py",
        lambda client, _: int(client.hlen("dramatiq:default.msgs")),
    ),
    Racer(
        "Celery threads",
        1500,
        "celery",
        ("celery", "-A", "celery_tasks", "worker", "--pool", "threads", "--concurrency", "8", "--loglevel", "WARNING"),
        "celery_tasks.py",
        lambda client, _: int(client.llen("celery")) + int(client.hlen("unacked")),
    ),
)


def _acknowledged(client: redis.Redis, stream: str) -> int:
    """Entries of a stream that its group has read and acknowledged; Redis does not know it from the first moment on."""
    return sum(int(found["entries-read"] or 0) - int(found["pending"]) for found in client.xinfo_groups(stream))
