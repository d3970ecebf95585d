"""`deltabus stats` and `deltabus top`: what they show, where they can, and how they are left."""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from processes import DELTABUS, PATIENCE, deltabus, environ

from deltabus import Bus
from deltabus.cli import exits
from screenshots.shoot import shoot

ROOT = Path(__file__).resolve().parents[2]

#: Escape sequences of a terminal.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]")


@pytest.fixture
def busy(redis_url: str) -> Bus:
    with Bus(redis_url) as bus:
        bus.chat(messages="one", queue="first-queue")
        bus.chat(messages="two", queue="first-queue")
        yield bus


class Terminal:
    """`deltabus top` on a terminal of 100 columns, and what is on the screen since it was last cleared."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*DELTABUS, "top", "--every", "0.2"], cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.said = ""

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def shows(self, holds: Callable[[str], object]) -> str:
        """Wait until what has come since this call holds."""
        begin, end = len(self.said), time.monotonic() + PATIENCE
        while not holds(shown := ESCAPES.sub("", self.said[begin:])):
            assert select.select([self.ours], [], [], max(0.0, end - time.monotonic()))[0], f"it shows: {shown}"
            self._read()
        return shown

    def end(self) -> int:
        while self._read():
            pass
        os.close(self.ours)
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        try:
            data = os.read(self.ours, 65536)
        except OSError:  # nobody is at the other end any more
            return False
        self.said += self._decoder.decode(data)
        return bool(data)


def test_top_is_live_and_q_leaves_it(redis_url: str, busy: Bus, tmp_path: Path) -> None:
    variables = environ(redis_url, TERM="xterm-256color", COLUMNS="100", LINES="30")
    terminal = Terminal(tmp_path, variables)
    shown = terminal.shows(lambda shown: "commands a look" in shown and "events/s" in shown)
    assert "2 waiting" in shown
    assert "start one with `deltabus worker`" in shown
    busy.chat(messages="three", queue="second-queue")
    terminal.shows(lambda shown: re.search(r"queues: 2.*first-queue +2.*second-queue +1", shown, re.DOTALL))
    terminal.press("x")  # means nothing
    terminal.shows(lambda shown: "second-queue" in shown)
    terminal.press("q")
    assert terminal.end() == exits.DONE
    # The terminal is as it was: its other screen, its cursor.
    assert terminal.said.index("\x1b[?1049h") < terminal.said.rindex("\x1b[?1049l")
    assert terminal.said.rindex("\x1b[?25l") < terminal.said.rindex("\x1b[?25h")
    assert "Traceback" not in terminal.said


def test_top_waits_for_a_redis_that_goes_away(redis_server, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, environ(redis_server.url, TERM="xterm", COLUMNS="150", LINES="30"))
    terminal.shows(lambda shown: "commands a look" in shown)
    redis_server.kill()
    terminal.shows(lambda shown: "trying again" in shown)
    redis_server.restart()
    terminal.shows(lambda shown: "commands a look" in shown)
    terminal.process.send_signal(signal.SIGINT)  # Ctrl+C leaves it as well
    assert terminal.end() == exits.DONE
    assert "Traceback" not in terminal.said


def test_without_a_terminal_top_names_stats(redis_url: str, tmp_path: Path) -> None:
    done = deltabus("top", folder=tmp_path, environ=environ(redis_url))
    assert done.returncode == exits.USAGE
    assert done.stderr.decode() == (
        "error: it draws on a terminal, and there is none: use `deltabus stats`, or `deltabus stats --json` "
        "(try: deltabus top --help)\n"
    )


def test_stats_are_tables_or_one_object(redis_url: str, busy: Bus, tmp_path: Path) -> None:
    done = deltabus("stats", folder=tmp_path, environ=environ(redis_url))
    assert done.returncode == exits.DONE
    lines = done.stdout.decode().splitlines()
    assert re.match(rf"{re.escape(redis_url)}: 2 waiting  0 running  0 failed  Redis [\d.]+: ", lines[0])
    assert lines[2].split() == ["queue", "waiting", "oldest", "running", "scheduled", "deferred", "failed"]
    assert lines[3].split()[:2] == ["first-queue", "2"]
    done = deltabus("stats", "--json", "--over", "0.1", folder=tmp_path, environ=environ(redis_url))
    found = json.loads(done.stdout)
    assert (found["waiting"], found["queues"][0]["name"], found["workers"]) == (2, "first-queue", [])
    assert found["rates"]["completed"] == 0
    found = json.loads(deltabus("stats", "--json", folder=tmp_path, environ=environ(redis_url)).stdout)
    assert found["rates"] is None
    assert [found[f"more_{what}"] for what in ("queues", "workers", "tasks", "failures")] == [0, 0, 0, 0]


def test_stats_list_the_busiest_and_say_how_many_more_there_are(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client, client.pipeline(transaction=False) as pipe:
        for number in range(250):
            pipe.sadd("rq:queues", f"rq:queue:q{number:03}")
            pipe.rpush(f"rq:queue:q{number:03}", *["t"] * (number + 1))
        pipe.sadd("rq:queues", "rq:queue:two\nlines\u202e")
        pipe.rpush("rq:queue:two\nlines\u202e", *["t"] * 1000)
        pipe.execute()
    lines = deltabus("stats", folder=tmp_path, environ=environ(redis_url)).stdout.decode().splitlines()
    assert f" {1000 + 250 * 251 // 2:,} waiting " in lines[0]
    assert [line.split()[0] for line in lines[3:6]] == ["two␊lines\ufffd", "q249", "q248"]
    assert lines[103] == "and 151 more: see --json"
    found = json.loads(deltabus("stats", "--json", folder=tmp_path, environ=environ(redis_url)).stdout)
    assert len(found["queues"]) == 251
    assert found["queues"][-1]["name"] == "two\nlines\u202e"
    assert found["waiting"] == 1000 + 250 * 251 // 2


def test_stats_say_that_redis_is_away(tmp_path: Path) -> None:
    done = deltabus("stats", folder=tmp_path, environ=environ("redis://127.0.0.1:1/0"))
    assert done.returncode == exits.UNREACHABLE
    assert b"cannot reach Redis at redis://127.0.0.1:1/0" in done.stderr


def test_the_picture_of_the_readme_is_made_of_a_bus_under_load(tmp_path: Path) -> None:
    text = shoot(tmp_path / "top.svg", seconds=2, workers=1, slots=5, streams=12)
    assert "worker-1" in text
    assert " 5/5 " in text
    assert re.search(r"\d events/s [▁▂▃▄▅▆▇█]", text)
    svg = (tmp_path / "top.svg").read_text(encoding="utf-8")
    assert "worker-1" in svg
    assert "@font-face" not in svg
    assert "(ops/screenshots/top.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
    committed = (ROOT / "ops" / "screenshots" / "top.svg").read_text(encoding="utf-8")
    assert "events/s" in committed.replace("&#160;", " ")
