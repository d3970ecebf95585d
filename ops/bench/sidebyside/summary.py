"""Repetitions made into one line: min, median and max, and ratios of what ran in the same repetition."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sidebyside.sample import OURS, Metric

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some numbers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(min(numbers), median(numbers), max(numbers))

    def __str__(self) -> str:
        if self.least == self.most:
            return short(self.median)
        return f"{short(self.median)} ({short(self.least)} to {short(self.most)})"


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of one contender."""

    case: str
    metric: Metric
    contender: str
    spread: Spread
    #: How much better deltabus is, by repetition: 3 is three times as good. None where there is nothing to compare.
    ratio: Spread | None
    repetitions: int


def lines(rows: Iterable[Row], metrics: Sequence[Metric]) -> Iterator[Line]:
    """What is known of a scenario."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row in rows:
        for name, value in row["figures"].items():
            by_contender = found.setdefault((row["case"], name), {})
            by_contender.setdefault(row["contender"], {})[row["repetition"]] = value
    by_name = {metric.name: metric for metric in metrics}
    for (case, name), contenders in found.items():
        metric = by_name[name]
        for contender in sorted(contenders, key=lambda name: (name != OURS, name)):
            values = contenders[contender]
            ratio = None if metric.alone or contender == OURS else _ratio(contenders.get(OURS, {}), values, metric)
            yield Line(case, metric, contender, Spread.of(list(values.values())), ratio, len(values))


def short(number: float) -> str:
    """As many digits as mean something."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def _ratio(ours: Mapping[int, float], theirs: Mapping[int, float], metric: Metric) -> Spread | None:
    both = [(ours[at], value) for at, value in theirs.items() if ours.get(at) and value]
    ratios = [our / their if metric.more else their / our for our, their in both]
    return Spread.of(ratios) if ratios else None
