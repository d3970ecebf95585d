"""`deltabus dead` as a process: a question on a terminal, and another prefix of RQ's keys."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from processes import DELTABUS, PATIENCE, Background, deltabus, environ, patient
from redis import Redis

from deltabus.cli import exits

FAILS = json.dumps({"request": {"messages": [{"role": "user", "content": "x"}], "echo": {"error": "not_found"}}})


@pytest.fixture
def settings(redis_url: str) -> dict[str, str]:
    return environ(redis_url, RQ_KEY_PREFIX="their", DELTABUS_DRAIN_TIMEOUT="0")


@pytest.fixture
def run(settings: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Run a command to its end; what it prints."""

    def run(*words: str, code: int = exits.DONE) -> str:
        done = deltabus(*words, folder=tmp_path, environ=settings)
        assert done.returncode == code, done.stderr
        return done.stdout.decode()

    return run


def test_the_whole_way_under_another_prefix(run: Callable[..., str], settings: dict[str, str], redis_url: str) -> None:
    with Background([*DELTABUS, "worker", "chat"], environ=settings) as worker:
        worker.wait_for("worker started")
        task = run("enqueue", "deltabus.tasks.chat", FAILS).strip()
        run("result", task, code=exits.FAILED)
        with patient(redis_url) as client:
            assert client.xread({f"their:results:{task}": "0"}, block=int(PATIENCE * 1000))
            shown = json.loads(run("dead", "show", task, "--json"))
            assert (shown["code"], shown["status"], shown["attempts"]) == ("not_found", 404, 1)
            assert run("dead", "requeue", "--code", "not_found") == "1 requeued\n"
            run("result", task, code=exits.FAILED)  # waits for the new round
            assert client.xrange(f"deltabus:{{{task}}}:log", "2-0", "2-0")
            assert not client.keys("rq:*")


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 2), (b"y\n", 0)])
def test_a_person_is_asked_before_anything_is_deleted(
    settings: dict[str, str], redis_url: str, answer: bytes, left: int
) -> None:
    with Redis.from_url(redis_url) as client:
        for task in ("a", "b"):
            client.hset(f"their:job:{task}", mapping={"status": "failed", "origin": "chat"})
            client.zadd("their:failed:chat", {task: 4_000_000_000})
        client.sadd("their:queues", "their:queue:chat")
        ours, theirs = pty.openpty()
        command = [*DELTABUS, "dead", "purge", "--all"]
        process = subprocess.Popen(command, env=settings, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.write(ours, answer)
        shown = b""
        with suppress(OSError):
            while data := os.read(ours, 1024):
                shown += data
        os.close(ours)
        assert process.wait(PATIENCE) == (exits.INTERRUPTED if left else exits.DONE), shown
        assert b"Delete 2 failed tasks" in shown
        assert client.zcard("their:failed:chat") == left
