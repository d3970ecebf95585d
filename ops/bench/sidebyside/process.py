"""Processes that are measured: what they and their children have used of CPU and memory, as Linux tells it."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

#: Seconds that a process may take to leave when it is asked to.
LEAVING: Final = 10.0

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Process:
    """A process with all that it has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def cpu(self) -> float:
        """Seconds of CPU, user and system, of it and its children, those that have ended included."""
        return sum(map(_cpu, _tree(self.pid)))

    @property
    def memory(self) -> int:
        """Bytes in memory; what several processes share is divided among them (PSS)."""
        return sum(map(_memory, _tree(self.pid)))

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.returncode}")

    def kill(self) -> None:
        """SIGKILL, for it and its children: RQ's are in groups of their own."""
        if self._process.poll() is None:
            for pid in _tree(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def started(command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Iterator[Process]:
    """A process in a session of its own, which is gone in the end; its output is appended to `output.log`."""
    with (folder / "output.log").open("ab") as output:
        popen = subprocess.Popen(  # noqa: S603 # our own command lines
            command,
            cwd=folder,
            env={**_environ(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    process = Process(popen)
    try:
        yield process
    finally:
        process.kill()


def answer_of(command: Sequence[str], environ: Mapping[str, str], folder: Path, *, timeout: float) -> str:
    """What a program prints before it ends."""
    with (folder / "output.log").open("ab") as errors:
        done = subprocess.run(  # noqa: S603 # our own command lines
            command,
            cwd=folder,
            env={**_environ(), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            check=True,
            text=True,
            timeout=timeout,
        )
    return done.stdout


def wait_until(condition: object, seconds: float, *, what: str, process: Process | None = None) -> None:
    """Ask `condition()` every few milliseconds until it holds."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None:
            process.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)


def allow_many_files() -> int:
    """Raise this process' limit of open files, which its children inherit; the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _environ() -> dict[str, str]:
    foreign = ("DELTABUS_", "OPENAI_", "RQ_", "REDIS_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        # Its own by clock_getcpuclockid(3), to the nanosecond; of its children that have ended, there are ticks alone.
        return time.clock_gettime(~pid << 3 | 2) + sum(map(int, fields[13:15])) / _TICKS
    except OSError:
        return 0.0


def _memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
