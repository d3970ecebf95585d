"""An outage is one line at its start, one at its end, and a reminder now and then."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from deltabus.cli import exits
from deltabus.outage import GRACE, REMINDER, Outage


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


STATES = [
    (
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        "it is out of memory (OOM): raise its `max",
    ),
    ("ResponseError: OOM command not allowed when used memory > 'maxmemory', script: ab", "it is out of memory (OOM)"),
    (
        ReadOnlyError("You can't write against a read only replica."),
        "it is a read only replica (READONLY): `redis_url`",
    ),
    (ResponseError("MISCONF Redis is configured to save RDB snapshots, but …"), "it cannot save to its disk (MISCONF)"),
    (
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        "it has too few replicas (NOREPLICAS): bring them",
    ),
]


@pytest.mark.parametrize(("reason", "words"), STATES)
def test_a_redis_that_takes_no_writes_is_told_with_the_cure(said, reason, words):
    clock = Clock()
    outage = Outage("here:1", clock)
    for _ in range(round(REMINDER) + 1):
        outage.meets("lease", reason)
        outage.meets("log", str(reason))
        clock.now += 1
    outage.is_over_for("lease")
    outage.is_over_for("log")
    first, reminder, last = (text for _, text in said())
    assert first.startswith(f"Redis at here:1 is there and takes no writes, trying until it does: {words}")
    assert reminder.startswith(f"Redis at here:1 has taken no writes for 60 s: {words}")
    assert last == "Redis at here:1 is back after 61.0 s"


def test_an_outage_that_becomes_another_is_said_once_each(said):
    outage = Outage("here:1", Clock())
    for _ in range(3):
        outage.meets("lease", ConnectionError("refused"))
        outage.meets("log", STATES[0][0])
    outage.is_over_for("lease")
    outage.is_over_for("log")
    assert [text.partition(",")[0].partition(" after")[0] for _, text in said()] == [
        "Redis at here:1 is away",
        "Redis at here:1 is there and takes no writes",
        "Redis at here:1 is back",
    ]


def test_connections_that_break_in_a_failover_add_nothing_to_the_refusal(said):
    outage = Outage("here:1", Clock())
    for reason in (STATES[2][0], ConnectionError("closed"), STATES[2][0]):
        outage.meets("log", reason)
    assert len(said()) == 1


@pytest.mark.parametrize("beats_first", [True, False])
def test_a_process_that_was_stopped_finds_late_replies_and_no_outage(said, beats_first):
    clock = Clock()
    outage = Outage("here:1", clock)
    outage.runs(2.0)
    clock.now += 60
    if beats_first:
        outage.runs(2.0)
    for duty in ("lease", "log"):
        outage.meets(duty, TimeoutError())
        outage.is_over_for(duty)
    ((level, text),) = said()
    assert level == "WARNING"
    assert text.startswith("this process did not run for 60.0 s, as it was stopped, or its machine was")


def test_where_redis_is_away_after_that_it_is_said(said):
    clock = Clock()
    outage = Outage("here:1", clock)
    outage.runs(2.0)
    clock.now += 60
    for _ in range(round(GRACE) + 2):
        outage.runs(2.0)
        outage.meets("lease", ConnectionError("refused"))
        clock.now += 1
    assert [text.partition(",")[0] for _, text in said()] == [
        "this process did not run for 60.0 s",
        "Redis at here:1 is away",
    ]


def test_a_loop_that_is_busy_for_a_moment_is_no_reason(said):
    clock = Clock()
    outage = Outage("here:1", clock)
    outage.runs(0.2)
    clock.now += 0.9
    outage.runs(0.2)
    outage.meets("lease", ConnectionError("refused"))
    assert [text.partition(",")[0] for _, text in said()] == ["Redis at here:1 is away"]


@pytest.mark.parametrize(("reason", "words"), [state for state in STATES if isinstance(state[0], ResponseError)])
def test_the_command_line_tells_it_in_one_line_and_as_it_does_an_outage(reason, words):
    assert (exits.explain(reason) or "").startswith(f"Redis takes no writes: {words}")
    assert exits.code(reason) == exits.UNREACHABLE
