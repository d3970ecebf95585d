"""Processes that tests start, listen to and signal."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Self

import forkserver
import pytest
from click.testing import CliRunner
from redis import Redis

from deltabus.cli import main

#: Seconds that anything that is waited for may take, on however busy a machine.
PATIENCE = 120.0

#: Seconds after which a process that was told to leave is told again.
LEAVING = 30.0

#: Ports to draw from, which nobody else draws: below those of embedded servers and every system's ephemeral ones, which
#: any listener or client is given, and without those that documents name.
PORTS = range(7_000, 9_000)

#: Sockets that claim the ports which were drawn, by UDP, as they are still free for TCP; until this process ends.
_claims: list[socket.socket] = []

#: The command line, as a program of this environment.
DELTABUS = (sys.executable, "-P", "-m", "deltabus.cli")


def environ(redis_url: str | None = None, **more: str) -> dict[str, str]:
    """An environment without what this machine's user has configured."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not re.match("DELTABUS_|OPENAI_|ANTHROPIC_|GEMINI_|GOOGLE_|REDIS_|RQ_", key)
    }
    if redis_url is not None:
        kept["DELTABUS_REDIS_URL"] = redis_url
    return kept | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "TERM": "dumb"} | more


def deltabus(
    *words: str, folder: Path, environ: Mapping[str, str], input: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `deltabus <words>` to its end.

    Where it reads no input, that is done in this process, which takes a fifth. The documents, and what needs a
    terminal, a pipe or a signal, run the same commands as processes.
    """
    if input is not None:
        command = (*DELTABUS, *words)
        return subprocess.run(
            command, cwd=folder, env=dict(environ), input=input, capture_output=True, timeout=PATIENCE, check=False
        )
    others = dict.fromkeys(os.environ.keys() - environ.keys())
    with contextlib.chdir(folder):
        result = CliRunner(env={**others, **environ}).invoke(main, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(words, result.exit_code, result.stdout_bytes, result.stderr_bytes)


def run(
    command: Sequence[str], *, environ: Mapping[str, str], folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without input; from the fork server, where it can."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = _start(command, folder, environ, stdout=stdout.fileno(), stderr=stderr.fileno())
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
        said = [file.read().decode() for file in (stdout, stderr) if not file.seek(0)]
    return subprocess.CompletedProcess(command, code, *said)


def _start(
    command: Sequence[str],
    folder: Path | None,
    environ: Mapping[str, str] | None,
    *,
    stdout: int,
    stderr: int,
    fresh: bool = False,
) -> forkserver.Forked | subprocess.Popen[bytes]:
    environ = dict(os.environ if environ is None else environ)
    if not fresh and (server := fork_server(environ.get("RQ_KEY_PREFIX"))) and server.suits(command, environ):
        return server.start(command, folder=folder, environ=environ, stdout=stdout, stderr=stderr)
    return subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, process_group=0
    )


@cache
def fork_server(prefix: str | None = None) -> forkserver.ForkServer | None:
    """The fork server of this test process, where there can be one; RQ takes its prefix of keys while it loads."""
    if not forkserver.available():
        return None
    server = forkserver.ForkServer(environ() if prefix is None else environ(RQ_KEY_PREFIX=prefix))
    atexit.register(server.stop)
    return server


def patient(url: str) -> Redis:
    """A client that waits for an answer; redis-py's own asks again after 5 seconds, and then gives up."""
    return Redis.from_url(url, socket_timeout=2 * PATIENCE)


def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nobody listens, and nobody else will until this test process has ended."""
    for port in random.sample(PORTS, len(PORTS)):
        with contextlib.ExitStack() as stack:
            claim = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            probe = stack.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                claim.bind(("127.0.0.1", port))
                stack.pop_all()
                probe.close()
                _claims.append(claim)
                return port
    raise RuntimeError(f"all ports of {PORTS} are taken")


class Background:
    """A process that goes on while the test does other things, and what it says; a context manager.

    It has a process group of its own, as a shell gives one to each job, and hears Ctrl+C at the end. Where it can,
    it comes from the fork server, unless it is to be `fresh`: where its start or its memory is what is tested.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        environ: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> None:
        self._output, theirs = os.pipe()
        try:
            self.process = _start(command, folder, environ, stdout=theirs, stderr=theirs, fresh=fresh)
        finally:
            os.close(theirs)
        self._said: list[str] = []
        self._over = False
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def said(self) -> str:
        """Everything it has said so far."""
        with self._more:
            return "".join(self._said)

    def wait_for(self, words: str, times: int = 1) -> str:
        """Everything it has said, once these words are among it; fails the test if they do not come."""
        with self._more:
            self._more.wait_for(lambda: self._over or "".join(self._said).count(words) >= times, PATIENCE)
            said = "".join(self._said)
        assert said.count(words) >= times, f"never said {words!r}:\n{said}"
        return said

    def end(self) -> int:
        """Wait for its end, and that of every process that has inherited its output; the exit code."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not end:\n{self.said}")
        self._reader.join(PATIENCE)
        assert not self._reader.is_alive(), f"something it started still runs:\n{self.said}"
        return code

    def stop(self) -> None:
        """Ctrl+C, and once more where that does not do."""
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                try:
                    self.process.wait(LEAVING)
                except subprocess.TimeoutExpired:
                    continue
        self._reader.join()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while data := os.read(self._output, 65536):
            with self._more:
                self._said.append(decoder.decode(data))
                self._more.notify_all()
        os.close(self._output)
        with self._more:
            self._over = True
            self._more.notify_all()
