"""What a run comes to: the table at the end, or the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fuzz.tally import Tally, Violation

#: Violations that are told one by one, and outcomes that a line has room for.
TOLD: Final = 20
ROOM: Final = 6

_COLUMNS: Final = ("kind", "inputs", "crashes", "hangs", "broken rules", "slowest ms", "grew KiB", "outcomes")


def summarise(tallies: Sequence[Tally], seed: str, seconds: float) -> dict[str, Any]:
    """Every figure of the table, by name."""
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "inputs": sum(tally.inputs for tally in tallies),
        "kinds": {
            tally.kind: {
                "inputs": tally.inputs,
                "crashes": _count(tally, "crash"),
                "hangs": _count(tally, "hang"),
                "broken rules": _count(tally, "broken") + _count(tally, "leak"),
                "slowest ms": round(tally.slowest, 1),
                "slowest index": tally.slowest_index,
                "grew KiB": None if tally.growth is None else tally.growth // 1024,
                "outcomes": dict(tally.outcomes.most_common()),
            }
            for tally in tallies
        },
        "violations": [
            {
                "kind": each.kind,
                "index": each.index,
                "what": each.what,
                "detail": each.detail,
                "again": again(each, seed),
            }
            for tally in tallies
            for each in tally.violations
        ],
    }


def again(violation: Violation, seed: str) -> str:
    """The command that tries one input again."""
    only = f" ONLY={violation.index}" if violation.index >= 0 else ""
    return f"make fuzz SEED={seed} KIND='{violation.kind}'{only}"


def table(figures: dict[str, Any]) -> str:
    """The figures for a person."""
    rows = [_COLUMNS]
    for kind, figure in figures["kinds"].items():
        grew = "-" if figure["grew KiB"] is None else str(figure["grew KiB"])
        numbers = [f"{figure[name]:,}" for name in _COLUMNS[1:6]]
        rows.append((kind, *numbers, grew, _told(figure["outcomes"])))
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS) - 1)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join([*cells, row[-1]]))
    found = figures["violations"]
    for each in found[:TOLD]:
        lines += ["", f"{each['what']}: {each['again']}", *(f"    {line}" for line in each["detail"].splitlines())]
    if len(found) > TOLD:
        lines += ["", f"and {len(found) - TOLD} more: JSON=1 has them all"]
    verdict = f"{len(found)} inputs broke a rule" if found else "no crash, no hang, no leak, no broken rule"
    lines += ["", f"{figures['inputs']:,} inputs in {figures['seconds']:g} s, seed {figures['seed']}: {verdict}"]
    return "\n".join(lines)


def _told(outcomes: dict[str, int]) -> str:
    """The most frequent outcomes, and how many others there are."""
    words = [f"{outcome} {count:,}" for outcome, count in list(outcomes.items())[:ROOM]]
    rest = len(outcomes) - ROOM
    return ", ".join([*words, *([f"and {rest} others"] if rest > 0 else [])])


def _count(tally: Tally, what: str) -> int:
    return sum(violation.what == what for violation in tally.violations)
