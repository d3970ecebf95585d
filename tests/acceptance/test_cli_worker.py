"""`deltabus worker`: real processes, a real Redis, jobs from stock RQ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import DELTABUS, PATIENCE, Background, environ, patient
from redis import Redis
from rq import Queue, Worker
from rq.job import Job
from talker import MODEL, Talker

from deltabus import keys
from deltabus.cli import exits
from deltabus.embedded import EmbeddedRedis

Start = Callable[..., Background]


@pytest.fixture
def redis(redis_url: str) -> Any:
    with patient(redis_url) as client:
        yield client


@pytest.fixture
def start(redis_url: str) -> Any:
    """Start `deltabus worker` with some options; it is stopped at the end."""
    started: list[Background] = []

    def start(*words: str) -> Background:
        started.append(Background([*DELTABUS, "worker", *words], environ=environ(redis_url), fresh=True))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def enqueue(redis: Redis, prompt: str = "hello", **more: Any) -> Job:
    request = {"messages": [{"role": "user", "content": prompt}], "stream": True, **more}
    queue = Queue("chat", connection=redis, serializer="json")
    return queue.enqueue("deltabus.tasks.chat", {"request": request})


def result(job: Job) -> Any:
    """What RQ has stored as the job's result, once it has."""
    found = job.latest_result(timeout=int(PATIENCE))
    assert found is not None
    assert found.type == found.Type.SUCCESSFUL, found.exc_string
    return found.return_value["choices"][0]["message"]["content"]


def pids(process: Background, count: int) -> list[int]:
    """The processes that a supervisor has started so far, once there are so many."""
    said = process.wait_for('"message":"process started"', count)
    lines = [json.loads(line) for line in said.splitlines() if line.endswith("}")]
    return [line["pid"] for line in lines if line["message"] == "process started"]


def test_a_burst_does_what_is_queued_and_leaves(start: Start, redis: Redis) -> None:
    jobs = [enqueue(redis, prompt) for prompt in ("one", "two")]
    assert start("chat", "--burst").end() == exits.DONE
    assert [result(job) for job in jobs] == ["one", "two"]


def test_the_queues_are_taken_from_the_command_line(start: Start, redis: Redis) -> None:
    worker = start("urgent", "chat", "--name", "somebody", "--concurrency", "7")
    worker.wait_for("worker started")
    (registered,) = Worker.all(connection=redis)
    assert (registered.name, registered.queue_names()) == ("somebody", ["urgent", "chat"])


def test_a_name_that_is_taken_is_said_in_one_line(start: Start) -> None:
    start("--name", "twin").wait_for("worker started")
    second = start("--name", "twin")
    assert second.end() == exits.USAGE
    assert "a worker named `twin` is registered and alive: choose another --name" in second.said
    assert "Traceback" not in second.said


def test_sigterm_lets_a_running_task_finish(start: Start, redis: Redis, tmp_path: Path) -> None:
    with Talker(tmp_path) as talker:
        worker = start("chat", "--config", talker.settings["DELTABUS_CONFIG"])
        job = enqueue(redis, "long", model=MODEL)
        assert redis.xread({keys.log(job.id): "1-0"}, block=int(PATIENCE * 1000))  # what follows `started`
        worker.process.terminate()
        worker.wait_for('"message":"draining"')
        talker.let_end("long")
        assert worker.end() == exits.DONE
    words = result(job).split()
    assert words == [str(number) for number in range(len(words))]


def test_of_several_processes_one_that_is_killed_is_replaced_and_work_goes_on(start: Start, redis: Redis) -> None:
    worker = start("chat", "--processes", "2", "--name", "crew")
    first, second = pids(worker, 2)
    worker.wait_for("worker started", 2)
    os.kill(first, signal.SIGKILL)
    third = pids(worker, 3)[2]
    worker.wait_for("worker started", 3)
    names = {registered.name for registered in Worker.all(connection=redis)}
    assert {f"crew.{second}", f"crew.{third}"} <= names
    assert [result(enqueue(redis, prompt)) for prompt in ("a", "b", "c")] == ["a", "b", "c"]
    worker.process.terminate()
    assert worker.end() == exits.DONE
    assert not any(_runs(pid) for pid in (first, second, third))


def test_several_processes_empty_the_queues_in_a_burst(start: Start, redis: Redis) -> None:
    jobs = [enqueue(redis, str(number)) for number in range(20)]
    assert start("chat", "--processes", "2", "--burst").end() == exits.DONE
    assert [result(job) for job in jobs] == [str(number) for number in range(20)]


def test_no_worker_outlives_a_supervisor_that_is_killed(start: Start) -> None:
    worker = start("chat", "--processes", "2")
    worker.wait_for("worker started", 2)
    worker.process.kill()
    worker.end()  # Its output ends when the last of its processes has ended.


def test_secrets_from_files_are_neither_on_a_command_line_nor_in_an_environment(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    with Redis.from_url(redis_server.url) as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">pass-0123456789", "~*", "&*", "+@all")
    (tmp_path / "password").write_text("pass-0123456789\n")
    (tmp_path / "key").write_text("sk-0123456789\n")
    (tmp_path / "deltabus.toml").write_text(
        f"""
        redis_url = "{redis_server.url.replace("//", "//worker@")}"
        redis_password = {{file = "password"}}
        [providers.acme]
        plugin = "openai"
        base_url = "http://localhost:9"
        api_key = {{command = ["cat", "key"]}}
        """
    )
    words = [*DELTABUS, "worker", "--processes", "2"]
    with Background(words, folder=tmp_path, environ=environ()) as worker:
        worker.wait_for("worker started", 2)
        for pid in [worker.process.pid, *pids(worker, 2)]:
            for file in ("cmdline", "environ"):
                known = Path(f"/proc/{pid}/{file}").read_bytes()
                assert b"pass-0123456789" not in known
                assert b"sk-0123456789" not in known
    assert "0123456789" not in worker.said


def test_a_url_that_an_option_gives_is_on_no_command_line_of_a_process(redis_url: str, tmp_path: Path) -> None:
    others = {"DELTABUS_REDIS_URL": "redis://other:1", "DELTABUS_REDIS_PASSWORD": "of-the-other"}
    words = [*DELTABUS, "--redis", redis_url, "worker", "--processes", "2"]
    with Background(words, folder=tmp_path, environ=environ(**others)) as worker:
        worker.wait_for("worker started", 2)
        for pid in pids(worker, 2):
            assert b"redis://" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def _as_pid_1() -> list[str]:
    """Words before a command that make it the first process of a container, or a skip."""
    words = ["unshare", "--pid", "--fork", "--kill-child"]
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no namespaces may be made here")
    return words


@pytest.mark.parametrize("options", [(), ("--processes", "2")])
def test_as_first_process_of_a_container_it_stops_as_told(redis_url: str, options: tuple[str, ...]) -> None:
    with Background([*_as_pid_1(), *DELTABUS, "worker", *options], environ=environ(redis_url)) as worker:
        worker.wait_for("worker started", max(len(options), 1))
        os.kill(_first_child(worker.process.pid), signal.SIGTERM)
        assert worker.end() == exits.DONE


def test_as_first_process_of_a_container_it_can_be_stopped_before_it_works(tmp_path: Path) -> None:
    # It waits for its password, which nobody writes.
    password = tmp_path / "password"
    os.mkfifo(password)
    variables = environ("redis://localhost:1", DELTABUS_REDIS_PASSWORD_FILE=str(password))
    with Background([*_as_pid_1(), *DELTABUS, "worker"], folder=tmp_path, environ=variables) as worker:
        descriptor = os.open(password, os.O_WRONLY)  # until it reads
        os.kill(_first_child(worker.process.pid), signal.SIGTERM)
        assert worker.end() == 128 + signal.SIGTERM
        os.close(descriptor)


def _first_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _runs(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/stat").open(encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
