"""What became of the inputs of one kind: outcomes, violations, times, memory."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Characters of an input, or of what it did, that a violation shows.
SHOWN: Final = 2_000


@dataclass(frozen=True, slots=True)
class Violation:
    """An input that did what none may do. `what` is `crash`, `hang`, `leak` or `broken`."""

    kind: str
    index: int
    what: str
    detail: str


@dataclass(slots=True)
class Tally:
    """Counts of one kind, or of a part of it."""

    kind: str
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    #: Milliseconds that the slowest took, and which it was.
    slowest: float = 0.0
    slowest_index: int = -1
    #: Bytes by which the process under test grew, from a third of its inputs to the last; None: not measured.
    growth: int | None = None

    def note(self, index: int, outcome: str, seconds: float = 0.0) -> None:
        """One input has been tried."""
        self.inputs += 1
        self.outcomes[outcome] += 1
        if seconds * 1000 > self.slowest:
            self.slowest, self.slowest_index = seconds * 1000, index

    def violate(self, index: int, what: str, detail: str) -> None:
        """One input has broken a rule."""
        self.violations.append(Violation(self.kind, index, what, detail[:SHOWN]))

    def add(self, other: Tally) -> None:
        """Take in what another part of the same kind came to."""
        self.inputs += other.inputs
        self.outcomes += other.outcomes
        self.violations += other.violations
        if other.slowest > self.slowest:
            self.slowest, self.slowest_index = other.slowest, other.slowest_index
        if other.growth is not None:
            self.growth = max(self.growth or 0, other.growth)


def resident(pid: int | str = "self") -> int:
    """Bytes of memory that a process has; where the system does not tell, the most that this one has had."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
