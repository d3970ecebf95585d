"""Redis restarts, drops connections and comes back: streams go on where they were."""

from __future__ import annotations

import signal
import time

from detour import Detour
from faults import Scene, attempts
from line import Line
from processes import PATIENCE

from deltabus import keys


def test_streams_outlive_a_restart_of_redis(durable: Scene) -> None:
    with durable.worker():
        tasks = durable.chat(50, words=60, interval=0.05)
        for task in tasks:
            durable.streams(task)
        durable.server.restart()
        for task in tasks:
            assert attempts(durable.words(task, 60)) == 1
        # The worker has not fallen silent (peers.md, 13): it takes new work.
        (later,) = durable.chat(words=3)
        durable.words(later, 3)
        durable.nothing_is_left()


def test_streams_outlive_the_loss_of_every_connection(scene: Scene) -> None:
    with scene.worker():
        tasks = scene.chat(20, words=60, interval=0.05)
        for _ in range(3):
            for task in tasks:
                scene.streams(task)
            scene.redis.client_kill_filter(_type="normal", skipme=True)
            scene.redis.client_kill_filter(_type="pubsub", skipme=True)
        for task in tasks:
            assert attempts(scene.words(task, 60)) == 1
        (later,) = scene.chat(words=3)
        scene.words(later, 3)
        scene.nothing_is_left()


def test_an_idle_worker_takes_work_after_redis_has_restarted(durable: Scene) -> None:
    with durable.worker():
        durable.server.restart()
        (task,) = durable.chat(words=3)
        durable.words(task, 3)
        durable.nothing_is_left()


def test_a_worker_whose_connections_have_gone_dead_without_a_word_goes_on_and_can_leave(scene: Scene) -> None:
    """As when an address moves, or a firewall forgets: nobody closes anything, and new connections work."""
    with Detour(scene.server.url) as detour, scene.worker(DELTABUS_REDIS_URL=detour.url) as worker:
        tasks = scene.chat(5, words=40, interval=0.05)
        for task in tasks:
            scene.streams(task)
        detour.silence()
        for task in tasks:
            scene.words(task, 40)
        scene.nothing_is_left()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0


def test_an_outage_is_one_line_in_the_log_however_often_redis_is_tried(durable: Scene) -> None:
    with Line(durable.server.url) as line, durable.worker(DELTABUS_REDIS_URL=line.url) as worker:
        tasks = durable.chat(10, words=60, interval=0.05)
        for task in tasks:
            durable.streams(task)
        durable.server.kill()
        line.forget_new()
        line.wait_for_new(20)
        durable.server.start()
        for task in tasks:
            assert attempts(durable.words(task, 60)) == 1
        said = worker.wait_for("is back")
        lines = [line for line in said.splitlines() if '"level":"info"' not in line]
        assert len(lines) == 1, said
        assert "is away" in lines[0]
        durable.takes_new_work()


def test_a_worker_that_leaves_while_redis_is_away_leaves_in_good_order_and_is_forgotten(durable: Scene) -> None:
    with durable.worker() as leaving:
        (task,) = durable.chat(words=3)
        durable.words(task, 3)
        durable.nothing_is_left()
        durable.server.kill()
        leaving.process.send_signal(signal.SIGTERM)
        assert leaving.end() == 0
    durable.server.start()
    with durable.worker():
        deadline = time.monotonic() + PATIENCE
        while durable.redis.scard("rq:workers") > 1 or durable.redis.zcard(keys.workers("rq")) > 1:
            durable.redis.blpop("a list that nobody writes", timeout=0.05)
            assert time.monotonic() < deadline, "nobody has buried it"
