"""Live, well and ready: what each answer depends on, and what it says when it is bad."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from deltabus.monitoring import health as healths
from deltabus.monitoring.board import Board
from deltabus.monitoring.pulse import Pulse, Trouble
from deltabus.monitoring.roster import Roster

LEASE = 10.0


class Process:
    """One on a roster that has begun a second ago."""

    def __init__(self, roster: Roster, pid: int) -> None:
        board = Board()
        self.pulse = Pulse(board)
        self.pulse.started(4)
        self.pulse.provider("main", None)
        self.set(beat=healths.time.monotonic())
        roster.enter(pid, board)

    def set(self, **fields: float) -> None:
        for field, value in fields.items():
            self.pulse._set(field, value)


@pytest.fixture(autouse=True)
def noon(monkeypatch):
    """The clock of whoever judges stands still."""
    now = time.monotonic()
    monkeypatch.setattr(healths, "time", SimpleNamespace(monotonic=lambda: now))
    return now


@pytest.fixture
def roster():
    return Roster(1)


@pytest.fixture
def process(roster):
    return Process(roster, 7)


def judged(roster, redis=None):
    """The reasons that each of the answers has for being bad."""
    found = healths.judge(roster, lease=LEASE, redis=redis)
    return [[problem.reason for problem in problems] for problems in (found.live, found.well, found.ready)]


def test_a_process_that_works_is_live_well_and_ready(roster, process):
    assert judged(roster) == [[], [], []]


def test_a_loop_that_does_not_run_is_all_three(roster, process, noon):
    process.set(beat=noon - LEASE - 1)
    assert judged(roster) == [["loop_blocked"]] * 3
    (problem,) = healths.reasons(healths.judge(roster, lease=LEASE, redis=None).live)
    assert problem["process"] == 7
    assert "its event loop has not run for 11.0 s" in problem["detail"]


def test_a_process_that_takes_nothing_says_how_many_slots_are_free(roster, process):
    process.pulse.taken("chat", 1)
    process.pulse.is_in(Trouble.NOT_TAKING)
    assert judged(roster) == [["not_taking"]] * 3
    assert "3 of 4 slots are free" in healths.judge(roster, lease=LEASE, redis=None).live[0].detail


def test_without_redis_a_worker_is_not_well_but_a_restart_is_no_cure(roster, process):
    assert judged(roster, redis="it is away") == [[], ["redis"], ["redis"]]
    process.pulse.outage(away=True)
    assert judged(roster) == [[], ["redis"], ["redis"]]
    process.pulse.outage(away=False)
    assert judged(roster) == [[], [], []]


def test_a_process_that_drains_is_well_and_not_ready(roster, process):
    process.pulse.draining()
    assert judged(roster) == [[], [], ["draining"]]
    assert healths.judge(roster, lease=LEASE, redis=None).processes[0].state == "draining"


def test_a_suspended_worker_is_ready(roster, process):
    process.pulse.suspended(on=True)
    assert judged(roster) == [[], [], []]
    assert healths.judge(roster, lease=LEASE, redis=None).processes[0].state == "suspended"


def test_a_provider_that_cannot_be_used_is_named(roster, process):
    process.pulse.provider("broken", "no such plugin")
    assert judged(roster) == [[], [], ["provider"]]
    assert "`broken`" in healths.judge(roster, lease=LEASE, redis=None).ready[0].detail


def test_a_process_that_has_not_begun_is_starting_and_after_a_while_stuck(roster, monkeypatch):
    roster.enter(8, Board())
    assert judged(roster) == [[], [], ["starting"]]
    monkeypatch.setattr(healths, "START_LIMIT", float("-inf"))
    assert judged(roster) == [["not_started"], ["not_started"], ["starting", "not_started"]]


def test_all_processes_must_be_there_to_be_ready(process):
    roster = Roster(2)
    Process(roster, 1)
    assert judged(roster) == [[], [], ["missing"]]
    roster.crashing = [3]
    assert judged(roster) == [[], ["crash_loop"], ["missing", "crash_loop"]]
    (problem,) = healths.judge(roster, lease=LEASE, redis=None).well
    assert problem.detail.startswith("1 of 2 processes die again and again, with exit code 3: ")
