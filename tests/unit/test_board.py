"""A board is read while it is written, by other processes and after the writer's death; a roster adds them up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from deltabus.monitoring import board
from deltabus.monitoring.board import Board
from deltabus.monitoring.catalogue import ENDED, GAP, TAKEN
from deltabus.monitoring.roster import Roster

WRITER = """
import os, signal, sys
from deltabus.monitoring.board import Board
written = Board(int(sys.argv[1]))
numbers = written.series(("a", "é"), 2)
numbers[1] += 2.5
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_has_written_stays():
    descriptor = board.shared()
    kept = Board(descriptor)
    killed = subprocess.run(
        [sys.executable, "-c", WRITER, str(descriptor)], pass_fds=(descriptor,), timeout=60, check=False
    )
    os.close(descriptor)
    assert killed.returncode == -signal.SIGKILL
    assert dict(kept.read()) == {("a", "é"): (0.0, 2.5)}


def test_series_of_every_length_of_name_are_found_again():
    written = Board()
    for length in range(1, 20):
        written.series(("x" * length, "y"))[0] = length
    assert [(len(key[0]), numbers[0]) for key, numbers in written.read()] == [(n, float(n)) for n in range(1, 20)]


def test_a_full_board_takes_no_more_and_nobody_is_harmed(monkeypatch):
    monkeypatch.setattr(board, "SIZE", 4096)
    written = Board()
    for number in range(1000):
        written.series((f"series {number}",))[0] += 1
    assert 0 < len(list(written.read())) < 1000
    assert written.refused == 1000 - len(list(written.read()))


@pytest.fixture
def roster():
    return Roster(2)


def counted(number: float) -> Board:
    made = Board()
    made.series((TAKEN.name, "chat"))[0] = number
    made.series(("pulse",), 3)[0] = number
    return made


def test_a_roster_adds_up_the_living_and_the_dead_each_once(roster):
    roster.enter(1, counted(1))
    roster.enter(2, counted(10))
    assert roster.totals() == {(TAKEN.name, "chat"): [11.0]}
    roster.leave(1)
    roster.enter(3, counted(100))
    assert roster.totals() == {(TAKEN.name, "chat"): [111.0]}
    assert [entry.pid for entry in roster.living()] == [2, 3]


def test_histograms_of_processes_are_added_number_by_number(roster):
    for pid in (1, 2):
        made = Board()
        made.series((GAP.name, "p", "m"), 3)[pid] += pid
        roster.enter(pid, made)
    assert roster.totals() == {(GAP.name, "p", "m"): [0.0, 1.0, 2.0]}


def test_what_no_process_can_count_is_counted_on_the_roster(roster):
    roster.count(ENDED.name)
    roster.count(ENDED.name)
    assert roster.totals() == {(ENDED.name,): [2.0]}
