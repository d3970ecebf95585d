"""An outage is one line at its start, one at its end, and a reminder now and then."""

from __future__ import annotations

from typing import Any

import pytest

from deltabus.outage import REMINDER, Outage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level("INFO")
    return lambda: [(record.levelname, record.getMessage()) for record in caplog.records]


def test_however_many_meet_it_and_however_often_it_is_said_once(said):
    clock = Clock()
    outage = Outage("here:1", clock)
    for _ in range(5):
        outage.meets("lease", ConnectionError("refused"))
        outage.meets("heartbeat", "LOADING")
    outage.is_over_for("lease")
    outage.meets("heartbeat", "LOADING")
    assert said() == [("WARNING", "Redis at here:1 is away, trying until it is back: refused")]
    clock.now += 2.5
    outage.is_over_for("heartbeat")
    assert said()[1:] == [("INFO", "Redis at here:1 is back after 2.5 s")]


def test_a_process_without_a_file_left_is_told_that_it_is_not_redis(said):
    Outage("here:1").meets("lease", OSError(24, "Too many open files"))
    ((_, words),) = said()
    assert words.endswith("raise its limit (LimitNOFILE=, ulimit -n), or lower `concurrency`")


def test_who_was_served_all_the_time_has_nothing_to_say(said):
    Outage("here:1").is_over_for("lease")
    assert said() == []


def test_an_outage_that_lasts_is_said_again_now_and_then(said):
    clock = Clock()
    outage = Outage("here:1", clock)
    for _ in range(round(2 * REMINDER) + 1):
        outage.meets("lease", TimeoutError())
        clock.now += 1
    assert [words for _, words in said()] == [
        "Redis at here:1 is away, trying until it is back: TimeoutError",
        "Redis at here:1 has been away for 60 s: TimeoutError",
        "Redis at here:1 has been away for 120 s: TimeoutError",
    ]


def test_the_next_outage_is_said_again(said):
    outage = Outage("here:1")
    for _ in range(2):
        outage.meets("lease", "OOM")
        outage.is_over_for("lease")
    assert [level for level, _ in said()] == ["WARNING", "INFO"] * 2
