"""Follows a document as a reader would: every fenced block is run, in order, in one folder.

What a block is, its info string says; what is behind the language is not shown by any renderer:

    ```sh                            commands for bash; each must succeed
    ```sh exit=1                     … or the last one ends with this code
    ```sh background="some words"    started and left running; the next block waits for these words
    ```sh repository                 run in the repository, where `make` only says what it would do
    ```sh needs=node                 left out where the program is missing; an error where CI=true
    ```python                        a program
    ```redis                         commands for the Redis in use; a backslash joins lines
    ```toml file=deltabus.toml       a file that the following blocks find
    ```json                          must be JSON
    ```yaml                          must be YAML
    ```text                          what the block before it printed; … stands for anything

A block of any other kind is an error: there are no examples that are only looked at.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import pytest
import redis
import yaml
from processes import PATIENCE, Background, environ, free_port, patient

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")

#: What `deltabus dev` tells a reader to type where it could not have the usual port.
_EXPORT = re.compile(r"^ *export (\w+)=(\S+)$", re.MULTILINE)

#: The ports that documents name, of metrics, rq-dashboard, rq-exporter: two of them may be followed at the same time.
PORTS = ("9464", "9181", "9726")


class Block(NamedTuple):
    """A fenced block of a document."""

    path: Path
    #: Line of the opening fence, from 1.
    line: int
    language: str
    options: Mapping[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    opening: tuple[int, str, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = _FENCE.match(line)
        if opening is None and match:
            opening = (number, match["fence"], match["info"].strip(), match["indent"])
            body = []
        elif opening is not None and match and match["fence"].startswith(opening[1]) and not match["info"].strip():
            language, *words = shlex.split(opening[2] or "''")
            options = {key: value for key, _, value in (word.partition("=") for word in words)}
            yield Block(path, opening[0], language, options, "\n".join(body) + "\n")
            opening = None
        else:
            body.append(line.removeprefix(opening[3]) if opening else line)
    assert opening is None, f"{path}: a fence is never closed"


class Reader:
    """Somebody with a terminal, a folder and the document; a context manager.

    Args:
        folder: an empty one.
        redis_url: the Redis to use, under the address that documents call it by. None: one that the
            document starts.
    """

    def __init__(self, folder: Path, redis_url: str | None = None) -> None:
        self.folder = folder
        self._ports = {port: str(free_port()) for port in PORTS}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environ = environ(PATH=programs)
        # A block of the repository must not change it, nor the environment that the tests run in.
        self.environ |= {"PIP_TARGET": str(folder / "installed"), "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1"}
        self.environ |= {"PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "MAKEFLAGS": "n"}
        self.output = ""
        self._running: list[Background] = []
        if redis_url is not None:
            self._use(redis_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.stop()

    def follow(self, path: Path) -> None:
        """Run all blocks of a document; the first that is wrong fails the test, by file and line."""
        found = list(blocks(path))
        assert found, f"{path} has no blocks"
        for block in found:
            self._rest()
            self.run(block)

    def _rest(self) -> None:
        """Wait until nothing runs: who reads on takes longer than a worker that books what has ended."""
        if (url := self.environ.get("REDIS_URL")) is None:
            return
        deadline = time.monotonic() + PATIENCE
        with patient(url) as client:
            while running := list(client.scan_iter("rq:wip:*")):
                assert time.monotonic() < deadline, f"it goes on: {running}"
                client.blpop(["nothing"], timeout=0.05)

    def run(self, block: Block) -> None:
        """Run one block."""
        program = block.options.get("needs")
        if program is not None and shutil.which(program, path=self.environ["PATH"]) is None:
            assert os.environ.get("CI") != "true", f"{block}: {program} is not installed"
            return
        match block.language:
            case "sh" if "background" in block.options:
                self._start(block)
            case "sh":
                self._shell(block)
            case "python":
                self._command(block, [sys.executable, "-c", self.here(block.text)])
            case "redis":
                self._redis(block)
            case "toml" | "json" | "yaml":
                self._data(block)
            case "text":
                self._compare(block)
            case language:
                pytest.fail(f"{block}: a block of `{language}` cannot be run: see documents.py for what can")

    def _shell(self, block: Block) -> None:
        self._command(block, ["bash", "-eu", "-o", "pipefail", "-c", self.here(block.text)])

    def _where(self, block: Block) -> Path:
        return ROOT if "repository" in block.options else self.folder

    def _command(self, block: Block, command: list[str]) -> None:
        where, expected = self._where(block), int(block.options.get("exit", "0"))
        try:
            done = subprocess.run(
                command, cwd=where, env=self.environ, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired as exc:
            pytest.fail(f"{block}: not done after {PATIENCE:g} s\n{block.text}\n{exc.stdout!r}\n{exc.stderr!r}")
        if done.returncode != expected:
            pytest.fail(f"{block}: exit code {done.returncode}\n{block.text}\n{done.stdout}\n{done.stderr}")
        self.output = done.stdout

    def _start(self, block: Block) -> None:
        command = ["bash", "-c", f"exec {self.here(block.text)}"]
        process = Background(command, folder=self._where(block), environ=self.environ)
        self._running.append(process)
        try:
            said = process.wait_for(block.options["background"])
        except AssertionError as exc:
            pytest.fail(f"{block}: {block.text}{exc}")
        for name, value in _EXPORT.findall(said):
            assert name == "DELTABUS_REDIS_URL", f"{block}: {name}={value}"
            self._use(value)

    def _use(self, url: str) -> None:
        self.environ |= {"DELTABUS_REDIS_URL": url, "REDIS_URL": url, "RQ_REDIS_URL": url}

    def here(self, text: str) -> str:
        """The text with the address and the ports that documents name replaced by those in use."""
        for named, used in self._ports.items():
            text = text.replace(named, used)
        return text.replace("redis://localhost:6379", self.environ.get("REDIS_URL", "redis://localhost:6379"))

    def _redis(self, block: Block) -> None:
        with redis.Redis.from_url(self.environ["REDIS_URL"], decode_responses=True) as client:
            for line in block.text.replace("\\\n", " ").splitlines():
                client.execute_command(*shlex.split(line))
        self.output = ""

    def _data(self, block: Block) -> None:
        readers = {"json": json.loads, "toml": tomllib.loads, "yaml": yaml.safe_load}
        try:
            readers[block.language](block.text)
        except (ValueError, yaml.YAMLError) as exc:
            pytest.fail(f"{block}: not {block.language}: {exc}")
        if name := block.options.get("file"):
            (self.folder / name).write_text(block.text, encoding="utf-8")

    def _compare(self, block: Block) -> None:
        parts = [re.escape(part) for part in block.text.strip().split("…")]
        if not re.fullmatch(".*?".join(parts), self.output.strip(), re.DOTALL):
            pytest.fail(f"{block}: what was printed is something else\n{self.output}")
