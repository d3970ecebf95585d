"""What happened in a run, from every side that could see it. The checker reads nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

#: How a task ended: `completed`, `cancelled` or `failed:<code>`.
Outcome = str

#: What can be done to a run.
Fault = Literal[
    "kill", "freeze", "partition", "silence", "drain", "restart", "crash", "failover", "move", "cut", "slow"
]


class Promise(msgspec.Struct, kw_only=True):
    """A task that was accepted: it must end, and in one of these ways."""

    task: str
    queue: str
    kind: str
    #: Unix time, in seconds, before it was enqueued and after.
    sent_at: float
    accepted_at: float
    outcomes: frozenset[Outcome]
    #: What a completed task says; None: what the provider sent says.
    text: str | None = None
    #: The provider must never hear of it.
    uncalled: bool = False


class Call(msgspec.Struct, kw_only=True):
    """A request that the provider got, and what it answered."""

    task: str
    #: From 1, for each task.
    number: int
    at: float
    #: What it says if it is sent to the end.
    text: str
    #: What goes wrong with it; empty: nothing, it is sent to the end.
    fault: str = ""
    #: Its connection was still open when all tasks had ended, though there was nothing to wait for.
    left_open: bool = False


class Message(msgspec.Struct, array_like=True):
    """An event as somebody got it."""

    task: str
    id: str
    #: JSON of the event, as it was written.
    text: str
    #: Unix time, in seconds, at which it was received; 0 in a log.
    at: float = 0.0


class Watch(msgspec.Struct, kw_only=True):
    """A time without a break in which the observer listened to all channels, and what it heard."""

    since: float
    #: None: to the end of the run.
    until: float | None = None
    #: What came on the channels of the tasks.
    messages: list[Message] = []
    #: What came on the channels of the queues' results, by queue.
    results: dict[str, list[Message]] = {}


class Following(msgspec.Struct, kw_only=True):
    """One follower of one task, from a cursor until it left or the task had ended."""

    task: str
    #: The cursor behind which it came; None: from the start.
    after: str | None
    since: float = 0.0
    messages: list[Message] = []
    #: It left before the end, on purpose.
    dropped: bool = False
    #: It was told that Redis cannot be reached, and left.
    away: bool = False
    #: When it left.
    until: float = 0.0
    #: What else it met instead of an end.
    error: str = ""


class Job(msgspec.Struct, kw_only=True):
    """What RQ has on a task at the end."""

    #: Empty: there is no such job.
    status: str
    #: Kinds of the registries that hold it.
    registries: frozenset[str]
    #: Results that were recorded, by RQ's number of their type.
    results: tuple[int, ...] = ()
    #: Fields in its hash in which deltabus keeps account of it while it waits or runs.
    notes: frozenset[str] = frozenset()


class Incident(msgspec.Struct, kw_only=True):
    """Something that was done to the run."""

    fault: Fault
    at: float
    #: When a Redis that was restarted was back.
    until: float | None = None
    #: Whom it struck; empty: Redis, or all.
    worker: str = ""
    #: Where it struck: a name of `proxy.POINTS`, or empty for any moment.
    point: str = ""


class Exit(msgspec.Struct, kw_only=True):
    """A worker process that ended without being killed."""

    worker: str
    code: int
    #: Somebody had told it to.
    asked: bool


class History(msgspec.Struct, kw_only=True):
    """A run."""

    seed: int
    promises: dict[str, Promise] = {}
    calls: list[Call] = []
    watches: list[Watch] = []
    followings: list[Following] = []
    #: Of every promised task, in the order of the stream.
    logs: dict[str, list[Message]] = {}
    jobs: dict[str, Job] = {}
    incidents: list[Incident] = []
    exits: list[Exit] = []
    #: Keys that exist at the end and should not.
    leftovers: list[str] = []

    def save(self, file: Path) -> None:
        """Write it down as JSON, to be looked at."""
        file.write_bytes(msgspec.json.encode(self))


def load(file: Path) -> History:
    """A history that was saved."""
    return msgspec.json.decode(file.read_bytes(), type=History)
