"""Starts Python programs without loading our modules each time: most of what a worker costs that runs a few tasks.

A fork server as `multiprocessing` has one: a process that has loaded what `deltabus worker` loads, and run nothing of
it. For each command it forks, and the child runs the module or the program of the command from its first line, in an
environment, a folder and a process group of its own, with no descriptor but the standard ones. What the interpreter or
a module reads from the environment while it loads must be what the server was started with: anything else is for a
fresh process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What a worker has loaded when it has run its first task, with a provider on the web and with that of the tests.
MODULES = (
    "deltabus.cli.worker",
    "deltabus.worker",
    "deltabus.monitoring.instruments",
    "deltabus.tasks",
    "deltabus_echo",
    "deltabus_openai",
    "uvloop",
)

#: Variables that count while modules load.
AT_LOADING = re.compile("PYTHON|LANG|LC_|LD_|MALLOC_|TZ$|SSL_|RQ_|OTEL_|AIOHTTP_|COVERAGE_")

#: The commands that it can run; a line a word.
_COMMAND = re.compile(re.escape(sys.executable) + r"\n(-P\n)?(-m|-c)\n")

#: Bytes that a request may have; an environment is most of it.
REQUEST_BYTES = 200_000

#: Bytes of a process id or an exit code.
NUMBER_BYTES = 8


class Forked:
    """A process that the server has forked; as much of `subprocess.Popen` as tests ask."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or None while it runs; -n where signal n ended it."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit code.

        Raises:
            subprocess.TimeoutExpired: it takes longer than so many seconds.
        """
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
                self.returncode = _heard(self._status)
                os.close(self._status)
            return self.returncode


class ForkServer:
    """The server, as whoever asks it for processes sees it; it ends with this process.

    Args:
        environ: its environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._at_loading = _at_loading(environ)
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                # Nothing comes there; but what is forked has pipes too, and inherits streams that were made for pipes.
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def suits(self, command: Sequence[str], environ: Mapping[str, str]) -> bool:
        """Whether this is a module or a program for this Python, and a fresh process would have loaded the same."""
        return _COMMAND.match("\n".join(command)) is not None and _at_loading(environ) == self._at_loading

    def start(
        self, command: Sequence[str], *, folder: Path | None, environ: Mapping[str, str], stdout: int, stderr: int
    ) -> Forked:
        """Run a command that suits, with these descriptors as its outputs and no input."""
        request = {"command": list(command), "folder": str(folder or Path.cwd()), "environ": dict(environ)}
        status, ended = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._control, [json.dumps(request).encode()], [stdout, stderr, ended])
        finally:
            os.close(ended)
        return Forked(_heard(status), status)

    def stop(self) -> None:
        """End it, and with it what it has forked."""
        self._control.close()
        self._process.communicate()


def available() -> bool:
    """Whether there can be one: on Linux, where nobody measures coverage, which begins when an interpreter starts."""
    return sys.platform == "linux" and not any(name.startswith("COVERAGE_") for name in os.environ)


def _heard(descriptor: int) -> int:
    said = os.read(descriptor, NUMBER_BYTES)
    assert len(said) == NUMBER_BYTES, "the fork server is gone"
    return int.from_bytes(said, signed=True)


def _at_loading(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if AT_LOADING.match(name)}


# What follows runs in the server.


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request; returns in the child, with the request. Ends when nobody can ask any more."""
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([control.fileno(), *children], [], [])[0]:
            if ready != control.fileno():
                _bury(ready, *children.pop(ready))
                continue
            message, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 3)
            if not message:
                for child, (pid, ended) in children.items():
                    os.kill(pid, signal.SIGKILL)
                    _bury(child, pid, ended)
                sys.exit()
            stdout, stderr, ended = descriptors
            pid = os.fork()
            if not pid:
                os.setpgid(0, 0)
                os.dup2(stdout, 1)
                os.dup2(stderr, 2)
                others = [number for child, (_, told) in children.items() for number in (child, told)]
                for descriptor in (control.detach(), stdout, stderr, ended, *others):
                    os.close(descriptor)
                request: dict[str, Any] = json.loads(message)
                return request
            os.close(stdout)
            os.close(stderr)
            children[os.pidfd_open(pid)] = (pid, ended)
            # Both sides do this: whichever comes first, the group is there before anybody signals it.
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)
            _tell(ended, pid)


def _bury(child: int, pid: int, ended: int) -> None:
    os.close(child)
    _tell(ended, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.close(ended)


def _tell(descriptor: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(descriptor, number.to_bytes(NUMBER_BYTES, signed=True))


def _main(descriptor: int) -> None:
    for module in MODULES:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a thread does not survive a fork"
    request = _serve(socket.socket(fileno=descriptor))
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["folder"])
    _run(request["command"][1:])


def _run(words: list[str]) -> None:
    """As Python does it with these arguments."""
    safe_path = words[0] == "-P"
    option, what, *arguments = words[safe_path:]
    sys.argv = [option, *arguments]
    if option == "-m":
        if not safe_path:
            sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        if not safe_path:
            sys.path.insert(0, "")
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})  # what `-c` is


if __name__ == "__main__":
    _main(int(sys.argv[1]))
