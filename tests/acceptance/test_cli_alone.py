"""`deltabus demo` and `deltabus dev`: all that is needed, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from processes import DELTABUS, PATIENCE, Background, environ, free_port
from redis import Redis
from talker import MODEL, Talker

from deltabus.cli import dev, exits

Start = Callable[..., Background]

#: What `dev` says last when all is there.
READY = "Ctrl+C ends both."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for everything temporary that a command makes."""
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a command."""
    started: list[Background] = []

    def start(*words: str, command: tuple[str, ...] = DELTABUS, **variables: str) -> Background:
        variables = {"TMPDIR": str(folder), **variables}
        started.append(Background([*command, *words], folder=tmp_path, environ=environ(**variables)))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.fixture
def talker(tmp_path: Path) -> Iterator[Talker]:
    with Talker(tmp_path) as talker:
        yield talker


@pytest.fixture
def underway(start: Start, talker: Talker) -> Iterator[Background]:
    """A demo whose answer goes on."""
    demo = start("demo", "anything", "--provider", "talker", "--model", MODEL, **talker.settings)
    demo.wait_for("0 1 ")
    yield demo
    talker.let_end()
    demo.stop()


def ask(*words: str, redis_url: str | None = None) -> str:
    """What `deltabus chat` answers in another terminal."""
    command = [*DELTABUS, "chat", *words]
    done = subprocess.run(
        command, env=environ(redis_url), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == exits.DONE, done.stderr
    return done.stdout


def test_the_demo_streams_an_answer_and_shows_the_result(start: Start, folder: Path) -> None:
    demo = start("demo")
    assert demo.end() == exits.DONE
    streamed = demo.said.index("Every word here went through Redis: a producer put a task on a queue")
    assert streamed < demo.said.index('"object": "chat.completion"')
    assert list(folder.iterdir()) == []


def test_the_demo_answers_alike_whatever_is_configured(start: Start, tmp_path: Path) -> None:
    (tmp_path / "deltabus.toml").write_text('[providers.paid]\nplugin = "missing"\n')
    demo = start("demo", "--json", "hello", OPENAI_API_KEY="sk-not-a-key", DELTABUS_REDIS_URL="redis://127.0.0.1:1")
    assert demo.end() == exits.DONE
    events = [json.loads(line) for line in demo.said.splitlines()]
    assert [events[0]["type"], events[-1]["type"]] == ["started", "completed"]
    assert events[-1]["result"]["choices"][0]["message"]["content"] == "hello"
    assert "sk-not-a-key" not in demo.said


def test_the_demo_can_ask_a_provider_of_the_configuration(start: Start, tmp_path: Path) -> None:
    (tmp_path / "deltabus.toml").write_text('[providers.mine]\nplugin = "echo"\ntext = "as configured"\n')
    demo = start("demo", "--provider", "mine")
    assert demo.end() == exits.DONE
    assert "as configured" in demo.said


def test_ctrl_c_during_the_demo_leaves_nothing_behind(underway: Background, talker: Talker, folder: Path) -> None:
    underway.process.send_signal(signal.SIGINT)
    talker.let_end()  # its worker need not be killed
    assert underway.end() == exits.INTERRUPTED
    assert list(folder.iterdir()) == []
    assert "Traceback" not in underway.said


def test_a_demo_that_is_killed_takes_redis_and_worker_along(underway: Background) -> None:
    underway.process.kill()
    underway.end()


def test_a_demo_whose_worker_ends_says_so(underway: Background) -> None:
    worker = int(re.search(r"Worker +process (\d+)", underway.said)[1])  # type: ignore[index]
    os.kill(worker, signal.SIGKILL)
    assert underway.end() == exits.FAILED
    assert "error: the worker ended with exit code -9" in underway.said


def test_dev_is_found_where_every_client_looks(start: Start) -> None:
    """With another port in the part of 6379, which may be taken here."""
    port = free_port()
    code = f"import deltabus.cli, deltabus.cli.dev as dev; dev.DEFAULT_PORT = {port}; deltabus.cli.main()"
    usual = f"redis://localhost:{port}/0"
    dev = start("dev", command=(sys.executable, "-c", code), DELTABUS_REDIS_URL=usual)
    assert "export" not in dev.wait_for(READY)
    assert ask("hello", redis_url=usual) == "hello\n"


def test_dev_goes_elsewhere_where_the_usual_port_is_taken_and_says_what_to_type(start: Start) -> None:
    with suppress(OSError), socket.create_server(("127.0.0.1", 6379)) as taken:
        taken.listen()
        check_that_dev_goes_elsewhere(start)
        return
    check_that_dev_goes_elsewhere(start)


def check_that_dev_goes_elsewhere(start: Start) -> None:
    said = start("dev").wait_for(READY)
    match = re.search(r"^ *export DELTABUS_REDIS_URL=(redis://127\.0\.0\.1:(\d+)/0)$", said, re.MULTILINE)
    assert match, said
    assert match[2] != "6379"
    assert ask("hello", redis_url=match[1]) == "hello\n"


@pytest.mark.parametrize("asked_for", [False, True])
def test_a_port_that_is_taken_at_the_last_moment_is_a_port_that_is_taken(
    monkeypatch: pytest.MonkeyPatch, asked_for: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(dev, "DEFAULT_PORT", port)
        seen = iter([False])
        monkeypatch.setattr(dev, "_is_taken", lambda _: next(seen, True))
        if asked_for:
            with pytest.raises(click.UsageError, match="is taken"), dev._redis(port):
                pass
        else:
            with dev._redis(None) as server, Redis.from_url(server.url) as client:
                assert client.ping()


def test_dev_says_what_to_type_where_the_environment_names_another_redis(start: Start) -> None:
    port = free_port()
    said = start("dev", "--port", str(port), REDIS_URL="redis://production:6379").wait_for(READY)
    assert f"export DELTABUS_REDIS_URL=redis://127.0.0.1:{port}/0" in said


def test_a_port_that_is_asked_for_and_taken_is_an_error(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dev = start("dev", "--port", str(taken.getsockname()[1]))
        assert dev.end() == exits.USAGE
        assert "is taken; leave --port out" in dev.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_ends_in_good_order(start: Start, folder: Path, number: int) -> None:
    port = free_port()
    dev = start("dev", "--port", str(port))
    dev.wait_for(READY)
    dev.process.send_signal(number)
    assert dev.end() == exits.DONE
    assert list(folder.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_dev_that_is_killed_takes_redis_and_worker_along(start: Start) -> None:
    port = free_port()
    dev = start("dev", "--port", str(port))
    dev.wait_for(READY)
    dev.process.kill()
    dev.end()
