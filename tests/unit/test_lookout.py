"""Idle is not stuck: what a lookout takes for either, and that it says so once."""

from __future__ import annotations

import threading
import time

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.dev import ConsoleRenderer
from structlog.testing import capture_logs

from deltabus.monitoring.board import Board
from deltabus.monitoring.catalogue import STALLS
from deltabus.monitoring.lookout import IDLE, Lookout
from deltabus.monitoring.pulse import Pulse, Trouble

LEASE = 10.0
STALL = 30.0


class Post:
    """A lookout whose time and queues the test has in hand."""

    def __init__(self, stall_after: float = STALL) -> None:
        self.board = Board()
        self.pulse = Pulse(self.board)
        self.queues: list[str] | Exception = []
        self.asked = 0
        self.now = time.monotonic()
        self.lookout = Lookout(self.pulse, self.board, self.waiting, lease=LEASE, stall_after=stall_after)
        self.pulse.started(4)

    def waiting(self) -> list[str]:
        self.asked += 1
        if isinstance(self.queues, Exception):
            raise self.queues
        return self.queues

    def look(self, seconds: float, *, hangs: bool = False) -> Trouble:
        """Let so many seconds pass, with a beating loop and a look each second; what was found at last.

        Unless it hangs, the worker looks at its queues by itself.
        """
        found = Trouble.NONE
        for _ in range(int(seconds)):
            self.now += 1
            self.pulse._runs(self.now, LEASE)
            if not hangs:
                self.pulse._set("looked", self.now)
            found = self.lookout._judge(self.now)
            self.lookout._say(found)
        return found

    def stalls(self) -> dict[str, float]:
        return {key[1]: numbers[0] for key, numbers in self.board.read() if key[0] == STALLS.name}


@pytest.fixture
def post():
    return Post()


def test_a_worker_with_empty_queues_is_idle_however_long(post):
    assert post.look(10 * STALL) is Trouble.NONE
    assert post.asked <= 10 / IDLE


def test_a_process_that_was_stopped_whole_has_been_stuck_though_its_loop_runs_again_first(post):
    post.look(1)
    post.now += LEASE - 0.5
    # It had looked half a second after the loop's last beat: to itself it is not late.
    post.lookout._judge(post.now - LEASE + 1)
    assert post.look(1) is Trouble.LOOP_BLOCKED
    assert post.look(1) is Trouble.NONE
    assert post.stalls() == {"loop_blocked": 1.0, "not_taking": 0.0}


def test_a_worker_is_stuck_that_takes_nothing_of_what_there_is_and_it_is_said_once(post):
    post.queues = ["chat"]
    with capture_logs() as lines:
        assert post.look(IDLE * STALL) is Trouble.NONE
        assert post.look(STALL + 1) is Trouble.NOT_TAKING
        assert post.look(STALL) is Trouble.NOT_TAKING
    assert post.pulse.read().trouble is Trouble.NOT_TAKING
    assert post.stalls() == {"loop_blocked": 0.0, "not_taking": 1.0}
    (line,) = lines
    assert (line["log_level"], line["reason"], line["queues"]) == ("error", "not_taking", ["chat"])


def test_one_that_does_not_even_look_is_found_out_sooner(post):
    post.queues = ["chat"]
    assert post.look(STALL, hangs=True) is Trouble.NONE
    assert post.look(STALL, hangs=True) is Trouble.NOT_TAKING


def test_it_is_over_once_something_is_taken(post):
    post.queues = ["chat"]
    assert post.look(4 * STALL) is Trouble.NOT_TAKING
    post.pulse._set("busy", post.now)
    with capture_logs() as lines:
        assert post.look(1) is Trouble.NONE
    assert lines == [{"event": "not stuck any more", "reason": "not_taking", "log_level": "info"}]


@pytest.mark.parametrize("hangs", [False, True])
def test_jobs_that_others_take_in_time_are_nobodys_fault(post, hangs):
    for _ in range(10):
        post.queues = ["chat"]
        assert post.look(STALL / 2, hangs=hangs) is Trouble.NONE
        post.queues = []
        assert post.look(STALL / 2, hangs=hangs) is Trouble.NONE


@pytest.mark.parametrize("why", ["draining", "suspended", "away", "used"])
def test_a_worker_that_knows_why_it_takes_nothing_is_not_stuck(post, why):
    post.queues = ["chat"]
    post.pulse._set(why, 4)
    assert post.look(3 * STALL) is Trouble.NONE


def test_a_queue_of_which_redis_tells_nothing_is_no_reason(post):
    post.queues = RedisConnectionError("away")
    assert post.look(3 * STALL) is Trouble.NONE


def test_a_lookout_that_fails_looks_again(monkeypatch):
    post = Post()
    looked, found = threading.Event(), []

    def judge(now: float) -> Trouble:
        found.append(now)
        if len(found) > 1:
            looked.set()
        raise ValueError("a bug")

    monkeypatch.setattr(post.lookout, "_judge", judge)
    monkeypatch.setattr("deltabus.rhythm.LONGEST", 0.001)
    with capture_logs() as lines, post.lookout:
        assert looked.wait(60)
    assert lines[0]["event"] == "the lookout failed, and looks again"


def test_it_can_be_told_not_to_look_at_queues():
    post = Post(stall_after=0.0)
    post.queues = ["chat"]
    assert post.look(3 * STALL) is Trouble.NONE
    assert post.asked == 0


def test_a_loop_that_stands_still_is_told_with_where_it_stands(post):
    post.look(1)
    with post.lookout, capture_logs() as lines:
        post.lookout._over.set()
        found = post.lookout._judge(post.now + LEASE + 1)
        post.lookout._say(found)
    assert found is Trouble.LOOP_BLOCKED
    assert post.stalls() == {"loop_blocked": 1.0, "not_taking": 0.0}
    (line,) = lines
    assert any("test_lookout.py" in place for place in line["frames"])
    assert "test_lookout.py" in ConsoleRenderer(colors=False)(None, "error", line)  # to which some names mean something
