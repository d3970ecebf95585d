"""One measurement of one contender, and what its figures mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

#: The contender that the others are compared with.
OURS: Final = "deltabus"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a scenario."""

    name: str
    unit: str
    #: More is better.
    more: bool = False
    #: It is shown by itself: a ratio of it says nothing.
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contender did in one repetition."""

    scenario: str
    #: Which of the scenario's settings, as `500 streams, 50/s`.
    case: str
    contender: str
    #: By name of the metric.
    figures: dict[str, float]

    def row(self, repetition: int) -> dict[str, Any]:
        """As it is written to the results."""
        return {
            "scenario": self.scenario,
            "case": self.case,
            "contender": self.contender,
            "repetition": repetition,
            "figures": self.figures,
        }
