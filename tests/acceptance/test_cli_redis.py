"""`deltabus redis`: what Redis answers, as it is; from a server that is busy, too; and what holds its memory."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import DELTABUS, PATIENCE, deltabus, environ, patient
from redis import Redis
from redis.exceptions import ResponseError

from deltabus import Bus, keys
from deltabus.cli import exits


class Prompt:
    """Somebody who types `deltabus redis …`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.environ = environ(url)
        self.redis = patient(url)

    def __call__(self, *words: str) -> str:
        done = deltabus("redis", *words, folder=self.folder, environ=self.environ)
        assert done.returncode == exits.DONE, done.stderr
        return done.stdout.decode()

    def refused(self, *words: str, code: int = exits.FAILED) -> str:
        done = deltabus("redis", *words, folder=self.folder, environ=self.environ)
        assert (done.returncode, done.stdout) == (code, b"")
        return done.stderr.decode()


@pytest.fixture
def prompt(redis_url: str, tmp_path: Path) -> Iterator[Prompt]:
    prompt = Prompt(redis_url, tmp_path)
    yield prompt
    prompt.redis.close()


def test_an_answer_is_printed_as_it_is_a_value_a_line(prompt: Prompt) -> None:
    assert prompt("ping") == "PONG\n"
    assert prompt("HSET", "h", "one", "1", "two", "\x1b[2J") == "2\n"
    assert prompt("HMGET", "h", "one", "three", "two") == "1\n\n\x1b[2J\n"
    assert prompt("HGETALL", "h") == "one\n1\ntwo\n\x1b[2J\n"
    assert prompt("XADD", "s", "1-0", "event", "{}") == "1-0\n"
    assert prompt("XREVRANGE", "s", "+", "-", "COUNT", "1") == "1-0\nevent\n{}\n"
    assert prompt("ZADD", "z", "-1", "a") == "1\n"
    assert prompt("INFO", "memory").startswith("# Memory\nused_memory:")
    assert prompt("--each", "DBSIZE") == "3\n"
    assert sorted(prompt("--scan", "?").split()) == ["h", "s", "z"]


def test_bytes_that_are_no_text_are_asked_for_as_they_are(prompt: Prompt) -> None:
    prompt.redis.set(b"\xff", b"\xfe")
    done = deltabus("redis", "GET", os.fsdecode(b"\xff"), folder=prompt.folder, environ=prompt.environ)
    assert (done.returncode, done.stdout) == (exits.DONE, b"\xfe\n")
    done = deltabus("redis", "--scan", os.fsdecode(b"\xff*"), folder=prompt.folder, environ=prompt.environ)
    assert (done.returncode, done.stdout) == (exits.DONE, b"\xff\n")


def test_what_redis_refuses_is_said_in_one_line(prompt: Prompt) -> None:
    prompt.redis.set("a", "text")
    assert prompt.refused("CHTA") == "error: Redis refuses: unknown command 'CHTA', with args beginning with:\n"
    assert "another program uses it" in prompt.refused("LPUSH", "a", "b")
    assert "cannot reach Redis" in prompt.refused("--redis", "redis://127.0.0.1:1", "PING", code=exits.UNREACHABLE)


@pytest.mark.parametrize(
    "words", [[], [" "], ["--memory", "PING"], ["--memory", "--scan", "*"], ["MONITOR"], ["subscribe", "a"]]
)
def test_a_question_without_one_answer_is_none(prompt: Prompt, words: list[str]) -> None:
    assert prompt.refused(*words, code=exits.USAGE).count("\n") == 1


def test_a_reader_that_leaves_is_no_outage(prompt: Prompt) -> None:
    prompt.redis.mset({f"key-{number}": "" for number in range(2000)})
    command = shlex.join([*DELTABUS, "redis", "--scan", "*"])
    words = ["bash", "-c", f"{command} | head -1; echo ${{PIPESTATUS[0]}}"]
    done = subprocess.run(words, env=prompt.environ, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] in {str(exits.PIPE), str(exits.DONE)}


def test_a_server_that_runs_a_script_for_ever_is_freed(prompt: Prompt) -> None:
    prompt.redis.config_set("busy-reply-threshold", 10)

    def loop() -> None:
        with pytest.raises(ResponseError, match="killed by user"):
            prompt.redis.eval("while true do end", 0)

    thread = threading.Thread(target=loop)
    thread.start()
    with Redis.from_url(prompt.environ["DELTABUS_REDIS_URL"]) as other:
        try:
            while other.ping():  # until the script has begun, and been found slow
                pass
        except ResponseError:
            said = deltabus("check", folder=prompt.folder, environ=prompt.environ)
            assert said.returncode == exits.UNREACHABLE
            assert b"BUSY" in said.stdout
            assert b"SCRIPT KILL" in said.stdout.partition(b"to mend it")[2]
    assert "BUSY" in prompt.refused("DBSIZE")
    assert prompt("SCRIPT", "KILL") == "OK\n"
    thread.join(PATIENCE)
    assert prompt("DBSIZE") == "0\n"
    # The server is that of the tests to come, whose own scripts may take longer than that on a busy machine.
    prompt.redis.config_set("busy-reply-threshold", 5000)


def test_the_password_comes_from_where_the_configuration_says(prompt: Prompt) -> None:
    """And from no command line; nor is it on any screen."""
    prompt.redis.acl_setuser("op", enabled=True, passwords=["+p@ss/w:rd"], keys=["*"], commands=["+@all"])
    where = prompt.environ["DELTABUS_REDIS_URL"].removeprefix("redis://")
    (prompt.folder / "secret").write_text("p@ss/w:rd\n")
    prompt.environ |= {
        "DELTABUS_REDIS_URL": f"redis://op@{where}",
        "DELTABUS_REDIS_PASSWORD_FILE": str(prompt.folder / "secret"),
    }
    assert prompt("ACL", "WHOAMI") == "op\n"
    prompt.redis.acl_setuser("op", passwords=["+another", "-p@ss/w:rd"])
    assert "p@ss" not in prompt.refused("PING", code=exits.UNREACHABLE)
    prompt.redis.acl_deluser("op")


def test_memory_is_shown_by_kind_of_key_and_the_largest_of_each(prompt: Prompt) -> None:
    with Bus(prompt.environ["DELTABUS_REDIS_URL"]) as bus:
        tasks = [bus.chat(messages=os.urandom(size).hex(), queue="chat") for size in (1, 1000)]
    prompt.redis.xadd(keys.log(tasks[0].id), {"event": "{}"})
    prompt.redis.rpush(keys.blob("b"), os.urandom(100_000))
    prompt.redis.set("session:1", "x")
    heading, *rows = [line.split(maxsplit=1) for line in prompt("--memory").splitlines()]
    assert heading[1].split() == ["keys", "bytes", "largest", "which"]
    kinds = dict(rows)
    assert next(iter(kinds)) == "deltabus:blob:…", "the largest first"
    assert kinds.keys() == {"deltabus:blob:…", "deltabus:{…}:log", "rq:job:…", "rq:queue:…", "rq:queues", "keys"}
    assert kinds["rq:job:…"].startswith("2 ")
    assert kinds["rq:job:…"].endswith(f"rq:job:{tasks[1].id}")
    assert kinds["keys"].startswith("of other programs")
