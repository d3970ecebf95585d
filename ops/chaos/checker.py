"""What must hold of a history. Each rule is a function that finds the breaks of it.

The rules are told from the protocol (`ops/protocol.md`), not from the code that keeps them: the checker
shares nothing with the worker but the names of keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from chaos.history import Call, History, Job, Message, Outcome, Promise
from deltabus import keys

#: The kinds of violations, in the order in which they are told.
KINDS: Final = (
    "lost",
    "doubled terminal",
    "wrong ending",
    "gaps",
    "stale writes",
    "seen, not logged",
    "logged, not seen",
    "wrong text",
    "needless calls",
    "misfiled",
    "leftovers",
    "crashes",
)

_TERMINAL: Final = ("completed", "failed", "cancelled")

#: RQ's status of a job, the registries that hold it, and the types of its results, by its terminal event.
_FILED: Final[Mapping[str, tuple[str, frozenset[str], tuple[int, ...]]]] = {
    "completed": ("finished", frozenset({"finished"}), (1,)),
    "failed": ("failed", frozenset({"failed"}), (2,)),
    "cancelled": ("canceled", frozenset({"canceled"}), ()),
}

Place = tuple[int, int]

#: Before every event.
_START: Final[Place] = (0, 0)


@dataclass(frozen=True, slots=True)
class Violation:
    """A break of a rule."""

    #: One of `KINDS`.
    kind: str
    #: Empty where it is not about one task.
    task: str
    what: str


def check(history: History) -> list[Violation]:
    """Every violation there is."""
    found = []
    for case in _cases(history):
        for rule in (_ends, _is_ordered, _is_seen, _is_announced, _says_what_was_sent, _calls_are_due, _is_filed):
            found += [Violation(kind, case.promise.task, f"{case.promise.kind}: {what}") for kind, what in rule(case)]
    found += [Violation("leftovers", "", f"{key} is left") for key in history.leftovers]
    for end in history.exits:
        if end.code or not end.asked:
            asked = "was asked to leave and" if end.asked else "was not asked to leave, and"
            found.append(Violation("crashes", "", f"worker {end.worker} {asked} ended with {end.code}"))
    return found


def outcome(message: Message) -> Outcome | None:
    """How a task ended, by its terminal event; None: the event is not terminal."""
    body = msgspec.json.decode(message.text)
    if body["type"] not in _TERMINAL:
        return None
    return f"failed:{body['error']['code']}" if body["type"] == "failed" else str(body["type"])


class _Event:
    """A message, read."""

    __slots__ = ("body", "id", "message", "place", "type")

    def __init__(self, message: Message) -> None:
        self.message, self.id = message, message.id
        self.body: dict[str, Any] = msgspec.json.decode(message.text)
        self.type: str = self.body["type"]
        self.place = _place(message.id)

    @property
    def is_terminal(self) -> bool:
        return self.type in _TERMINAL


@dataclass(slots=True)
class _View:
    """What somebody saw of a task."""

    name: str
    events: list[_Event]
    #: The cursor that it began behind.
    after: Place = _START
    #: Whether it was there from the cursor on, and may have missed nothing up to the last event that it saw.
    unbroken: bool = True
    #: Whether it was there to the end, too.
    whole: bool = True
    error: str = ""


@dataclass(slots=True)
class _Case:
    """All there is about one task."""

    promise: Promise
    log: list[_Event]
    job: Job | None
    calls: list[Call] = field(default_factory=list)
    views: list[_View] = field(default_factory=list)
    #: What was heard of it on the channels of results, with the queue.
    announced: list[tuple[str, Message]] = field(default_factory=list)
    #: The observer heard those channels from its promise to the end of the run.
    attended: bool = False


_Found = Iterator[tuple[str, str]]


def _cases(history: History) -> list[_Case]:
    cases = {
        task: _Case(promise, [_Event(message) for message in history.logs.get(task, ())], history.jobs.get(task))
        for task, promise in history.promises.items()
    }
    for call in history.calls:
        if call.task in cases:
            cases[call.task].calls.append(call)
    for number, watch in enumerate(history.watches, 1):
        heard: dict[str, list[_Event]] = defaultdict(list)
        for message in watch.messages:
            heard[message.task].append(_Event(message))
        for task, case in cases.items():
            events = heard.get(task, [])
            unbroken = watch.since < case.promise.sent_at
            whole = unbroken and (watch.until is None or any(event.is_terminal for event in events))
            if events or whole:
                case.views.append(_View(f"observer, {number}.", events, unbroken=unbroken, whole=whole))
            case.attended |= unbroken and watch.until is None
        for queue, messages in watch.results.items():
            for message in messages:
                if message.task in cases:
                    cases[message.task].announced.append((queue, message))
    outages = [
        (incident.at, incident.until or incident.at)
        for incident in history.incidents
        if incident.fault in ("restart", "crash", "failover", "move", "cut")
    ]
    for following in history.followings:
        error = following.error
        if following.away and not any(at <= following.until and until >= following.since for at, until in outages):
            error = "an error that Redis is away, and it was not"
        if following.task in cases:
            cases[following.task].views.append(
                _View(
                    f"follower after {following.after or 'nothing'}",
                    [_Event(message) for message in following.messages],
                    after=_place(following.after) if following.after else _START,
                    whole=not (following.dropped or following.away),
                    error=error,
                )
            )
    return list(cases.values())


def _ends(case: _Case) -> _Found:
    """Every accepted task ends exactly once, in a way that was to be expected."""
    endings = [event for event in case.log if event.is_terminal]
    if not endings:
        yield "lost", f"accepted, and its log has no end: {_ids(case.log)}"
        return
    if len(endings) > 1:
        yield "doubled terminal", f"its log has {len(endings)} terminal events"
    if endings[0].id != keys.SEAL:
        yield "wrong ending", f"the terminal event has the id {endings[0].id}"
    ended = outcome(endings[0].message)
    if ended not in case.promise.outcomes:
        why = (endings[0].body.get("error") or {}).get("message", "")
        yield "wrong ending", f"{ended} ({why}), not {' or '.join(sorted(case.promise.outcomes))}"


def _is_ordered(case: _Case) -> _Found:
    """The log has no gap, and nothing of an attempt after a newer one has begun, or after the end."""
    yield from _order(case.log, _START, unbroken=True)


def _order(events: Sequence[_Event], after: Place, *, unbroken: bool) -> _Found:
    last, ended = after, False
    for event in events:
        if ended:
            yield "stale writes", f"{event.id} ({event.type}) after the end"
            continue
        if event.is_terminal:
            ended = True
            continue
        where = f"{event.id} ({event.type}) after {last[0]}-{last[1]}"
        attempt, n = event.place
        if attempt < last[0]:
            yield "stale writes", f"{where}, of a newer attempt"
            continue
        if event.place <= last:
            yield "gaps", f"{where}: twice, or out of order"
        elif (event.type == "started") != (n == 0):
            yield "gaps", f"{where}: `started`, and nothing else, is the first of an attempt"
        elif unbroken and event.type != "snapshot":  # which stands for whatever was before it
            if attempt == last[0] and n != last[1] + 1:
                yield "gaps", f"{where}: something is missing"
            elif attempt > last[0] and event.place != (last[0] + 1, 0):
                yield "gaps", f"{where}: the beginning of an attempt is missing"
        last = event.place


def _is_seen(case: _Case) -> _Found:
    """What is seen is the log, byte for byte, and in order; who was there to the end has seen all of it."""
    log = {event.id: event.message.text for event in case.log}
    first = min((event.place for event in case.log), default=_START)
    for view in case.views:
        if sum(event.is_terminal for event in view.events) > 1:
            yield "doubled terminal", f"{view.name}: saw several terminal events"
        for kind, what in _order(view.events, view.after, unbroken=view.unbroken):
            yield kind, f"{view.name}: {what}"
        for event in view.events:
            # What is before the first was replaced by a snapshot.
            if event.place >= first and log.get(event.id) != event.message.text:
                what = "the log has another event of that id" if event.id in log else "the log does not have it"
                yield "seen, not logged", f"{view.name}: {event.id}: {what}"
        if view.error:
            yield "logged, not seen", f"{view.name}: met {view.error}"
        elif view.unbroken:
            seen = {event.id for event in view.events}
            last = max((event.place for event in view.events), default=view.after)
            # A snapshot on the way stands for what this view has not seen, as for what the log has no more.
            missed = [
                event.id
                for event in case.log
                if event.id not in seen and event.place > view.after and (view.whole or event.place < last)
            ]
            if missed:
                yield "logged, not seen", f"{view.name}: never saw {_some(missed)}"


def _is_announced(case: _Case) -> _Found:
    """The end, and nothing else, comes once on the channel of the queue's results."""
    endings = {event.message.text for event in case.log if event.is_terminal}
    if len(case.announced) > 1:
        yield "doubled terminal", f"announced {len(case.announced)} times among the results"
    for queue, message in case.announced:
        if queue != case.promise.queue:
            yield "seen, not logged", f"announced among the results of `{queue}`, though it is of another queue"
        if message.text not in endings:
            yield "seen, not logged", f"announced among the results with {message.id}, which is not its end"
    if case.attended and endings and not case.announced:
        yield "logged, not seen", "never announced among the results"


def _says_what_was_sent(case: _Case) -> _Found:
    """A completed task says what the provider sent in its final attempt, both streamed and as a result."""
    if not case.log or case.log[-1].type != "completed":
        return
    result = _content(case.log[-1].body.get("result"))
    if case.promise.text is not None:
        sent = [case.promise.text]
    else:
        # Where a snapshot has replaced it, the beginning is not known, and any call may be the one.
        began = max((event.body["at"] for event in case.log if event.type == "started"), default=0.0)
        sent = [call.text for call in case.calls if call.at >= began and not call.fault]
    if result not in sent:
        yield "wrong text", f"its {len(result)} characters are none of the {len(sent)} answers that were sent"
    streamed: str | None = None
    for event in case.log:
        if event.type in ("started", "snapshot"):
            streamed = None
        for chunk in event.body.get("chunks", ()):
            streamed = (streamed or "") + _said(chunk)
    if streamed is not None and streamed != result:
        yield "wrong text", f"its final attempt streamed {len(streamed)} characters that are not the result's"


def _calls_are_due(case: _Case) -> _Found:
    """The provider is not called for nothing, and no call goes on when nobody wants it any more."""
    if case.promise.uncalled and case.calls:
        yield "needless calls", f"{len(case.calls)} calls for a task that was not to begin"
    elif case.calls and case.log and all(event.is_terminal for event in case.log):
        yield "needless calls", f"{len(case.calls)} calls, and no attempt has begun"
    for call in case.calls:
        if call.left_open:
            yield "needless calls", f"call {call.number} ({call.fault}) was never closed"


def _is_filed(case: _Case) -> _Found:
    """RQ has the job where it belongs, and nowhere else."""
    if not case.log or (filed := _FILED.get(case.log[-1].type)) is None:
        return
    if case.job is None:
        yield "misfiled", "RQ does not have the job"
        return
    status, registries, results = filed
    if case.job.status != status:
        yield "misfiled", f"{case.log[-1].type} on the log, and {case.job.status or 'without a job'} to RQ"
    if case.job.registries != registries:
        yield (
            "misfiled",
            f"in {', '.join(sorted(case.job.registries)) or 'no registry'}, not in {', '.join(registries)}",
        )
    if case.job.results != results:
        yield "misfiled", f"RQ has the results {case.job.results}, not {results}"
    if case.job.notes:
        yield "leftovers", f"its job hash keeps {', '.join(sorted(case.job.notes))}"


def _place(id: str) -> Place:
    attempt, _, n = id.partition("-")
    return int(attempt), int(n)


def _content(result: Any) -> str:
    """What a `chat.completion` says."""
    return str(result["choices"][0]["message"]["content"])


def _said(chunk: Mapping[str, Any]) -> str:
    return "".join((choice.get("delta") or {}).get("content") or "" for choice in chunk["choices"])


def _ids(events: Sequence[_Event]) -> str:
    return _some([event.id for event in events]) or "it is empty"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
