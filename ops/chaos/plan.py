"""The tasks of a run: what each asks for, how it may end, when it is sent and by whom. All follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from chaos.history import Outcome

#: Queues, highest priority first: with several, taking a job is another thing than with one.
QUEUES: Final = ("urgent", "chat")

#: Model names by which the workers find the scripted server.
MODEL: Final = "scripted"

#: What may go wrong with a call, and that another call makes good.
PASSING_FAULTS: Final = (
    "429 with Retry-After",
    "429 with retry-after-ms",
    "429",
    "500",
    "503 as HTML",
    "reset mid-stream",
    "closed mid-stream",
    "stall before the first byte",
    "stall mid-stream",
    "garbage",
    "half an event",
    "error mid-stream",
)

#: What no other call makes good, and how the task ends then.
LASTING_FAULTS: Final[Mapping[str, Outcome]] = {
    "400": "failed:invalid_request",
    "401": "failed:authentication",
    "429 insufficient_quota": "failed:quota_exhausted",
}

#: Who enqueues a task: `deltabus.AsyncBus`, stock RQ, or any language with plain Redis commands.
Producer = Literal["bus", "rq", "commands"]

#: Who cancels it: `AsyncTask.cancel`, the key and the message, or the key alone as the message was lost.
Canceller = Literal["bus", "commands", "key"]

_WORDS: Final = ("stop", "by", "the", "bus", "takes", "each", "word", "on", "and", "none", "of", "them", "is", "lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One task."""

    task: str
    kind: str
    queue: str
    producer: Producer
    #: Seconds after the start of the run.
    at: float
    envelope: dict[str, Any]
    outcomes: frozenset[Outcome]
    #: What a completed task says, where the scripted server is not asked.
    text: str | None = None
    #: What goes wrong with the first calls of it, one after the other; the last of a lasting kind repeats.
    faults: tuple[str, ...] = ()
    uncalled: bool = False
    #: Seconds after it was accepted; None: nobody cancels it.
    cancel_after: float | None = None
    canceller: Canceller = "bus"
    #: The job's payload, where it is not an ordinary call.
    payload: bytes | None = None
    #: Seconds after it was accepted at which followers come, one each.
    followers: tuple[float, ...] = ()


def make(seed: int, count: int, seconds: float) -> list[Plan]:
    """The plans of a run, in the order in which they are sent.

    Args:
        seconds: within which all of them are sent.
    """
    dice = random.Random(seed)  # noqa: S311 # it hides nothing
    times = sorted(dice.uniform(0, seconds) for _ in range(count))
    kinds = dice.choices([kind for kind, _ in _KINDS], [weight for _, weight in _KINDS], k=count)
    return [
        kind(_Draft(dice, f"{seed:x}-{number}", at)) for number, (kind, at) in enumerate(zip(kinds, times, strict=True))
    ]


@dataclass(slots=True)
class _Draft:
    """What all kinds have in common, drawn from the same dice."""

    dice: random.Random
    task: str
    at: float
    request: dict[str, Any] = field(default_factory=dict)

    def plan(self, kind: str, *outcomes: Outcome, envelope: dict[str, Any] | None = None, **more: Any) -> Plan:
        dice = self.dice
        request: dict[str, Any] = {"messages": [{"role": "user", "content": self.task}], "stream": True}
        followers = tuple(dice.uniform(0, 4) for _ in range(dice.choice([0, 0, 1, 1, 2])))
        return Plan(
            **{
                "task": self.task,
                "kind": kind,
                "queue": dice.choice(QUEUES),
                "producer": dice.choices(["bus", "rq", "commands"], [4, 1, 1])[0],
                "at": self.at,
                "envelope": {"request": request | self.request, **(envelope or {})},
                "outcomes": frozenset(outcomes),
                "followers": followers,
                **more,
            }
        )

    def words(self, least: int, most: int) -> str:
        """A text that no other task says."""
        words = [self.task, *(self.dice.choice(_WORDS) for _ in range(self.dice.randint(least, most) - 1))]
        return " ".join(words)

    def echo(self, text: str, **script: Any) -> None:
        """Let the echo provider answer."""
        pace = {"interval": self.dice.choice([0.02, 0.05, 0.1]), "chunk_words": self.dice.choice([1, 1, 3])}
        self.request |= {"model": "echo", "echo": {"text": text, **pace, **script}}

    def scripted(self) -> None:
        """Let the scripted server answer. It knows the task by the header."""
        self.request |= {"model": MODEL}

    @property
    def header(self) -> dict[str, Any]:
        return {"headers": {"X-Task": self.task}}


def _echo(draft: _Draft) -> Plan:
    text = draft.words(3, 40)
    draft.echo(text)
    return draft.plan("echo", "completed", text=text)


def _long_echo(draft: _Draft) -> Plan:
    """Its log is longer than logs may be, and is trimmed to a snapshot on the way."""
    text = draft.words(60, 90)
    draft.echo(text, chunk_words=1, interval=0.03)
    return draft.plan("long echo", "completed", text=text)


def _failing_echo(draft: _Draft) -> Plan:
    """Fails for a passing reason before or amid the answer, and completes in a later attempt."""
    text = draft.words(8, 20)
    error = draft.dice.choice(["rate_limited", "provider_unavailable", "stream_truncated", "provider_protocol"])
    # What fails unseen is tried again in the same attempt, unless it is parked: and the script counts attempts.
    fault: dict[str, Any] = draft.dice.choice(
        [{"fail_after": 0, "retry_after": 1.0}, {"fail_after": 3}, {"fail_after": 3, "retry_after": 0.1}]
    )
    draft.echo(text, error=error, fail_attempts=draft.dice.choice([1, 2]), **fault)
    return draft.plan("failing echo", "completed", text=text)


def _kept_echo(draft: _Draft) -> Plan:
    """Fails amid the answer, and its producer wants the part kept."""
    draft.echo(draft.words(8, 20), fail_after=4, error="provider_unavailable")
    return draft.plan("kept echo", "failed:provider_unavailable", envelope={"retry": {"after_delta": "fail"}})


def _stalled_echo(draft: _Draft) -> Plan:
    """Says nothing more at some point, until the time for the attempt is over."""
    draft.echo(draft.words(8, 20), stall_after=4)
    return draft.plan("stalled echo", "failed:deadline_exceeded", envelope={"timeout": 1.0})


def _cancelled_echo(draft: _Draft) -> Plan:
    """Is cancelled: perhaps before it begins, perhaps too late."""
    text = draft.words(20, 40)
    draft.echo(text, **draft.dice.choice([{}, {"stall_after": 5}]))
    stalls = "stall_after" in draft.request["echo"]
    return draft.plan(
        "cancelled echo",
        "cancelled",
        # One that stalls ends no other way.
        *(() if stalls else ("completed",)),
        text=text,
        cancel_after=draft.dice.uniform(0, 3),
        canceller=draft.dice.choice(["bus", "commands", "key"]),
    )


def _scripted(draft: _Draft) -> Plan:
    draft.scripted()
    return draft.plan("scripted", "completed", envelope=draft.header)


def _whole_scripted(draft: _Draft) -> Plan:
    """An answer that is not streamed."""
    draft.scripted()
    draft.request["stream"] = False
    return draft.plan("scripted, whole", "completed", envelope=draft.header)


def _failing_scripted(draft: _Draft) -> Plan:
    draft.scripted()
    faults = tuple(draft.dice.choices(PASSING_FAULTS, k=draft.dice.choice([1, 1, 2])))
    return draft.plan("failing scripted", "completed", envelope=draft.header, faults=faults)


def _refused_scripted(draft: _Draft) -> Plan:
    draft.scripted()
    fault, outcome = draft.dice.choice(list(LASTING_FAULTS.items()))
    return draft.plan("refused scripted", outcome, envelope=draft.header, faults=(fault,))


def _cancelled_scripted(draft: _Draft) -> Plan:
    """Is cancelled while the server says nothing: its connection must be closed."""
    draft.scripted()
    return draft.plan(
        "cancelled scripted",
        "cancelled",
        envelope=draft.header,
        faults=("silence",),
        cancel_after=draft.dice.uniform(0, 3),
        canceller=draft.dice.choice(["bus", "commands", "key"]),
    )


def _expired(draft: _Draft) -> Plan:
    """Nobody wants it any more when it is enqueued."""
    draft.scripted()
    envelope = draft.header | {"deadline": 1.0}
    return draft.plan("expired", "failed:deadline_exceeded", envelope=envelope, uncalled=True)


def _broken(draft: _Draft) -> Plan:
    """What strangers enqueue."""
    payload, outcome = draft.dice.choice(
        [
            (b"\x80\x05K\x01.", "failed:invalid_request"),
            (b"not a call", "failed:invalid_request"),
            (b'["os.system", null, [{"request": {}}], {}]', "failed:unknown_task"),
            (b'["deltabus.tasks.chat", null, [{"request": {}, "proivder": "x"}], {}]', "failed:invalid_request"),
        ]
    )
    return draft.plan("broken", outcome, payload=payload, producer="commands", uncalled=True)


#: Kinds of tasks, and how often each comes.
_KINDS: Final[list[tuple[Callable[[_Draft], Plan], int]]] = [
    (_echo, 24),
    (_long_echo, 5),
    (_failing_echo, 10),
    (_kept_echo, 3),
    (_stalled_echo, 3),
    (_cancelled_echo, 10),
    (_scripted, 16),
    (_whole_scripted, 4),
    (_failing_scripted, 14),
    (_refused_scripted, 3),
    (_cancelled_scripted, 4),
    (_expired, 2),
    (_broken, 2),
]
