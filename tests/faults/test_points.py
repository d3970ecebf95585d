"""Workers are struck between two steps, to the command: killed there, or held there until they are long replaced."""

from __future__ import annotations

import signal

from detour import Detour
from faults import Scene, attempts
from processes import DELTABUS, Background, environ

from chaos.proxy import POINTS, Then
from deltabus.events import Retrying

CHAT = "deltabus.tasks.chat"


def test_wherever_a_worker_is_killed_its_task_ends_once_and_right(scene: Scene) -> None:
    """A queue for each point, so that nobody but the last worker runs what the others have left."""
    tasks = {}
    for number, point in enumerate(POINTS):
        with Detour(scene.server.url) as detour:
            command = (*DELTABUS, "worker", f"q{number}")
            with Background(command, environ=environ(detour.url, DELTABUS_LEASE="600")) as victim:
                victim.wait_for("worker started")
                struck = detour.strike_at(point, victim.process.kill, Then.LOSE)
                request = {"messages": [{"role": "user", "content": "one two three"}], "stream": True}
                tasks[point] = scene.bus.enqueue(CHAT, {"request": request}, queue=f"q{number}")
                struck()
    # Their leases are over now; there is no need to wait for it.
    scene.redis.zadd("rq:deltabus:workers", dict.fromkeys(scene.redis.zrange("rq:deltabus:workers", 0, -1), 1))
    with scene.worker(*(f"q{number}" for number in range(len(POINTS)))):
        for task in tasks.values():
            assert attempts(scene.words(task, 3)) <= 2
        scene.nothing_is_left()
    assert scene.redis.zcard("rq:finished:q0") == 1
    assert all(scene.redis.hget(f"rq:job:{task.id}", "status") == b"finished" for task in tasks.values())


def test_a_worker_that_was_frozen_before_it_began_does_not_run_anew_what_another_has_settled(scene: Scene) -> None:
    """To it, the ending in the log looks like that of an earlier round of a task that was requeued since."""
    with Detour(scene.server.url) as detour, scene.worker(DELTABUS_REDIS_URL=detour.url) as frozen:
        struck = detour.strike_at("before begin", lambda: frozen.process.send_signal(signal.SIGSTOP), Then.HOLD)
        (task,) = scene.chat(words=3)
        struck()
        with scene.worker():
            events = scene.words(task, 3)
            scene.nothing_is_left()
            frozen.process.send_signal(signal.SIGCONT)
            detour.resume()
            frozen.wait_for("fenced")
        (later,) = scene.chat(words=3)
        scene.words(later, 3)
        scene.nothing_is_left()
        assert list(task.events()) == events


def test_a_worker_that_was_frozen_between_two_attempts_does_not_run_anew_what_another_has_settled(scene: Scene) -> None:
    with scene.worker() as frozen:
        (task,) = scene.chat(words=30, interval=0.05, fail_after=3, fail_attempts=1, retry_after=1.0)
        scene.reaches(task, lambda event: isinstance(event, Retrying))
        frozen.process.send_signal(signal.SIGSTOP)
        with scene.worker():
            events = scene.words(task, 30)
            scene.nothing_is_left()
            frozen.process.send_signal(signal.SIGCONT)
        # It has taken note of the ending, and goes on.
        (later,) = scene.chat(words=3)
        scene.words(later, 3)
        scene.nothing_is_left()
        assert list(task.events()) == events
