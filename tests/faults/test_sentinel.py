"""Sentinels move the master while work goes on: everybody follows it, and nothing is lost or told twice."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import Scene, attempts
from processes import DELTABUS, PATIENCE, Background, environ, run

from chaos.sentinels import SERVICE, SentinelSet
from deltabus import Task, events

#: An RQ settings module as RQ's documentation has it, with the Sentinels of the test.
SETTINGS = """
SENTINEL = {{
    "INSTANCES": {instances!r},
    "MASTER_NAME": {service!r},
    "DB": 0,
}}
"""


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelSet]:
    with SentinelSet(tmp_path_factory.mktemp("sentinels")) as sentinels:
        yield sentinels


@pytest.fixture
def scene(sentinels: SentinelSet) -> Iterator[Scene]:
    assert sentinels.master is not None
    scene = Scene(sentinels.master, sentinels.url)
    scene.redis.flushall()
    yield scene
    scene.close()


class Reader(threading.Thread):
    """Follows a task from its first event to the last, on a line of its own."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self.seen: list[events.AnyEvent] = []
        self.start()

    def run(self) -> None:
        self.seen.extend(self._task.events())


def test_streams_producers_and_subscribers_follow_the_master_in_a_planned_failover(
    sentinels: SentinelSet, scene: Scene
) -> None:
    with scene.worker() as worker:
        tasks = scene.chat(20, words=40, interval=0.05)
        readers = [Reader(task) for task in tasks]
        for task in tasks:
            scene.streams(task)
        sentinels.fail_over()
        for task, reader in zip(tasks, readers, strict=True):
            assert attempts(scene.words(task, 40)) == 1
            reader.join(PATIENCE)
            assert [event.id for event in reader.seen] == [event.id for event in task.events()]
        scene.takes_new_work()
        assert "worker started" in worker.said


def test_a_master_that_is_killed_is_followed_by_another(sentinels: SentinelSet, scene: Scene) -> None:
    """With more work than slots, so that jobs wait, run and are taken meanwhile; and a second worker starts then."""
    with scene.worker(DELTABUS_CONCURRENCY="20"):
        tasks = scene.chat(60, words=20, interval=0.05)
        for task in tasks[:20]:
            scene.streams(task)
        sentinels.crash()
        with scene.worker(DELTABUS_CONCURRENCY="20"):
            for task in tasks:
                scene.words(task, 20)
        scene.takes_new_work()


def test_rq_finds_the_master_by_its_own_settings_and_by_ours(
    sentinels: SentinelSet, scene: Scene, tmp_path: Path
) -> None:
    instances = [("127.0.0.1", sentinel.port) for sentinel in sentinels.sentinels]
    (tmp_path / "sentinelsettings.py").write_text(SETTINGS.format(instances=instances, service=SERVICE))
    variables = environ(sentinels.url)
    rq = [sys.executable, "-m", "rq.cli"]
    worker = [*rq, "worker", "--worker-class", "deltabus.worker.AsyncWorker", "--serializer", "json", "--path", "."]
    (task,) = scene.chat(words=5)
    with Background(
        [*worker, "--config", "sentinelsettings", "chat"], folder=tmp_path, environ=environ(DELTABUS_LEASE="4")
    ) as process:
        process.wait_for("worker started")
        scene.words(task, 5)
        (running,) = scene.chat(words=40, interval=0.05)
        scene.streams(running)
        sentinels.fail_over()
        assert attempts(scene.words(running, 40)) == 1
        told = run([*rq, "info", "--config", "deltabus.rqsettings"], environ=variables, folder=tmp_path)
        assert told.returncode == 0, told.stderr
        assert "1 workers, 1 queues" in told.stdout


def test_the_command_line_takes_the_same_url(sentinels: SentinelSet, scene: Scene, tmp_path: Path) -> None:
    def deltabus(*words: str) -> subprocess.CompletedProcess[str]:
        return run([*DELTABUS, *words], environ=environ(sentinels.url), folder=tmp_path)

    with scene.worker("--processes", "2") as worker:
        worker.wait_for("worker started", times=2)
        answer = deltabus("chat", "hello there", "--no-stream")
        assert answer.returncode == 0, answer.stderr
    found = deltabus("check")
    assert sentinels.url in found.stdout
    assert found.returncode == 0, found.stdout
    assert deltabus("redis", "ROLE").stdout.startswith("master\n")
    assert deltabus("redis", "--each", "PING").stdout == "PONG\n"
