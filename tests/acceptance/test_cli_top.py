"""`deltabus stats` and `deltabus top`: what they show, where they can, and how they are left."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
import redis
from processes import DELTABUS, PATIENCE, deltabus, environ
from terminals import Terminal

from deltabus import Bus
from deltabus.cli import exits
from screenshots.shoot import shoot

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def busy(redis_url: str) -> Bus:
    with Bus(redis_url) as bus:
        bus.chat(messages="one", queue="first-queue")
        bus.chat(messages="two", queue="first-queue")
        yield bus


def top(url: str, folder: Path, *words: str, size: tuple[int, int] = (100, 30), **more: str) -> Terminal:
    """`deltabus top` on a terminal."""
    return Terminal([*DELTABUS, "top", *words], folder, environ(url, TERM="xterm-256color", **more), size)


def is_drawn(shown: str) -> bool:
    return "commands a look" in shown


def test_top_is_live_and_q_leaves_it(redis_url: str, busy: Bus, tmp_path: Path) -> None:
    with top(redis_url, tmp_path, "--every", "0.2") as terminal:
        shown = terminal.shows(lambda shown: is_drawn(shown) and "events/s" in shown)
        assert "2 waiting" in shown
        assert "start one with `deltabus worker`" in shown
        assert not terminal.is_sane
        busy.chat(messages="three", queue="second-queue")
        terminal.shows(lambda shown: re.search(r"queues: 2.*first-queue +2.*second-queue +1", shown, re.DOTALL))
        terminal.press("x")  # means nothing
        terminal.shows(lambda shown: "second-queue" in shown)
        terminal.press("q")
        assert terminal.end() == exits.DONE
        assert terminal.is_sane
        assert "Traceback" not in terminal.said


def test_a_new_size_is_drawn_at_once(redis_url: str, busy: Bus, tmp_path: Path) -> None:
    """The next look is an hour away."""
    with top(redis_url, tmp_path, "--every", "60", size=(130, 30)) as terminal:
        terminal.shows(is_drawn)
        for size in ((80, 24), (60, 40)):
            terminal.resize(*size)
            terminal.shows(lambda _: terminal.widest == size[0])  # noqa: B023 # asked at once
            assert "first-queue" in terminal.picture
        terminal.press("q")
        assert terminal.end() == exits.DONE


def test_top_keeps_its_picture_while_redis_is_away_and_says_how_old_it_is(fresh_redis, tmp_path: Path) -> None:
    with Bus(fresh_redis.url) as bus:
        bus.chat(messages="one", queue="first-queue")
    with top(fresh_redis.url, tmp_path, "--every", "0.2", size=(80, 24)) as terminal:
        terminal.shows(is_drawn)
        fresh_redis.kill()
        shown = terminal.shows(lambda shown: re.search(r"\ds old, trying again: cannot reach Redis", shown))
        assert "first-queue" in shown
        terminal.shows(lambda shown: re.search(r"([2-9]\.\d|\d\d)s old", shown))
        fresh_redis.restart()
        terminal.shows(is_drawn)
        with redis.Redis.from_url(fresh_redis.url) as client:
            client.replicaof("127.0.0.1", 1)
            client.config_set("replica-serve-stale-data", "no")
            terminal.shows(lambda shown: "old, trying again: Redis does not answer: Link with MASTER is" in shown)
            client.replicaof("NO", "ONE")
            terminal.shows(is_drawn)
        terminal.process.send_signal(signal.SIGINT)  # Ctrl+C leaves it as well
        assert terminal.end() == exits.DONE
        assert terminal.is_sane
        assert "Traceback" not in terminal.said


def test_a_redis_that_hangs_keeps_nobody(fresh_redis, tmp_path: Path) -> None:
    """It is waited for longer than the test lasts."""
    with top(fresh_redis.url, tmp_path, "--every", "0.2", DELTABUS_REDIS_TIMEOUT="600") as terminal:
        terminal.shows(is_drawn)
        os.kill(fresh_redis.pid, signal.SIGSTOP)
        try:
            terminal.shows(lambda shown: "old: Redis does not answer" in shown)
            terminal.resize(70, 20)
            terminal.shows(lambda _: terminal.widest == 70)
            terminal.press("q")
            assert terminal.end() == exits.DONE
            assert terminal.is_sane
        finally:
            os.kill(fresh_redis.pid, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_top_leaves_the_terminal_as_it_was(redis_url: str, tmp_path: Path, number: int) -> None:
    with top(redis_url, tmp_path) as terminal:
        terminal.shows(is_drawn)
        terminal.process.send_signal(number)
        assert terminal.end() == exits.SIGNALLED + number
        assert terminal.is_sane
        assert "Traceback" not in terminal.said


@pytest.mark.parametrize("leaves", [b"q", signal.SIGTERM])
def test_a_terminal_that_takes_nothing_can_be_left(redis_url: str, tmp_path: Path, leaves: bytes | int) -> None:
    """Ctrl+S, or a connection that hangs."""
    with top(redis_url, tmp_path, "--every", "0.2") as terminal:
        terminal.shows(is_drawn)
        terminal.press("\x13")
        terminal.falls_silent(0.5)
        if isinstance(leaves, bytes):
            terminal.press(leaves.decode())
        else:
            terminal.process.send_signal(leaves)
        assert terminal.end() in {exits.DONE, exits.SIGNALLED + signal.SIGTERM}
        assert terminal.is_sane


def test_an_error_leaves_the_terminal_as_it_was_and_is_told_there(redis_url: str, tmp_path: Path) -> None:
    program = (
        "from deltabus.cli import main, panels\n"
        "sections = panels.sections\n"
        "def fails(now, between, **more):\n"
        "    if between: raise RuntimeError('a bug')\n"
        "    return sections(now, between, **more)\n"
        "panels.sections = fails\n"
        "main(['top', '--every', '0.2'])\n"
    )
    with Terminal([sys.executable, "-c", program], tmp_path, environ(redis_url, TERM="xterm")) as terminal:
        assert terminal.end() == 1
        assert terminal.is_sane
        assert terminal.said.index("\x1b[?1049l") < terminal.said.index("RuntimeError: a bug")


def test_a_terminal_that_is_closed_ends_top(redis_url: str, tmp_path: Path) -> None:
    with top(redis_url, tmp_path, "--every", "0.2") as terminal:
        terminal.shows(is_drawn)
        terminal.hang_up()
        assert terminal.process.wait(PATIENCE) == exits.SIGNALLED + signal.SIGHUP


#: An interactive shell, for job control.
SHELL = ("bash", "--norc", "--noprofile", "--noediting", "-i")


def in_a_shell(url: str, folder: Path) -> Terminal:
    return Terminal(SHELL, folder, environ(url, TERM="xterm", PS1="ready> ", HISTFILE="/dev/null"), (160, 30))


def has_ended(terminal: Terminal) -> None:
    """Press Enter until the shell tells that its job was ended by SIGTERM: it does so before a prompt."""
    end = time.monotonic() + PATIENCE
    while f"Exit {exits.SIGNALLED + signal.SIGTERM}" not in terminal.shows(lambda shown: "ready> " in shown):
        assert time.monotonic() < end, terminal.said[-2000:]
        terminal.press("\n")


def test_top_can_be_stopped_and_continued_like_any_job_of_a_shell(redis_url: str, busy: Bus, tmp_path: Path) -> None:
    with in_a_shell(redis_url, tmp_path) as terminal:
        terminal.shows(lambda shown: "ready> " in shown)
        terminal.press(f"{shlex.join(DELTABUS)} top --every 0.2\n")
        terminal.shows(is_drawn)
        for _ in range(2):
            terminal.press("\x1a")  # Ctrl+Z
            terminal.shows(lambda shown: "Stopped" in shown and "ready> " in shown)
            assert terminal.is_sane
            terminal.press("fg\n")
            terminal.shows(lambda shown: is_drawn(shown.rpartition("fg")[2]))
            assert not terminal.is_sane
        terminal.press("\x1a")
        terminal.shows(lambda shown: "Stopped" in shown and "ready> " in shown)
        terminal.press("bg\n")  # it wants the terminal, and has to wait for it
        while "Stopped" not in terminal.shows(lambda shown: "ready> " in shown):
            terminal.press("\n")
        assert terminal.is_sane
        terminal.press("fg\n")
        terminal.shows(lambda shown: is_drawn(shown.rpartition("fg")[2]))
        terminal.press("\x1a")
        terminal.shows(lambda shown: "Stopped" in shown and "ready> " in shown)
        # A shell lets a stopped job that it ends go on.
        terminal.press("kill %1\n")
        has_ended(terminal)
        assert terminal.is_sane
        assert "Traceback" not in terminal.said


def test_a_stopped_top_that_hears_late_why_it_goes_on_ends(redis_url: str, busy: Bus, tmp_path: Path) -> None:
    """Another of its threads gets the signal that ends it, and tells it when it goes on already."""
    program = (
        "from deltabus.cli import main, terminal\n"
        "terminal._BEFORE, wait = 60.0, terminal.Terminal._await_an_end\n"
        "terminal.Terminal._await_an_end = lambda self: (print('it goes on', flush=True), wait(self))\n"
        "main(['top', '--every', '0.2'])\n"
    )
    with in_a_shell(redis_url, tmp_path) as terminal:
        terminal.shows(lambda shown: "ready> " in shown)
        terminal.press(f"{shlex.join([sys.executable, '-P', '-c', program])}\n")
        terminal.shows(is_drawn)
        terminal.press("\x1a")
        terminal.shows(lambda shown: "Stopped" in shown and "ready> " in shown)
        terminal.press("jobs -p\n")
        job = int(re.findall(r"^(\d+)\r?$", terminal.shows(lambda shown: "ready> " in shown), re.MULTILINE)[0])
        os.killpg(job, signal.SIGCONT)
        terminal.shows(lambda shown: "it goes on" in shown)
        os.killpg(job, signal.SIGTERM)
        terminal.press("\n")
        has_ended(terminal)
        assert terminal.is_sane


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
