"""The worker processes that one `/metrics` and `/healthz` speaks for: their boards, and what the dead have counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from deltabus.monitoring.board import Board, Key
from deltabus.monitoring.catalogue import COUNTED

_COUNTED: Final = frozenset(metric.name for metric in COUNTED)


@dataclass(frozen=True, slots=True)
class Entry:
    """A living process."""

    pid: int
    board: Board
    #: When it was entered, by `time.monotonic`.
    since: float


class Roster:
    """Written by one thread, read by others.

    Args:
        wanted: how many processes there should be.
    """

    def __init__(self, wanted: int = 1) -> None:
        self.wanted = wanted
        #: Exit codes of processes that die again and again, one for each.
        self.crashing: Sequence[int] = ()
        self._lock = threading.Lock()
        self._living: dict[int, Entry] = {}
        self._dead: dict[Key, list[float]] = {}

    def count(self, name: str) -> None:
        """Count something that no process can count for itself."""
        with self._lock:
            _add(self._dead, (name,), [1.0])

    def enter(self, pid: int, board: Board) -> None:
        """A process has been started."""
        with self._lock:
            self._living[pid] = Entry(pid, board, time.monotonic())

    def leave(self, pid: int) -> None:
        """It is dead: what it has counted stays, how it was does not."""
        with self._lock:
            for key, numbers in _counted(self._living.pop(pid).board):
                _add(self._dead, key, numbers)

    def living(self) -> list[Entry]:
        """The processes that there are."""
        with self._lock:
            return list(self._living.values())

    def totals(self) -> dict[Key, list[float]]:
        """What all processes have counted, the living and the dead."""
        with self._lock:
            totals = {key: list(numbers) for key, numbers in self._dead.items()}
            for entry in self._living.values():
                for key, numbers in _counted(entry.board):
                    _add(totals, key, numbers)
        return totals


def _counted(board: Board) -> Iterator[tuple[Key, list[float]]]:
    return ((key, list(numbers)) for key, numbers in board.read() if key[0] in _COUNTED)


def _add(totals: dict[Key, list[float]], key: Key, numbers: list[float]) -> None:
    known = totals.setdefault(key, [0.0] * len(numbers))
    for index, number in enumerate(numbers):
        known[index] += number
