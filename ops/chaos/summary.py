"""What a run comes to: the table at the end, or the same as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import msgspec

from chaos.checker import KINDS, Violation, outcome
from chaos.history import Following, History, Incident, Message
from chaos.proxy import POINTS

#: Violations that are told one by one.
TOLD = 20


def recoveries(history: History) -> list[float]:
    """Seconds from each kill to the moment in which each task that was running there was running elsewhere, or over."""
    deaths: dict[str, Incident] = {
        incident.worker: incident for incident in history.incidents if incident.fault == "kill"
    }
    seconds = []
    for log in history.logs.values():
        # Deltas have no time of their own; what was to be tried again waited for something else.
        steps = [step for message in log if (step := _step(message)) is not None]
        for (kind, at, worker), (_, next_at, _) in pairwise(steps):
            death = deaths.get(worker)
            if kind == "started" and death is not None and at <= death.at < next_at:
                seconds.append(next_at - death.at)
    return sorted(seconds)


def summarise(history: History, violations: Sequence[Violation]) -> dict[str, Any]:
    """Every figure of the table, by name."""
    faults = Counter(incident.fault for incident in history.incidents)
    points = Counter(incident.point for incident in history.incidents if incident.point)
    outcomes = Counter(outcome(log[-1]) or "open" for log in history.logs.values() if log)
    broken = Counter(violation.kind for violation in violations)
    recovered = recoveries(history)
    return {
        "seed": history.seed,
        "tasks": len(history.promises),
        "ended": dict(sorted(outcomes.items())),
        "attempts": sum(_type(message) == "started" for log in history.logs.values() for message in log),
        "kills": faults["kill"],
        "freezes": faults["freeze"],
        "partitions": faults["partition"],
        "silent connections": faults["silence"],
        "drains": faults["drain"],
        "redis restarts": faults["restart"] + faults["crash"],
        "of them crashes": faults["crash"],
        "failovers": faults["failover"],
        "moves of slots": faults["move"],
        "connections cut": faults["cut"],
        "slow spells": faults["slow"],
        "struck at named points": {point: points[point] for point in POINTS},
        "provider calls": len(history.calls),
        "provider faults": sum(bool(call.fault) for call in history.calls),
        "of them": dict(sorted(Counter(call.fault for call in history.calls if call.fault).items())),
        "followers": len(history.followings),
        "who came late": sum(_came_late(following, history) for following in history.followings),
        "who dropped": sum(following.dropped for following in history.followings),
        "who heard that redis is away": sum(following.away for following in history.followings),
        "who came back behind what they had seen": sum(following.after is not None for following in history.followings),
        "messages observed": sum(len(watch.messages) for watch in history.watches),
        "recoveries": len(recovered),
        "recovery, median s": round(median(recovered), 2) if recovered else None,
        "recovery, max s": round(recovered[-1], 2) if recovered else None,
        **{kind: broken[kind] for kind in KINDS},
    }


def _came_late(following: Following, history: History) -> bool:
    """Whether it came for the first time, and the task had begun or ended before."""
    steps = (step for message in history.logs.get(following.task, ()) if (step := _step(message)) is not None)
    _, at, _ = next(steps, ("", following.since, ""))
    return following.after is None and at < following.since


def table(summary: dict[str, Any], violations: Sequence[Violation]) -> str:
    """The figures as lines to read, and the first of the violations."""
    width = max(len(name) for name in summary) + 2
    lines = []
    for name, value in summary.items():
        if name == KINDS[0]:
            lines.append("")
        if isinstance(value, dict):
            lines.append(name)
            lines += [f"  {key:<{width + 20}}{count:>8}" for key, count in value.items()]
        else:
            lines.append(f"{name:<{width + 22}}{'-' if value is None else value:>8}")
    lines += [
        "",
        *(
            f"{' '.join(filter(None, (f'{violation.kind}:', violation.task, violation.what)))}"
            for violation in violations[:TOLD]
        ),
    ]
    if len(violations) > TOLD:
        lines.append(f"… and {len(violations) - TOLD} more")
    return "\n".join(lines).rstrip()


class _Body(msgspec.Struct):
    type: str
    at: float = 0.0
    worker: str = ""


_bodies = msgspec.json.Decoder(_Body)


def _type(message: Message) -> str:
    return _bodies.decode(message.text).type


def _step(message: Message) -> tuple[str, float, str] | None:
    body = _bodies.decode(message.text)
    return (body.type, body.at, body.worker) if body.at else None
