"""What came out of a show: figures, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from deltabus import keys
from deltabus.events import AnyEvent, Completed, Delta, Retrying, Snapshot, Started
from deltabus.testing import GrammarError, check_events
from shows.stage import Stage, Stream

#: What a show has counted and measured, in the order in which it is shown.
Figures = dict[str, float]

#: Figures that must be 0 in every show.
NEVER: Final = ("wrong texts", "not completed", "gaps", "doubled", "stale", "not finished in RQ", "leftovers")

#: Keys that only exist while something waits or runs.
PASSING: Final = ("rq:queue:*", "rq:wip:*", "rq:execution*", "rq:worker:*:executions", f"{keys.PREFIX}:*:cancel")


async def review(stage: Stage) -> Figures:
    """Look at what subscribers saw, at the logs, at what was published and at RQ's records."""
    ids = {stream.task.id: await _log(stage, stream) for stream in stage.streams}
    published: dict[str, list[str]] = {task: [] for task in ids}
    for watch in stage.observer.watches:
        for message in watch.messages:
            published[message.task].append(message.id)
    finished = {str(member, "utf-8") for member in await stage.redis.zrange("rq:finished:chat", 0, -1)}  # type: ignore[arg-type] # no decoding
    kept: list[bytes] = []
    for pattern in PASSING:
        kept += [key async for key in stage.redis.scan_iter(pattern, 1000)]
    return {
        "streams": len(stage.streams),
        "events": sum(map(len, ids.values())),
        "attempts": sum(map(attempts, stage.streams)),
        "wrong texts": sum(not is_right(stream) for stream in stage.streams),
        "not completed": sum(not is_completed(stream) for stream in stage.streams),
        "gaps": sum(map(gaps, ids.values())),
        "doubled": sum(doubled(published[task]) for task in ids),
        "stale": sum(stale(published[task]) for task in ids),
        "not finished in RQ": len(ids.keys() - finished),
        "leftovers": len([key for key in kept if b"first_seen" not in key]),
    }


def violations(figures: Figures, limits: Mapping[str, float]) -> list[str]:
    """What is wrong: figures that must be 0 and are not, and those above their limits."""
    limits = dict.fromkeys(NEVER, 0.0) | dict(limits)
    return [
        f"{name}: {figures[name]:g}, allowed are {limit:g}" for name, limit in limits.items() if figures[name] > limit
    ]


def table(show: str, figures: Figures, wrong: Sequence[str]) -> str:
    """The figures for people."""
    lines = [f"{show}: {'WRONG' if wrong else 'right'}"]
    lines += [
        f"  {name:<32}{value:>10.1f}" if value % 1 else f"  {name:<32}{value:>10g}" for name, value in figures.items()
    ]
    return "\n".join([*lines, *(f"  ! {sentence}" for sentence in wrong)])


def attempts(stream: Stream) -> int:
    """How many attempts its subscriber saw."""
    return sum(isinstance(event, Started) for event in stream.events)


def began(stream: Stream, attempt: int) -> float:
    """When that attempt began: Unix time, seconds."""
    return next(event.at for event in stream.events if isinstance(event, Started) and event.attempt == attempt)


def is_completed(stream: Stream) -> bool:
    """Whether its subscriber saw it end as it should."""
    return bool(stream.events) and isinstance(stream.events[-1], Completed)


def handed_back(stream: Stream) -> int:
    """How often a worker that left gave it back, and said so."""
    return sum(isinstance(event, Retrying) and "shutting down" in event.reason for event in stream.events)


async def _log(stage: Stage, stream: Stream) -> list[str]:
    """The ids in a task's log."""
    entries: list[tuple[bytes, object]] = await stage.redis.xrange(keys.log(stream.task.id))  # type: ignore[assignment] # no decoding
    return [id_.decode() for id_, _ in entries]


def is_right(stream: Stream) -> bool:
    """Whether what was streamed in the last attempt, and the result, are the text, in events that are in order."""
    try:
        check_events(stream.events)
    except GrammarError:
        return False
    ending = stream.events[-1]
    if not isinstance(ending, Completed):
        return False
    content: str = ending.result["choices"][0]["message"]["content"]
    return _streamed(stream.events) == content == stream.text


def _streamed(events: Sequence[AnyEvent]) -> str:
    text = ""
    for event in events:
        if isinstance(event, Started | Snapshot):
            text = ""
        if isinstance(event, Delta | Snapshot):
            chunks = (chunk for chunk in event.chunks if chunk["choices"])
            text += "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    return text


def _place(id_: str) -> tuple[int, int]:
    attempt, _, n = id_.partition("-")
    return int(attempt), int(n)


def gaps(log: Sequence[str]) -> int:
    """Places of a log where something is missing: its start, a number, its end."""
    places = [_place(id_) for id_ in log if id_ != keys.SEAL]
    steps = [later not in {(attempt, n + 1), (attempt + 1, 0)} for (attempt, n), later in pairwise(places)]
    return sum(steps) + (places[:1] != [(1, 0)]) + (list(log[-1:]) != [keys.SEAL])


def doubled(published: Sequence[str]) -> int:
    """Messages that came before already."""
    return sum(times - 1 for times in Counter(published).values())


def stale(published: Sequence[str]) -> int:
    """Messages of an attempt after a newer one had begun, or of any after the end."""
    return sum(_place(later) < _place(earlier) for earlier, later in pairwise(published))
