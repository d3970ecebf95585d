"""What a rehearsal is judged by, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

from shows.review import Figures


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The figures of a deployment.

    A task is lost where its subscriber did not see it completed, with its own text, or its log has a gap, or RQ does
    not know of its end. It is doubled where a message came twice, or one of an attempt that was over.
    """

    tasks: int
    replaced_workers: int
    attempts_rerun: int
    handed_back: int
    lost: int
    doubled: int
    #: Seconds in which a subscriber, in the midst of a stream, saw nothing.
    longest_gap: float
    #: Seconds from the first SIGTERM until the last worker was replaced.
    time: float

    @classmethod
    def of(cls, figures: Figures) -> Self:
        """Out of what the show has counted."""
        return cls(
            tasks=int(figures["streams"]),
            replaced_workers=int(figures["workers replaced"]),
            attempts_rerun=int(figures["attempts"] - figures["streams"]),
            handed_back=int(figures["handed back"]),
            lost=int(max(figures[name] for name in ("not completed", "wrong texts", "gaps", "not finished in RQ"))),
            doubled=int(figures["doubled"] + figures["stale"]),
            longest_gap=figures["longest gap of a subscriber, s"],
            time=figures["replaced all within, s"],
        )


def table(rehearsal: Rehearsal, wrong: Sequence[str]) -> str:
    """The figures for people, and a line for each thing that is wrong."""
    lines = []
    for name, value in asdict(rehearsal).items():
        words = name.replace("_", " ")
        lines.append(f"{words + ', s':<18}{value:>8.1f}" if isinstance(value, float) else f"{words:<18}{value:>8}")
    return "\n".join([*lines, *(f"! {sentence}" for sentence in wrong)])
