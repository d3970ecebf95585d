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
from deltabus.neighbour import lives_here


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process


def registered(pid: int, *, ago: float = 0.0, host: str | None = None) -> dict[bytes, bytes]:
    birth = datetime.fromtimestamp(time.time() - ago, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {b"pid": str(pid).encode(), b"hostname": (host or socket.gethostname()).encode(), b"birth": birth.encode()}


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
    monkeypatch.setattr(neighbour, "_start", lambda _: None)
    assert lives_here(registered(process.pid, ago=60))
