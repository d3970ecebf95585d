"""Whether worker processes are alive, well and ready: three answers, each with its reasons. Pure.

- **live**: a restart would not help. Redis does not matter here: nobody is mended by restarting all workers at once
  because Redis is away.
- **well**: live, Redis answers, and nothing dies again and again.
- **ready**: every process takes jobs, or could, and can use every provider.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deltabus.monitoring.pulse import Reading, Trouble, read
from deltabus.monitoring.roster import Entry, Roster

#: Seconds that a process may take to begin: it may have to wait for the lease of one that was killed.
START_LIMIT: Final = 60.0


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason for a bad answer."""

    reason: str
    detail: str
    process: int | None = None

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        process = {} if self.process is None else {"process": self.process}
        return {"reason": self.reason, **process, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Vital:
    """A process, and how it is."""

    pid: int
    #: `starting`, `working`, `suspended` or `draining`.
    state: str
    reading: Reading

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        slots = {"used": self.reading.used, "total": self.reading.slots}
        return {"process": self.pid, "state": self.state, "slots": slots}


@dataclass(slots=True)
class Health:
    """The three answers: each is good where it has no problem."""

    processes: list[Vital] = field(default_factory=list)
    live: list[Problem] = field(default_factory=list)
    well: list[Problem] = field(default_factory=list)
    ready: list[Problem] = field(default_factory=list)


def judge(roster: Roster, *, lease: float, redis: str | None) -> Health:
    """Look at all processes.

    Args:
        lease: seconds for which a loop may stand still.
        redis: what is wrong with Redis, as seen from here.
    """
    now = time.monotonic()
    health = Health()
    entries = roster.living()
    for entry in entries:
        _judge_process(entry, health, now, lease)
    health.well[:0] = health.live
    if redis is not None:
        health.well.append(Problem("redis", redis))
    if roster.crashing:
        codes = ", ".join(map(str, sorted(set(roster.crashing))))
        detail = (
            f"{len(roster.crashing)} of {roster.wanted} processes die again and again, with exit code {codes}: the log "
            "says why, before each `process died`"
        )
        health.well.append(Problem("crash_loop", detail))
    if len(entries) < roster.wanted:
        health.ready.append(Problem("missing", f"{len(entries)} of {roster.wanted} processes are there"))
    health.ready += health.well
    return health


def reasons(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The problems as JSON."""
    return [problem.shown() for problem in problems]


def _judge_process(entry: Entry, health: Health, now: float, lease: float) -> None:
    pid = entry.pid
    reading, providers = read(entry.board)
    health.processes.append(Vital(pid, _state(reading), reading))
    # Here as well as in the process: one that is stopped as a whole cannot say so.
    if reading.beat and now - reading.beat > lease:
        detail = f"its event loop has not run for {now - reading.beat:.1f} s"
        health.live.append(Problem("loop_blocked", detail, pid))
    elif reading.trouble is Trouble.NOT_TAKING:
        free = f"{reading.slots - reading.used} of {reading.slots} slots are free"
        detail = f"its queues have jobs, {free}, and it has taken nothing for {now - reading.busy:.1f} s"
        health.live.append(Problem("not_taking", detail, pid))
    if not reading.started:
        if now - entry.since > START_LIMIT and not reading.away:
            health.live.append(Problem("not_started", f"it has not begun after {now - entry.since:.0f} s", pid))
        health.ready.append(Problem("starting", "it has not begun to take jobs", pid))
    if reading.draining:
        health.ready.append(Problem("draining", "it takes no more jobs", pid))
    if reading.away:
        health.well.append(Problem("redis", f"Redis has not served it for {now - reading.away:.1f} s", pid))
    for name, usable in providers.items():
        if not usable:
            health.ready.append(Problem("provider", f"provider `{name}` cannot be used: see the log", pid))


def _state(reading: Reading) -> str:
    if reading.draining:
        return "draining"
    if not reading.started:
        return "starting"
    return "suspended" if reading.suspended else "working"
