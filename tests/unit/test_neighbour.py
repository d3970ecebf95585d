"""Whether the worker that RQ's records tell of is a process of this host, and still the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from deltabus import neighbour
from deltabus.neighbour import died_here, home, lives_here


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def registered(pid: int, *, ago: float = 0.0, host: str | None = None) -> dict[bytes, bytes]:
    birth = datetime.fromtimestamp(time.time() - ago, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        b"pid": str(pid).encode(),
        b"hostname": (host or socket.gethostname()).encode(),
        b"birth": birth.encode(),
        b"deltabus_home": home().encode(),
    }


def test_a_process_that_has_registered_lives(process: subprocess.Popen[bytes]) -> None:
    assert lives_here(registered(process.pid))


def test_this_process_one_that_is_gone_and_one_of_another_host_do_not(process: subprocess.Popen[bytes]) -> None:
    assert not lives_here(registered(os.getpid()))
    assert not lives_here(registered(process.pid, host="elsewhere"))
    process.communicate(b"\n")
    assert not lives_here(registered(process.pid))
    assert not lives_here({})


@pytest.mark.skipif(sys.platform != "linux", reason="others do not tell when a process began")
def test_a_process_that_began_after_the_worker_registered_is_another_one(process: subprocess.Popen[bytes]) -> None:
    assert not lives_here(registered(process.pid, ago=60))


@pytest.mark.parametrize("birth", [b"", b"long ago"])
def test_a_worker_of_unknown_birth_is_believed_to_live(process: subprocess.Popen[bytes], birth: bytes) -> None:
    assert lives_here(registered(process.pid) | {b"birth": birth})


def test_where_the_system_does_not_tell_it_is_believed_too(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour, "_stat", lambda _: ("", None))
    assert lives_here(registered(process.pid, ago=60))


linux = pytest.mark.skipif(sys.platform != "linux", reason="others do not tell where a number means something")


@linux
def test_one_that_is_gone_is_certain_to_be_where_its_number_was_ours(process: subprocess.Popen[bytes]) -> None:
    worker = registered(process.pid)
    assert not died_here(worker)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # Its parent need not have heard of it yet.
    assert died_here(worker)
    process.wait()
    assert died_here(worker)


@linux
@pytest.mark.parametrize(
    "other", [{b"deltabus_home": b"another"}, {b"deltabus_home": b""}, {b"hostname": b"elsewhere"}]
)
def test_nothing_is_certain_of_another_host_or_container(
    process: subprocess.Popen[bytes], other: dict[bytes, bytes]
) -> None:
    process.communicate(b"\n")
    assert died_here(registered(process.pid))
    assert not died_here(registered(process.pid) | other)


@linux
def test_one_whose_number_is_ours_by_now_is_gone_and_we_are_not() -> None:
    assert died_here(registered(os.getpid(), ago=1e9))
    assert not died_here(registered(os.getpid()))


@pytest.mark.parametrize("pid", [b"", b"many", b"-1", b"0", b"9" * 30])
def test_a_number_that_is_none_says_nothing(pid: bytes) -> None:
    worker = registered(1) | {b"pid": pid}
    assert not lives_here(worker)
    assert died_here(worker) == (pid == b"9" * 30)
