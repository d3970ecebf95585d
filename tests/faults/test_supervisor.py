"""`deltabus worker --processes`: a supervisor and its workers leave together, in order, and lose nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest
from faults import Scene, attempts
from talker import Talker, talk, told

from deltabus import Task
from deltabus.events import Retrying
from deltabus.jobs import LOST_FIELD
from deltabus.supervisor import ECHO


def pids(said: str) -> list[int]:
    """The processes that a supervisor has started, as it says itself."""
    return [int(pid) for pid in re.findall(r'"process started"[^\n]*"pid":(\d+)', said)]


def test_the_first_signal_lets_every_process_finish_what_it_runs(scene: Scene) -> None:
    with scene.worker("--processes", "2", "--concurrency", "5") as supervisor:
        supervisor.wait_for("worker started", 2)
        tasks = scene.chat(10, words=20, interval=0.05)
        for task in tasks:
            scene.streams(task)
        supervisor.process.send_signal(signal.SIGTERM)
        for task in tasks:
            assert attempts(scene.words(task, 20)) == 1
        assert supervisor.end() == 0
        scene.nothing_is_left()


def test_when_the_time_to_drain_is_over_every_process_hands_back_what_it_runs(scene: Scene) -> None:
    with scene.worker("--processes", "2", "--concurrency", "5", DELTABUS_DRAIN_TIMEOUT="0.2") as supervisor:
        supervisor.wait_for("worker started", 2)
        tasks = scene.chat(10, words=1000, interval=0.05)
        for task in tasks:
            scene.streams(task)
        supervisor.process.send_signal(signal.SIGTERM)
        assert supervisor.end() == 0
    handed_back(scene, tasks)


def test_the_second_signal_hands_back_at_once_and_an_echo_of_the_first_does_not(scene: Scene) -> None:
    """systemd and Heroku signal every process by itself, and the supervisor passes its own signal on."""
    with scene.worker("--processes", "2", "--concurrency", "5", DELTABUS_DRAIN_TIMEOUT="600") as supervisor:
        said = supervisor.wait_for("worker started", 2)
        tasks = scene.chat(10, words=10_000, interval=0.05)
        for task in tasks:
            scene.streams(task)
        for pid in pids(said):
            os.kill(pid, signal.SIGTERM)
        supervisor.process.send_signal(signal.SIGTERM)
        supervisor.wait_for('"draining"', 2)
        supervisor.wait_for("stopping; processes finish")  # its clock of echoes begins when it hears the signal
        with pytest.raises(subprocess.TimeoutExpired):
            supervisor.process.wait(ECHO)
        assert "handing back" not in supervisor.said
        supervisor.process.send_signal(signal.SIGTERM)
        assert supervisor.end() == 0
        assert "and was killed" not in supervisor.said
    handed_back(scene, tasks)


def test_when_the_supervisor_is_killed_its_processes_finish_and_leave(scene: Scene) -> None:
    with scene.worker("--processes", "2", "--concurrency", "5") as supervisor:
        supervisor.wait_for("worker started", 2)
        tasks = scene.chat(10, words=20, interval=0.05)
        for task in tasks:
            scene.streams(task)
        supervisor.process.kill()
        for task in tasks:
            assert attempts(scene.words(task, 20)) == 1
        supervisor.end()  # nobody has its output open any more
        scene.nothing_is_left()
        assert scene.redis.scard("rq:workers") == 0


def test_a_process_that_is_killed_is_replaced_and_what_it_ran_runs_again(scene: Scene, talker: Talker) -> None:
    with scene.worker("--processes", "2", "--concurrency", "10", **talker.settings) as supervisor:
        said = supervisor.wait_for("worker started", 2)
        tasks = talk(scene.bus, 10)
        for task in tasks:
            scene.streams(task)
        victim = pids(said)[0]
        running = int(scene.redis.scard(f"rq:worker:{name_of(scene, victim)}:executions"))
        os.kill(victim, signal.SIGKILL)
        said = supervisor.wait_for("worker started", 3)
        assert len(set(pids(said))) == 3
        talker.let_end()
        again = [told(task) for task in tasks]
        assert sorted(again) == [1] * (10 - running) + [2] * running
        supervisor.process.send_signal(signal.SIGTERM)
        assert supervisor.end() == 0
        scene.nothing_is_left()


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_leaves_in_time_though_redis_is_away(durable: Scene, talker: Talker, busy: bool) -> None:
    with durable.worker(DELTABUS_DRAIN_TIMEOUT="0.2", **talker.settings) as leaving:
        tasks = talk(durable.bus, 5 * busy)
        for task in tasks:
            durable.streams(task)
        durable.server.kill()
        leaving.wait_for("is away")
        leaving.process.send_signal(signal.SIGTERM)
        assert leaving.end() == 0
        assert "Traceback" not in leaving.said
        durable.server.start()
        talker.let_end()
        with durable.worker(**talker.settings):
            for task in tasks:
                assert told(task) == 2
            durable.takes_new_work()


def handed_back(scene: Scene, tasks: list[Task]) -> None:
    """All of them wait at the front of their queue, uncharged, and their logs say why."""
    assert {entry.decode() for entry in scene.redis.lrange("rq:queue:chat", 0, -1)} == {task.id for task in tasks}
    for task in tasks:
        assert scene.redis.hget(f"rq:job:{task.id}", LOST_FIELD) is None
        last = scene.reaches(task, lambda event: isinstance(event, Retrying))
        assert isinstance(last, Retrying)
        assert "shutting down" in last.reason
    assert scene.redis.scard("rq:workers") == 0


def name_of(scene: Scene, pid: int) -> str:
    """The worker's name, as RQ has it."""
    for key in scene.redis.smembers("rq:workers"):
        if scene.redis.hget(key, "pid") == str(pid).encode():
            return key.decode().removeprefix("rq:worker:")
    raise AssertionError(f"no worker has the process id {pid}")
