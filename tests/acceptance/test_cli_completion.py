"""Shell completion: a real bash that has read `deltabus completion bash`, and what zsh and fish are told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import PATIENCE, environ
from redis import Redis

Tab = Callable[[str], list[str]]

#: Where the program `deltabus` is.
PROGRAMS = Path(sys.executable).parent

#: The same, for a person who waits for Redis as long as it takes.
PATIENT = f"""#!{sys.executable} -P
from deltabus.cli import complete, main
complete.PATIENCE = {PATIENCE}
main()
"""


def shell(program: str, script: str, folder: Path, *, programs: Path = PROGRAMS, **variables: str) -> str:
    path = f"{programs}:{environ()['PATH']}"
    done = subprocess.run(
        [program, "-c", script],
        cwd=folder,
        env=environ(**variables, PATH=path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def tab(tmp_path: Path, redis_url: str) -> Tab:
    """What bash offers when TAB is pressed at the end of a line."""
    script = shell("bash", "deltabus completion bash", tmp_path)
    (tmp_path / "deltabus").write_text(PATIENT)
    (tmp_path / "deltabus").chmod(0o700)
    (tmp_path / "deltabus.toml").write_text('queues = ["chat", "slow"]\n[providers.acme]\nplugin = "openai"\n')

    def tab(line: str) -> list[str]:
        words = line.split(" ")
        press = (
            f"{script}\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\nCOMP_CWORD={len(words) - 1}\n"
            '_deltabus_completion deltabus\nprintf "%s\\n" "${COMPREPLY[@]}"'
        )
        return shell("bash", press, tmp_path, programs=tmp_path, DELTABUS_REDIS_URL=redis_url).split()

    return tab


def test_bash_completes_commands_options_and_choices(tab: Tab) -> None:
    assert tab("deltabus wo") == ["worker"]
    assert {"chat", "check", "completion"} <= set(tab("deltabus ch") + tab("deltabus co"))
    assert tab("deltabus worker --proc") == ["--processes"]
    assert tab("deltabus --redis redis://x wor") == ["worker"]
    assert tab("deltabus dead req") == ["requeue"]
    assert tab("deltabus completion f") == ["fish"]
    assert "worker" in tab("deltabus nonsense ")


def test_bash_completes_what_redis_and_the_configuration_know(tab: Tab, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        # The last three would be run, or shown, by the shell.
        redis.sadd(
            "rq:queues", "rq:queue:slug", "rq:queue:other", "rq:queue:sl$(id)", "rq:queue:sl;id", "rq:queue:sl\x1b[2J"
        )
        redis.zadd("rq:wip:chat", {"task-running:execution-1": 1})
        redis.zadd("rq:failed:slow", {"task-failed": 1})
        redis.rpush("rq:queue:chat", "task-waiting")
    assert tab("deltabus worker sl") == ["slow", "slug"]
    assert tab("deltabus chat --queue o") == ["other"]
    assert tab("deltabus chat --provider ") == ["acme"]
    assert tab("deltabus watch task-") == ["task-running", "task-waiting", "task-failed"]
    assert tab("deltabus dead show task-") == ["task-failed"]


def test_nothing_is_said_where_nothing_can_be_known(tab: Tab, tmp_path: Path) -> None:
    assert tab("deltabus --redis redis://localhost:1 watch ") == []
    (tmp_path / "deltabus.toml").write_text("nonsense = 1")
    assert tab("deltabus worker ") == []


@pytest.mark.parametrize("program", ["zsh", "fish"])
def test_the_other_shells_get_a_script_and_answers(program: str, tmp_path: Path) -> None:
    script = shell("bash", f"deltabus completion {program}", tmp_path)
    assert "_DELTABUS_COMPLETE" in script
    variables = {
        "_DELTABUS_COMPLETE": f"{program}_complete",
        "COMP_WORDS": "deltabus wor",
        "COMP_CWORD": "1" if program == "zsh" else "wor",
    }
    assert "worker" in shell("bash", "deltabus", tmp_path, **variables)
    if shutil.which(program):
        shell(program, f"{'autoload -U compinit; compinit -u; ' if program == 'zsh' else ''}{script}", tmp_path)
