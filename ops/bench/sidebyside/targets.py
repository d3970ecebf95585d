"""What is to be reached, against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from sidebyside.sample import OURS
from sidebyside.summary import short

Samples = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Target:
    """A limit for a figure of ours, for its ratio to somebody else's, or to that of another case."""

    what: str
    scenario: str
    case: str
    metric: str
    limit: float
    #: The figure, or ratio, is to be at least that.
    at_least: bool = False
    #: Ours is divided by that of this contender.
    over: str = ""
    #: And in this case; by default the same.
    over_case: str = ""
    unit: str = "x"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it was reached."""

    what: str
    limit: str
    measured: str
    is_met: bool


_FAST: Final = "500 streams, 50/s each"
_HALF: Final = "half of capacity"
_ONE: Final = "one worker process"

TARGETS: Final = (
    Target("CPU per delta, 500 x 50/s, over bare aiohttp", "deltas", _FAST, "CPU per delta", 2.0, over="bare aiohttp"),
    Target(
        "CPU per delta, 500 x 50/s, over SDK + PUBLISH", "deltas", _FAST, "CPU per delta", 1 / 8, over="SDK + PUBLISH"
    ),
    *(
        Target(f"no-op tasks/s over {peer}", "noop", "full queue", "tasks/s", least, at_least=True, over=peer)
        for peer, least in {
            "RQ SimpleWorker": 6.0,
            "dramatiq": 1.0,
            "arq": 1.0,
            "taskiq-redis": 1.0,
            "Celery threads": 1.0,
        }.items()
    ),
    Target(
        "memory per stream, of 1,000, over a stock RQ worker's",
        "memory",
        "1000 streams",
        "memory per stream",
        1 / 800,
        over="stock RQ worker",
        over_case="1 stream",
    ),
    Target("5,000 streams in one process", "memory", "5000 streams", "whole process", 300.0, unit="MB"),
    Target("added latency at half load, median", "latency", _HALF, "added, median", 1.0, unit="ms"),
    Target("added latency at half load, p99", "latency", _HALF, "added, p99", 5.0, unit="ms"),
    Target("added time to first token", "latency", _HALF, "added to first token", 3.0, unit="ms"),
    Target("enqueue in batches over RQ", "starting", "enqueue, in batches", "tasks/s", 3.0, at_least=True, over="RQ"),
    Target("enqueue one by one over RQ", "starting", "enqueue, one by one", "tasks/s", 1.0, at_least=True, over="RQ"),
    Target("idle worker", "starting", _ONE, "CPU while idle", 0.1, unit="% CPU"),
    Target("start to ready", "starting", _ONE, "start to ready", 400.0, unit="ms"),
    Target("`from deltabus import Bus`", "starting", _ONE, "import Bus", 60.0, unit="ms"),
    Target(
        "growth: CPU per delta at 5,000 streams over that at 500, at the same rate in all",
        "scaling",
        "5000 streams, 2500 deltas/s in all",
        "CPU per delta",
        1.3,
        over=OURS,
        over_case="500 streams, 2500 deltas/s in all",
    ),
    Target("recovery of 1,000 streams", "recovery", "1000 streams", "seconds", 15.0, unit="s"),
)


def verdicts(samples: Samples) -> Iterator[Verdict]:
    """For each target whose figures were measured, by the medians of the repetitions' ratios."""
    for target in TARGETS:
        ours = _figures(samples, target, OURS, target.case)
        if target.over:
            theirs = _figures(samples, target, target.over, target.over_case or target.case)
            ours = {at: ours[at] / theirs[at] for at in ours if theirs.get(at)}
        if not ours:
            continue
        measured = median(ours.values())
        is_met = measured >= target.limit if target.at_least else measured <= target.limit
        word = "at least" if target.at_least else "at most"
        yield Verdict(target.what, f"{word} {_text(target, target.limit)}", _text(target, measured), is_met)


def _figures(samples: Samples, target: Target, contender: str, case: str) -> dict[int, float]:
    """By repetition."""
    return {
        row["repetition"]: row["figures"][target.metric]
        for row in samples
        if (row["scenario"], row["case"], row["contender"]) == (target.scenario, case, contender)
        and target.metric in row["figures"]
    }


def _text(target: Target, value: float) -> str:
    if target.over and value < 1 / 4:
        return f"1/{1 / value:,.0f} {target.unit}"
    return f"{short(value)} {target.unit}"
