"""What is measured; a module for each kind of question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from sidebyside.sample import Metric, Sample
from sidebyside.scenarios import deltas, latency, memory, noop, recovery, rediscost, scaling, starting, subscribers
from sidebyside.stage import Stage


@dataclass(frozen=True, slots=True)
class Scenario:
    """One of them: each call of `measure` is a repetition."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    measure: Callable[[Stage], Iterator[Sample]]
    #: So many repetitions at most: what takes long, and varies little.
    most: int = 1000


SCENARIOS: Final = tuple(
    Scenario(name, module.TITLE, module.METRICS, module.measure, getattr(module, "MOST", 1000))
    for name, module in {
        "noop": noop,
        "deltas": deltas,
        "memory": memory,
        "latency": latency,
        "scaling": scaling,
        "subscribers": subscribers,
        "recovery": recovery,
        "redis": rediscost,
        "starting": starting,
    }.items()
)
