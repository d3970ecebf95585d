"""The line to Redis goes dead without a word, is slow, or Redis itself pauses: no silent stall, nothing run twice."""

from __future__ import annotations

import signal

from faults import Scene, attempts
from line import Line
from processes import PATIENCE

from deltabus import keys
from deltabus.embedded import EmbeddedRedis


def test_a_line_that_goes_dead_without_a_word_is_replaced(fresh_redis: EmbeddedRedis) -> None:
    """No reset, no end: every part of the worker has to notice by itself, also the one that waits for jobs."""
    with Line(fresh_redis.url) as line:
        scene = Scene(fresh_redis)
        with scene.worker(DELTABUS_REDIS_URL=line.url):
            tasks = scene.chat(10, words=60, interval=0.05)
            for task in tasks:
                scene.streams(task)
            line.die()
            for task in tasks:
                assert attempts(scene.words(task, 60)) == 1
            scene.takes_new_work()
            # Commands are heard again, too.
            (task,) = scene.chat(words=9, stall_after=1)
            scene.streams(task)
            scene.until(lambda: scene.redis.publish(keys.CANCEL_CHANNEL, "nobody") > 0)
            assert task.cancel("enough")
            assert list(task.events())[-1].reason == "enough"
            scene.nothing_is_left()
        scene.close()


def test_a_worker_that_leaves_on_a_dead_line_signs_off_on_a_new_one(fresh_redis: EmbeddedRedis) -> None:
    with Line(fresh_redis.url) as line:
        scene = Scene(fresh_redis)
        with scene.worker(DELTABUS_REDIS_URL=line.url) as worker:
            line.die()
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(PATIENCE) == 0
        assert scene.redis.zrange(keys.workers("rq"), 0, -1) == []
        assert scene.redis.smembers("rq:workers") == set()
        scene.close()


def test_a_slow_line_slows_streams_down_and_no_more(fresh_redis: EmbeddedRedis) -> None:
    with Line(fresh_redis.url) as line:
        scene = Scene(fresh_redis)
        with scene.worker(DELTABUS_REDIS_URL=line.url) as worker:
            line.slow_down(0.05)
            tasks = scene.chat(20, words=40, interval=0.05)
            for task in tasks:
                assert attempts(scene.words(task, 40)) == 1
            scene.takes_new_work()
            assert "is away" not in worker.said
        scene.close()


def test_a_pause_that_is_longer_than_a_lease_costs_no_worker_its_work(scene: Scene) -> None:
    """All leases have run out when it is over: nobody takes that for a death."""
    with scene.worker() as a, scene.worker() as b:
        tasks = scene.chat(20, words=60, interval=0.05)
        for task in tasks:
            scene.streams(task)
        scene.redis.client_pause(3000)
        for task in tasks:
            assert attempts(scene.words(task, 60)) == 1
        scene.takes_new_work()
        assert "nobody was running" not in a.said + b.said
