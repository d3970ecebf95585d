"""A worker is told to leave: it finishes what it can and hands back the rest, uncharged."""

from __future__ import annotations

import signal

import pytest
from faults import Scene, attempts
from talker import Talker, talk, told

from deltabus.events import Retrying
from deltabus.jobs import LOST_FIELD


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_can_finish_in_time_finishes_where_it_is(scene: Scene, number: int) -> None:
    with scene.worker() as leaving:
        tasks = scene.chat(10, words=20, interval=0.05)
        for task in tasks:
            scene.streams(task)
        leaving.process.send_signal(number)
        for task in tasks:
            assert attempts(scene.words(task, 20)) == 1
        assert leaving.end() == 0
        scene.nothing_is_left()


def test_what_cannot_is_handed_back_to_the_front_and_runs_elsewhere(scene: Scene, talker: Talker) -> None:
    with scene.worker(DELTABUS_DRAIN_TIMEOUT="0.2", **talker.settings) as leaving:
        (first,) = talk(scene.bus)
        scene.streams(first)
        leaving.process.send_signal(signal.SIGTERM)
        leaving.wait_for("draining")
        (second,) = scene.chat(words=3)
        assert leaving.end() == 0
    assert scene.redis.lrange("rq:queue:chat", 0, -1) == [first.id.encode(), second.id.encode()]
    assert scene.redis.hget(f"rq:job:{first.id}", LOST_FIELD) is None
    talker.let_end()
    with scene.worker(**talker.settings):
        assert told(first) == 2
        scene.words(second, 3)
        scene.nothing_is_left()
    (retrying,) = [event for event in first.events() if isinstance(event, Retrying)]
    assert "shutting down" in retrying.reason


def test_a_rolling_restart_loses_nothing_and_fails_nothing(scene: Scene) -> None:
    with scene.worker() as a, scene.worker() as b:
        tasks = scene.chat(60, words=30, interval=0.05)
        for task in tasks[:20]:
            scene.streams(task)
        a.process.send_signal(signal.SIGTERM)
        with scene.worker() as c:
            assert a.end() == 0
            b.process.send_signal(signal.SIGTERM)
            assert b.end() == 0
            for task in tasks:
                assert attempts(scene.words(task, 30)) == 1
            c.process.send_signal(signal.SIGTERM)
            assert c.end() == 0
            scene.nothing_is_left()
