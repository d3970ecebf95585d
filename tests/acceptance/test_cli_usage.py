"""The command line without Redis: help that teaches, and one clear line for whatever is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import DELTABUS

from deltabus.cli import exits, main

COMMANDS = [
    *("demo", "dev", "worker", "chat"),
    *("file", "embeddings", "models", "speech", "transcription", "images"),
    *("enqueue", "watch", "result", "cancel", "dead", "stats", "top", "providers", "redis", "check", "completion"),
]

#: A port of the reserved range on which nothing listens.
NOWHERE = "redis://:hunter2@127.0.0.1:1/0"

Invoke = Callable[..., Result]


@pytest.fixture
def deltabus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command in an empty folder with a bare environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if re.match("(DELTABUS|REDIS|OPENAI|ANTHROPIC|GEMINI|GOOGLE)_", name):
            monkeypatch.delenv(name)

    def invoke(*words: str, input: bytes | None = None) -> Result:
        return CliRunner().invoke(main, words, input=input)

    return invoke


def error(result: Result, code: int) -> str:
    """The one line on stderr."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_standard_stream_that_is_closed_is_no_hindrance(closed: str) -> None:
    line = f'"$@" {closed}'
    done = subprocess.run(["/bin/sh", "-c", line, "sh", *DELTABUS, "check", "--json"], capture_output=True, check=False)
    assert done.returncode in {exits.DONE, exits.FAILED, exits.UNREACHABLE}, done.stderr
    assert b"Traceback" not in done.stderr
    assert (done.stdout == b"") == (closed == ">&-")


def test_a_disk_that_is_full_is_said_in_one_line() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*DELTABUS, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (exits.FAILED, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_teaches_by_examples(deltabus: Invoke, command: str) -> None:
    result = deltabus(command, "--help")
    assert result.exit_code == 0
    assert f"  deltabus {command}" in result.stdout
    assert "--redis URL" in result.stdout


def test_the_help_names_every_command_and_exit_code(deltabus: Invoke) -> None:
    result = deltabus("--help")
    listed = [line.split()[0] for line in result.stdout.partition("Commands:\n")[2].splitlines()]
    assert listed == COMMANDS
    assert "Exit codes: 0 done; 1 the task failed" in result.stdout


def test_no_command_at_all_is_a_question_for_help(deltabus: Invoke) -> None:
    result = deltabus()
    assert result.exit_code == exits.USAGE
    assert "Usage: deltabus" in result.stderr


def test_the_version_is_the_distributions(deltabus: Invoke) -> None:
    from importlib.metadata import version

    assert deltabus("--version").stdout == f"deltabus {version('deltabus')}\n"


def test_help_loads_nothing_that_is_slow() -> None:
    code = "import sys, deltabus.cli; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert loaded.isdisjoint({"redis", "rq", "rich", "asyncio", "httpx", "aiohttp", "uvloop", "structlog"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chta"], "did you mean `chat`?"),
        (["chat", "--what"], "No such option '--what'"),
        (["chat"], "give a PROMPT"),
        (["chat", "x", "--param", "temperature"], "write KEY=JSON"),
        (["chat", "x", "--param", "stop=END"], """--param 'stop="END"'"""),
        (["chat", "x", "--param", 'model="m"'], "use --model for it"),
        (["chat", "-", "--file", "-"], "cannot both be read from stdin"),
        (["chat", "x", "--file", "missing.json"], "missing.json: No such file"),
        (["chat", "x", "--redis", "localhost"], "`redis_url` must be a URL"),
        (["chat", "x", "--config", "missing.toml"], "cannot read missing.toml"),
        (["enqueue", "f", "{"], "ENVELOPE: not JSON"),
        (["enqueue", "f", "[" * 10_000], "ENVELOPE: not JSON"),
        (["chat", "x", "--param", "n=" + "[" * 10_000], "is not JSON"),
        (["enqueue", "f", "[]"], "must be a JSON object"),
        (["enqueue", "f", "@missing.json"], "missing.json: No such file"),
        (["enqueue", "f", "{}", "--id", "a b"], "'a b' is not a task id"),
        (["worker", "--name", "a b"], "'a b' has to be of printable ASCII characters"),
        (["worker", "--name", ""], "'' has to be of printable ASCII characters"),
        (["dead", "requeue", "--code", "nosuchcode"], "'nosuchcode' is not one of 'authentication', "),
        (["watch"], "Missing argument"),
        (["watch", "a/b"], "'a/b' is not a task id"),
        (["watch", "a", "--after", "7"], "'7' is not the id of an event, such as 1-7"),
        (["watch", "a", "b", "--after", "1-7"], "2 tasks but 1 cursors"),
        (["result", "a", "--timeout", "soon"], "'soon' is not a valid float"),
        (["worker", "--processes", "0"], "0 is not in the range"),
        (["transcribe", "x.mp3"], "did you mean `transcription`?"),
        (["file", "upload"], "say what to send: a FILE"),
        (["file", "upload", "a.txt", "--url", "https://x.example/a"], "one of them"),
        (["file", "upload", "missing.pdf"], "missing.pdf: No such file"),
        (["file", "upload", "."], ".: Is a directory"),
        (["file", "upload", "/dev/null", "--expires-after", "soon"], "'soon' is not a duration"),
        (["file", "upload", "--url", "x", "--param", "purpose=1"], "use --purpose for it"),
        (["file", "list", "--limit", "0"], "0 is not in the range"),
        (["file", "content", "f", "-o", "x", "--to", "s3://b/k"], "-o FILE or --to URL"),
        (["file", "content", "f", "-o", "no/such/folder/x"], "there is no folder"),
        (["file", "content", "f", "--json"], "cannot both go to stdout"),
        (["file", "delete"], "Missing argument"),
        (["transcription"], "say what to send: a FILE"),
        (["transcription", "missing.mp3"], "missing.mp3: No such file"),
        (["speech", " "], "TEXT is empty"),
        (["speech", "x", "--param", 'voice="a"'], "use --voice for it"),
        (["images", "x", "--param", "n=2"], "use -n for it"),
        (["dev", "--redis", "redis://x"], "dev has a Redis of its own"),
        (["demo", "--redis", "redis://x"], "demo has a Redis of its own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_gets_one_line_that_says_what_to_write(
    deltabus: Invoke, words: list[str], says: str
) -> None:
    assert says in error(deltabus(*words), exits.USAGE)


def test_messages_must_be_json(deltabus: Invoke) -> None:
    assert "--file -: not JSON" in error(deltabus("chat", "--file", "-", input=b"no"), exits.USAGE)
    assert "an array of messages or a request" in error(deltabus("chat", "--file", "-", input=b"3"), exits.USAGE)
    assert "must be an array" in error(deltabus("chat", "--file", "-", input=b'{"messages": 3}'), exits.USAGE)


@pytest.mark.parametrize("command", ["worker", "providers", "check", "chat x"])
def test_a_wrong_configuration_names_file_key_and_fix(deltabus: Invoke, tmp_path: Path, command: str) -> None:
    (tmp_path / "deltabus.toml").write_text("concurency = 5\n")
    assert "did you mean `concurrency`?" in error(deltabus(*command.split()), exits.USAGE)


@pytest.mark.parametrize(
    "command",
    [
        "worker --burst",
        "worker --processes 2 --burst",
        "chat x",
        "enqueue f {}",
        "watch t",
        "watch t u",
        "result t",
        "cancel t",
        "file list",
        "models",
    ],
)
def test_a_redis_that_is_not_there_is_named_without_its_password(deltabus: Invoke, command: str) -> None:
    line = error(deltabus(*command.split(), "--redis", NOWHERE), exits.UNREACHABLE)
    assert "redis://127.0.0.1:1" in line
    assert "deltabus dev" in line
    assert "hunter2" not in line


def test_options_of_all_commands_stand_before_or_after_the_command(deltabus: Invoke) -> None:
    before = error(deltabus("--redis", NOWHERE, "result", "t"), exits.UNREACHABLE)
    assert before == error(deltabus("result", "t", "--redis", NOWHERE), exits.UNREACHABLE)


def test_the_providers_are_listed_with_plugin_and_origin(deltabus: Invoke, tmp_path: Path) -> None:
    (tmp_path / "deltabus.toml").write_text(
        '[providers.first]\nplugin = "echo"\nmodels = ["a-*", "b"]\n[providers.second]\nplugin = "missing"\n'
    )
    header, first, second = deltabus("providers").stdout.splitlines()
    assert header.split() == ["provider", "plugin", "from", "models", "configured", "in"]
    assert first.split()[:2] == ["first", "echo"]
    assert "a-*, b" in first
    assert "not installed" in second


def test_a_provider_that_is_not_well_is_told_by_the_exit_code(deltabus: Invoke, tmp_path: Path) -> None:
    (tmp_path / "deltabus.toml").write_text(
        '[providers.good]\nplugin = "echo"\n[providers.bad]\nplugin = "missing"\n'
        '[providers.keyless]\nplugin = "echo"\ntext = "${NO_SUCH_VARIABLE}"\n'
    )
    assert deltabus("providers").exit_code == 0
    result = deltabus("providers", "--check")
    assert result.exit_code == exits.FAILED
    _, good, bad, keyless = result.stdout.splitlines()
    assert "ok: answers by itself" in good
    assert "no: provider `bad` wants the plugin `missing`" in bad
    assert "NO_SUCH_VARIABLE is not set" in keyless


def test_check_without_redis_still_checks_the_rest(deltabus: Invoke) -> None:
    result = deltabus("check", "--redis", NOWHERE)
    assert result.exit_code == exits.UNREACHABLE
    assert "error  Redis" in result.stdout
    assert "ok     provider echo" in result.stdout
    assert "--redis" in result.stdout.splitlines()[1]
    assert "hunter2" not in result.stdout


def test_the_line_on_an_odd_error_is_still_one_line() -> None:
    from deltabus.errors import InvalidRequest, TaskExists

    assert exits.explain(TaskExists("a\n  b")) == "a b"
    assert exits.explain(InvalidRequest("must be x", param="v")) == "v: must be x"
    assert exits.explain(RuntimeError("a bug")) is None


def test_a_server_that_takes_connections_and_does_not_answer_is_not_one_to_be_started() -> None:
    from deltabus.errors import BusUnavailable

    said = exits.explain(BusUnavailable("cannot reach Redis at redis://a: Timeout reading from socket"))
    assert "`redis_timeout`" in (said or "")


@pytest.mark.parametrize(
    "words",
    [
        ("check", "--production", "--grace"),
        ("result", "t1", "--timeout"),
        ("stats", "--over"),
        ("top", "--every"),
    ],
)
def test_what_is_no_number_is_no_number_of_seconds(deltabus: Invoke, words: Sequence[str]) -> None:
    assert "'nan' is not a number of seconds" in error(deltabus(*words, "nan"), exits.USAGE)


def test_a_supervisor_is_not_told_to_fill_the_host_by_a_slip_of_the_finger(deltabus: Invoke) -> None:
    told = error(deltabus("worker", "--processes", "100000000"), exits.USAGE)
    assert "100000000 is not in the range 1<=x<=1024" in told
