"""The supervisor: what dies is replaced, signals are passed on, nothing outlives it.

Its processes here connect to a socket of the test and say who they are; that is what the tests wait for.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest
from forkserver import Forked
from processes import PATIENCE, Background, environ

from deltabus import supervisor as supervisors
from deltabus.supervisor import MAX_BACKOFF, Supervisor

#: Seconds after which a test that waits has failed.
DEADLINE = PATIENCE

CHILD = """
import os, signal, socket, sys

signals = 0
# Waited for as bytes: between a look for signals and a wait for one, one may come.
woken, wakes = socket.socketpair()
wakes.setblocking(False)
signal.set_wakeup_fd(wakes.fileno())

def count(number, frame):
    global signals
    signals += 1
    test.sendall(b"signal\\n")
    if signals >= NEEDED:
        sys.exit(CODE)

NEEDED, CODE = int(sys.argv[2]), int(sys.argv[3])
test = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
if NEEDED == 0:
    test.sendall(b"%d\\n" % os.getpid())
    sys.exit(CODE)
signal.signal(signal.SIGTERM, count)
from deltabus.supervisor import stop_with_supervisor
stop_with_supervisor()
test.sendall(b"%d\\n" % os.getpid())
while True:
    woken.recv(100)
"""

SUPERVISOR = """
import sys
from deltabus import supervisor
count, burst = int(sys.argv[1]), sys.argv[2] == "burst"
supervisor.GRACE = float(sys.argv[3])
supervisor.BACKOFF = 0.01
supervisor.STABLE = 600.0  # a busy machine may take long to start what dies at once
supervisor.ECHO = float(sys.argv[4])
sys.exit(supervisor.Supervisor([sys.executable, *sys.argv[5:]], count, burst=burst, drain_timeout=0.0).run())
"""


class Child(NamedTuple):
    """A supervised process: its pid, and what it says."""

    pid: int
    words: BinaryIO

    def hears_a_signal(self) -> bool:
        return self.words.readline() == b"signal\n"

    def is_gone(self) -> bool:
        """The end of its connection is the end of the process."""
        self.words.read()
        return True


class Stage:
    """A supervisor in a process of its own, and the socket its processes connect to."""

    def __init__(self, folder: Path) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.listener.settimeout(DEADLINE)
        self.child = folder / "child.py"
        self.child.write_text(CHILD)
        self.open: list[BinaryIO | socket.socket] = []
        self.process: Background | None = None

    def start(
        self,
        count: int,
        *,
        signals: int = 1,
        code: int = 0,
        burst: bool = False,
        grace: float = DEADLINE,
        echo: float = 0.0,
    ) -> Forked | subprocess.Popen[bytes]:
        port = self.listener.getsockname()[1]
        options = [str(count), "burst" if burst else "", str(grace), str(echo)]
        child = [str(self.child), str(port), str(signals), str(code)]
        self.process = Background([sys.executable, "-c", SUPERVISOR, *options, *child], environ=environ())
        return self.process.process

    def next_child(self) -> Child:
        connection, _ = self.listener.accept()
        connection.settimeout(DEADLINE)
        words = connection.makefile("rb")
        self.open += [words, connection]
        return Child(int(words.readline()), words)

    def close(self) -> None:
        for thing in (*self.open, self.listener):
            thing.close()
        if self.process is not None:
            self.process.process.kill()
            self.process.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_a_killed_process_is_replaced_and_the_others_are_left_alone(stage: Stage) -> None:
    supervisor = stage.start(2)
    first, second = stage.next_child(), stage.next_child()
    os.kill(first.pid, signal.SIGKILL)
    third = stage.next_child()
    assert third.pid not in {first.pid, second.pid}
    os.kill(second.pid, 0)
    supervisor.terminate()
    assert second.hears_a_signal()
    assert third.hears_a_signal()
    assert supervisor.wait(DEADLINE) == 0


def test_what_keeps_dying_is_restarted_again_and_again(stage: Stage) -> None:
    stage.start(1, signals=0, code=3)
    pids = {stage.next_child().pid for _ in range(4)}
    assert len(pids) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_lets_processes_finish_and_the_second_reaches_them_too(stage: Stage, number: int) -> None:
    supervisor = stage.start(2, signals=2)
    children = [stage.next_child(), stage.next_child()]
    supervisor.send_signal(number)
    assert all(child.hears_a_signal() for child in children)
    assert supervisor.poll() is None
    supervisor.send_signal(number)
    assert all(child.is_gone() for child in children)
    assert supervisor.wait(DEADLINE) == 0


def test_a_signal_that_comes_twice_at_once_is_one(stage: Stage) -> None:
    supervisor = stage.start(1, signals=3, echo=DEADLINE)
    child = stage.next_child()
    supervisor.terminate()
    assert child.hears_a_signal()
    supervisor.terminate()
    supervisor.send_signal(signal.SIGINT)
    for _ in range(2):
        os.kill(child.pid, signal.SIGTERM)
        assert child.hears_a_signal()
    assert supervisor.wait(DEADLINE) == 0  # a third one would have killed


def test_a_time_to_drain_may_be_as_long_as_anybody_likes() -> None:
    run = "sys.exit(Supervisor(sys.argv[1:], 1, drain_timeout=1e300).run())"
    code = f"import sys; from deltabus.supervisor import Supervisor; {run}"
    wait = (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print('ready', flush=True); signal.sigwait([15]); os._exit(4)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-c", f"import os, signal; {wait}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as supervisor:
        assert supervisor.stdout is not None
        while b"ready" not in supervisor.stdout.readline():
            assert supervisor.poll() is None
        supervisor.terminate()
        assert supervisor.wait(DEADLINE) == 4


def test_a_process_that_ignores_signals_is_killed_when_its_time_is_up(stage: Stage) -> None:
    supervisor = stage.start(1, signals=100, grace=0.1)
    child = stage.next_child()
    supervisor.terminate()
    assert child.is_gone()
    assert supervisor.wait(DEADLINE) == 128 + signal.SIGKILL


def test_the_exit_code_is_the_worst_of_the_processes(stage: Stage) -> None:
    supervisor = stage.start(2, code=7)
    children = [stage.next_child(), stage.next_child()]
    supervisor.terminate()
    assert all(child.is_gone() for child in children)
    assert supervisor.wait(DEADLINE) == 7


def test_a_burst_ends_when_its_processes_have_finished(stage: Stage) -> None:
    supervisor = stage.start(3, signals=0, burst=True)
    assert supervisor.wait(DEADLINE) == 0


def test_a_burst_that_only_crashes_is_given_up(stage: Stage) -> None:
    supervisor = stage.start(1, signals=0, code=9, burst=True)
    assert supervisor.wait(DEADLINE) == 9


def test_a_process_killed_in_a_burst_is_replaced(stage: Stage) -> None:
    supervisor = stage.start(1, burst=True)
    os.kill(stage.next_child().pid, signal.SIGKILL)
    os.kill(stage.next_child().pid, signal.SIGTERM)
    assert supervisor.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_processes_stop_with_a_supervisor_that_had_no_chance_to_tell_them(stage: Stage, number: int) -> None:
    supervisor = stage.start(3)
    children = [stage.next_child() for _ in range(3)]
    supervisor.send_signal(number)
    assert all(child.hears_a_signal() for child in children)
    assert all(child.is_gone() for child in children)


def test_ctrl_c_on_a_terminal_reaches_processes_only_once(stage: Stage) -> None:
    supervisor = stage.start(1)
    child = stage.next_child()
    assert os.getpgid(child.pid) == child.pid != os.getpgid(supervisor.pid)


def test_a_crash_loop_of_days_goes_on_at_the_longest_wait() -> None:
    assert supervisors._delay(10_000) == MAX_BACKOFF


def test_a_system_without_room_for_another_process_ends_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    popen, tries = subprocess.Popen, []

    def fork(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        tries.append(args)
        if len(tries) == 2:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return popen(*args, **options)

    monkeypatch.setattr(supervisors.subprocess, "Popen", fork)
    assert Supervisor([sys.executable, "-c", ""], 2, burst=True).run() == 0
    assert len(tries) == 3


def test_a_command_that_cannot_start_ends_the_supervisor_and_what_it_had_started(tmp_path: Path) -> None:
    code = "from deltabus.supervisor import Supervisor; Supervisor(['/nonexistent/program'], 1).run()"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "FileNotFoundError" in answer.stderr
