"""`deltabus chat`, `enqueue`, `watch`, `result`, `cancel`: real processes, a real Redis, a real worker that echoes."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import DELTABUS, PATIENCE, Background, deltabus, environ
from redis import Redis
from talker import MODEL, Talker

from deltabus import keys
from deltabus.cli import exits
from deltabus.embedded import EmbeddedRedis

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., Background]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talker]:
    with Talker(tmp_path_factory.mktemp("talker")) as talker:
        yield talker


@pytest.fixture(scope="module")
def url(talker: Talker) -> Iterator[str]:
    """A Redis with a password, and a worker on it that all tests of this module share."""
    with EmbeddedRedis(args=("--requirepass", "hunter2")) as server:
        words = [*DELTABUS, "worker", "chat", "--redis", server.url]
        with Background(words, environ=environ(DELTABUS_DRAIN_TIMEOUT="0", **talker.settings)) as worker:
            worker.wait_for("worker started")
            yield server.url


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    """Run a command to its end."""

    def run(*words: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        done = deltabus(*words, folder=tmp_path, environ=environ(url), input=None if input is None else input.encode())
        return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Start a command."""
    started: list[Background] = []

    def start(*words: str) -> Background:
        started.append(Background([*DELTABUS, *words], folder=tmp_path, environ=environ(url)))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def echo(**script: Any) -> list[str]:
    """Options that tell the echo provider how to answer."""
    return ["--param", f"echo={json.dumps(script)}"]


def envelope(text: str = "hello", **script: Any) -> str:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"request": {"messages": messages, "stream": True, "echo": script}})


def enqueue(run: Run, task: str, **script: Any) -> None:
    assert run("enqueue", "deltabus.tasks.chat", envelope(**script), "--id", task).returncode == exits.DONE


def resume_command(said: str) -> list[str]:
    """The command that Ctrl+C has told to type."""
    match = re.search(r"resume with: deltabus (.*)$", said, re.MULTILINE)
    assert match, said
    return match[1].split()


def test_the_answer_goes_to_stdout_and_the_rest_to_stderr(run: Run) -> None:
    done = run("chat", "hello bus", *echo(reasoning="hm"))
    assert (done.returncode, done.stdout) == (exits.DONE, "hello bus\n")
    assert "completed" in done.stderr


def test_the_answer_is_shown_while_it_is_made(start: Start) -> None:
    chat = start("chat", "x", *echo(text="one two three four", stall_after=3))
    chat.wait_for("one two three")
    assert chat.process.poll() is None


@pytest.mark.parametrize(
    ("words", "input", "answer"),
    [
        (["-"], "from stdin", "from stdin"),
        (["--file", "-"], '[{"role": "user", "content": "a message"}]', "a message"),
        (["--file", "-"], '{"messages": [{"role": "user", "content": "a request"}], "max_tokens": 1}', "a"),
        (["--file", "-", "at last"], '[{"role": "user", "content": "first"}]', "at last"),
        (["one two", "-s", "Be brief.", "--param", "max_tokens=1", "-m", "any", "-p", "echo"], None, "one"),
        (["in one piece", "--no-stream"], None, "in one piece"),
    ],
)
def test_a_prompt_comes_from_wherever_it_is(run: Run, words: list[str], input: str | None, answer: str) -> None:
    done = run("chat", *words, input=input)
    assert (done.returncode, done.stdout) == (exits.DONE, f"{answer}\n"), done.stderr


def test_ctrl_c_leaves_the_task_running_and_says_how_to_go_on(run: Run, start: Start, talker: Talker) -> None:
    chat = start("chat", "long", "-m", MODEL)
    chat.wait_for("0 1 ")
    chat.process.send_signal(signal.SIGINT)
    assert chat.end() == exits.INTERRUPTED
    talker.let_end("long")
    shown, _, hint = chat.said.partition("\n")
    rest = run(*resume_command(hint))
    assert rest.returncode == exits.DONE
    whole = run("result", resume_command(hint)[1]).stdout
    assert [int(word) for word in whole.split()] == [*range(len(whole.split()))]
    assert shown.removesuffix("^C") + rest.stdout == whole


def test_a_failed_task_is_one_clear_line_and_exit_code_1(run: Run) -> None:
    done = run("chat", "x", *echo(error="authentication"))
    assert (done.returncode, done.stdout) == (exits.FAILED, "")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"error: task \w+ failed: authentication: failed, as the script asks", line)


def test_an_attempt_that_fails_is_voided_and_the_next_one_shown(run: Run) -> None:
    done = run("chat", "x", *echo(text="a b c d", fail_after=2, fail_attempts=1))
    assert done.stdout == "a b\na b c d\n"
    assert "retrying in" in done.stderr
    assert "no longer counts: attempt 2 begins" in done.stderr


def test_json_is_the_log_byte_for_byte(run: Run, url: str) -> None:
    done = run("chat", "one two three", "--json")
    lines = done.stdout.splitlines()
    task = json.loads(lines[0])["task"]
    with Redis.from_url(url, decode_responses=True) as redis:
        assert lines == [entry[keys.EVENT_FIELD] for _, entry in redis.xrange(keys.log(task))]
    assert run("watch", task, "--json").stdout.splitlines() == lines
    assert run("watch", task, "--json", "--after", json.loads(lines[1])["id"]).stdout.splitlines() == lines[2:]


def test_nobody_on_the_queue_is_said_at_once_and_who_comes_later_is_waited_for(start: Start) -> None:
    chat = start("chat", "hello", "--queue", "lonely")
    chat.wait_for("nobody works on queue `lonely`")
    chat.wait_for("start a worker: `deltabus worker lonely`")
    assert "hunter2" not in chat.said
    start("worker", "lonely")
    chat.wait_for("hello\n")
    assert chat.end() == exits.DONE


def test_suspended_workers_are_told_from_missing_ones(start: Start, url: str) -> None:
    with Redis.from_url(url) as redis:
        redis.set("rq:suspended", 1)
        try:
            start("chat", "x", "--queue", "idle").wait_for("work is suspended: resume it with `rq resume")
        finally:
            redis.delete("rq:suspended")


def test_a_reader_that_leaves_ends_the_command_quietly(url: str) -> None:
    """The answer is more than fits into a pipe: it cannot all be there before the reader leaves."""
    words = f"{shlex.join(DELTABUS)} chat - | head -c 3; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", words],
        env=environ(url),
        input="The " * 100_000,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (exits.PIPE, "The")
    assert "Traceback" not in done.stderr


def test_an_answer_cannot_play_tricks_on_the_terminal(run: Run, url: str) -> None:
    tricks = "\x1b]0;title\x07\x1b[2Jend"
    assert run("chat", "x", *echo(text=tricks)).stdout == f"{tricks}\n"
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*DELTABUS, "chat", "x", *echo(text=tricks)], env=environ(url), stdout=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # How Linux says that the other side has closed a terminal.
        while data := os.read(ours, 1024):
            shown += data
    os.close(ours)
    assert process.wait(PATIENCE) == exits.DONE
    assert b"\x1b]0" not in shown
    assert "␛]0;title␇␛[2Jend".encode() in shown


def test_enqueue_prints_the_id_and_takes_the_envelope_from_anywhere(run: Run, tmp_path: Path) -> None:
    (tmp_path / "envelope.json").write_text(envelope("from a file"))
    task = run("enqueue", "deltabus.tasks.chat", "@envelope.json").stdout.strip()
    assert run("result", task).stdout == "from a file\n"
    task = run("enqueue", "deltabus.tasks.chat", "-", input=envelope("from stdin")).stdout.strip()
    assert run("result", task).stdout == "from stdin\n"
    answer = run("enqueue", "deltabus.tasks.chat", envelope(), "--id", "chosen-1", "--json").stdout
    assert json.loads(answer) == {"task": "chosen-1", "queue": "chat"}


def test_an_id_that_is_taken_is_refused(run: Run) -> None:
    enqueue(run, "taken-1")
    done = run("enqueue", "deltabus.tasks.chat", envelope(), "--id", "taken-1")
    assert done.returncode == exits.USAGE
    assert "taken-1" in done.stderr


def test_an_envelope_that_breaks_a_rule_is_refused_by_name(run: Run) -> None:
    done = run("enqueue", "deltabus.tasks.chat", '{"request": {}, "providr": "x"}')
    assert done.returncode == exits.USAGE
    assert "did you mean `provider`?" in done.stderr


def test_a_function_that_is_not_registered_fails_as_a_task(run: Run) -> None:
    run("enqueue", "os.system", '{"request": {}}', "--id", "evil-1")
    done = run("watch", "evil-1")
    assert done.returncode == exits.FAILED
    assert "unknown_task: function `os.system` is not registered" in done.stderr


def test_several_tasks_are_watched_at_once_and_the_worst_is_the_exit_code(run: Run) -> None:
    enqueue(run, "good-1", words=3)
    enqueue(run, "bad-1", error="permission")
    done = run("watch", "good-1", "bad-1")
    assert done.returncode == exits.FAILED
    assert re.search(r"^good-1  1-1 +delta +\"The", done.stdout, re.MULTILINE)
    assert re.search(r"^good-1  end +completed$", done.stdout, re.MULTILINE)
    assert re.search(r"^bad-1   end +failed$", done.stdout, re.MULTILINE)
    assert "error: task bad-1 failed: permission" in done.stderr
    events = [json.loads(line) for line in run("watch", "good-1", "bad-1", "--json").stdout.splitlines()]
    assert [event["type"] for event in events if event["id"] == keys.SEAL] in (
        ["completed", "failed"],
        ["failed", "completed"],
    )


def test_a_task_that_nobody_knows_is_said_at_once(run: Run) -> None:
    for command in ("watch", "result", "cancel"):
        done = run(command, "never-was")
        assert done.returncode == exits.USAGE
        assert "task never-was is not known" in done.stderr


def test_a_result_that_is_not_there_in_time_is_said_and_the_task_goes_on(run: Run) -> None:
    enqueue(run, "slow-1", stall_after=0)
    done = run("result", "slow-1", "--timeout", "0.1")
    assert done.returncode == exits.FAILED
    assert "not finished within 0.1 s; follow it with: deltabus watch slow-1" in done.stderr
    done = run("cancel", "slow-1", "--reason", "enough")
    assert (done.returncode, done.stdout) == (exits.DONE, "slow-1 is being cancelled\n")
    done = run("watch", "slow-1")
    assert done.returncode == exits.FAILED
    assert "error: task slow-1 was cancelled: enough" in done.stderr


def test_a_result_is_text_or_the_whole_object(run: Run) -> None:
    enqueue(run, "object-1", text="words")
    assert run("result", "object-1").stdout == "words\n"
    whole = json.loads(run("result", "object-1", "--json").stdout)
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == "words"


def test_what_has_finished_cannot_be_cancelled(run: Run) -> None:
    enqueue(run, "over-1")
    run("result", "over-1")
    done = run("cancel", "over-1")
    assert done.returncode == exits.FAILED
    assert "over-1 has already finished" in done.stderr
    assert json.loads(run("cancel", "over-1", "--json").stdout) == {"task": "over-1", "cancelled": False}
    run("enqueue", "deltabus.tasks.chat", '{"request": {"messages": "x"}}', "--id", "waits-1", "--queue", "elsewhere")
    done = run("cancel", "over-1", "never-was", "waits-1")
    assert (done.returncode, done.stdout) == (exits.USAGE, "waits-1 is being cancelled\n")


def test_check_reports_what_there_is(run: Run, url: str) -> None:
    done = run("check", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"]) == (exits.DONE, True)
    states = {finding["subject"]: finding["state"] for finding in report["findings"]}
    assert states["Redis"] == states["rights"] == states["RQ"] == states["queue chat"] == "ok"
    assert states["provider echo"] == "ok"
    assert states["queue file"] == states["persistence"] == "warning"
    assert {"name": "redis_url", "value": url.replace(":hunter2@", ""), "source": "DELTABUS_REDIS_URL"} in report[
        "settings"
    ]
    assert "hunter2" not in done.stdout + done.stderr


def test_check_says_how_to_mend_a_server_that_evicts(run: Run, url: str) -> None:
    with Redis.from_url(url) as redis:
        redis.config_set("maxmemory", "100mb")
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            done = run("check")
        finally:
            redis.config_set("maxmemory", "0")
            redis.config_set("maxmemory-policy", "noeviction")
    assert done.returncode == exits.FAILED
    assert "to mend it: deltabus redis CONFIG SET maxmemory-policy noeviction" in done.stdout


def test_check_tells_a_user_without_rights(run: Run, url: str) -> None:
    with Redis.from_url(url) as redis:
        redis.acl_setuser("weak", enabled=True, passwords=["+pw"], categories=["+@all", "-@scripting"], keys=["*"])
        redis.acl_setuser("wrong", enabled=True, passwords=["+pw"])
    done = run("check", "--redis", url.replace(":hunter2@", "weak:pw@"))
    assert done.returncode == exits.FAILED
    assert re.search(r"error +rights +Redis refuses: .*eval.*\n +to mend it: give this user", done.stdout)
    done = run("check", "--redis", url.replace(":hunter2@", "weak:no@"))
    assert done.returncode == exits.UNREACHABLE
    assert "see to its user and password" in done.stdout
    assert "deltabus dev" not in done.stdout


def test_check_does_not_ask_for_rights_that_a_producer_has_no_need_of(run: Run, url: str) -> None:
    with Redis.from_url(url) as redis:
        redis.execute_command("ACL", "SETUSER", "frugal", "on", ">pw", "~*", "&*", "+@all", "-info", "-type")
    done = run("check", "--json", "--redis", url.replace(":hunter2@", "frugal:pw@"))
    states = {finding["subject"]: finding["state"] for finding in json.loads(done.stdout)["findings"]}
    assert states["server"] == states["memory"] == states["keys"] == states["queue chat"] == "warning"
    assert states["rights"] == "ok"


@pytest.mark.parametrize("key", ["rq:queues", "rq:workers", "rq:deltabus:workers"])
def test_check_tells_a_key_that_another_program_uses(run: Run, url: str, key: str) -> None:
    other = url.rpartition("/")[0] + "/9"
    with Redis.from_url(other) as redis:
        redis.hset(key, "of", "another program")
        done = run("check", "--production", "--redis", other)
        redis.flushdb()
    assert done.returncode == exits.FAILED
    assert f"{key} is a hash, not a " in done.stdout
    assert "metrics.port" in done.stdout  # whatever Redis says, the rest is judged


def test_check_tells_a_queue_key_that_is_something_else(run: Run, url: str) -> None:
    with Redis.from_url(url) as redis:
        redis.set("rq:queue:file", "not a list")
        try:
            done = run("check")
        finally:
            redis.delete("rq:queue:file")
    assert done.returncode == exits.FAILED
    assert "rq:queue:file is a string, not a list" in done.stdout
    assert re.search(r"ok +queue chat", done.stdout)
