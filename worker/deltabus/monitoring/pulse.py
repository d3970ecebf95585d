"""How a worker process is: what it says of itself on its board, where others see it even if it hangs.

Times are of `time.monotonic`, which counts the same in all processes of a machine; 0.0: it has not come to that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from deltabus import rhythm
from deltabus.monitoring.board import Board, histogram
from deltabus.monitoring.catalogue import LAG
from deltabus.telemetry import Observer

#: The series on the board.
_PULSE: Final = ("pulse",)
_USABLE: Final = "usable"


class Trouble(IntEnum):
    """Why a process is stuck."""

    NONE = 0
    #: Its event loop does not run.
    LOOP_BLOCKED = 1
    #: Its queues have jobs, it has free slots, and it takes nothing.
    NOT_TAKING = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """What a board says of its process."""

    #: When its loop ran last.
    beat: float = 0.0
    #: Since when it takes jobs.
    started: float = 0.0
    draining: bool = False
    suspended: bool = False
    #: Since when Redis does not serve it.
    away: float = 0.0
    #: When it last took a job, or could take none for good reason.
    busy: float = 0.0
    #: When it last looked at its queues.
    looked: float = 0.0
    slots: int = 0
    used: int = 0
    #: Resident bytes.
    memory: int = 0
    trouble: Trouble = Trouble.NONE
    #: When its loop last ran again that had stood still for a lease.
    resumed: float = 0.0


_FIELDS: Final = {name: index for index, name in enumerate(Reading.__slots__)}


class Pulse(Observer):
    """Writes it. Used on the loop, but for what the thread that looks at the process sets: `trouble` and `memory`."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._numbers = board.series(_PULSE, len(_FIELDS))
        self._providers: dict[str, memoryview[float]] = {}
        self._late = histogram(board.series((LAG.name,), len(LAG.buckets) + 2), LAG.buckets)
        #: When the next beat should be.
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def beat(self, lease: float, told: Callable[[float], None]) -> None:
        """Beat, and go on beating as long as the loop runs, several times in a lease of so many seconds.

        Args:
            told: is called at each beat, with the seconds until the next one: of timers, a loop that idles has few.
        """
        now, pause = time.monotonic(), rhythm.pause(rhythm.period(lease))
        self._runs(now, lease)
        told(pause)
        if self._due:
            self._late(max(0.0, now - self._due))
        self._due = now + pause
        self._timer = asyncio.get_running_loop().call_later(pause, self.beat, lease, told)

    def _runs(self, now: float, lease: float) -> None:
        former = self._numbers[_FIELDS["beat"]]
        if former and now - former > lease:
            self._set("resumed", now)
        self._set("beat", now)

    def stop(self) -> None:
        """Beat no more: the work is over."""
        if self._timer is not None:
            self._timer.cancel()

    def read(self) -> Reading:
        """As others see it."""
        return _reading(list(self._numbers))

    def is_in(self, trouble: Trouble) -> None:
        """The process is stuck, for that reason, or not any more."""
        self._set("trouble", trouble)

    def takes(self, memory: int) -> None:
        """The process takes so many bytes of memory."""
        self._set("memory", memory)

    def started(self, slots: int) -> None:
        now = time.monotonic()
        self._set("slots", slots)
        self._set("busy", now)
        self._set("started", now)

    def suspended(self, on: bool) -> None:
        now = time.monotonic()
        self._set("looked", now)
        self._set("suspended", on)
        if on:
            self._set("busy", now)

    def draining(self) -> None:
        self._set("draining", 1)

    def outage(self, away: bool) -> None:
        now = time.monotonic()
        self._set("away", now if away else 0.0)
        self._set("busy", now)

    def taken(self, queue: str, used: int) -> None:
        self._set("used", used)
        self._set("busy", time.monotonic())

    def freed(self, used: int) -> None:
        if used + 1 >= self._numbers[_FIELDS["slots"]]:
            self._set("busy", time.monotonic())  # until now there was no free slot
        self._set("used", used)

    def provider(self, name: str, problem: str | None) -> None:
        if name not in self._providers:
            self._providers[name] = self._board.series((_USABLE, name))
        self._providers[name][0] = problem is None

    def _set(self, field: str, value: float) -> None:
        self._numbers[_FIELDS[field]] = value


def read(board: Board) -> tuple[Reading, dict[str, bool]]:
    """How the process of a board is, and which of its providers it can use."""
    reading, providers = Reading(), {}
    for key, numbers in board.read():
        if key == _PULSE:
            reading = _reading(list(numbers))
        elif key[0] == _USABLE:
            providers[key[1]] = bool(numbers[0])
    return reading, providers


def _reading(numbers: list[float]) -> Reading:
    beat, started, draining, suspended, away, busy, looked, slots, used, memory, trouble, resumed = numbers
    return Reading(
        beat=beat,
        started=started,
        draining=bool(draining),
        suspended=bool(suspended),
        away=away,
        busy=busy,
        looked=looked,
        slots=int(slots),
        used=int(used),
        memory=int(memory),
        trouble=Trouble(int(trouble)),
        resumed=resumed,
    )
