"""What systemd hears of a worker: the real process, and a socket in systemd's place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import DELTABUS, PATIENCE, Background, environ, free_port

from deltabus.servicemanager import ServiceManager


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(PATIENCE)
        yield line


def test_a_worker_tells_when_it_is_ready_lives_and_stops(
    systemd: socket.socket, redis_url: str, tmp_path: Path
) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
    with Background([*DELTABUS, "worker"], folder=tmp_path, environ=environ(redis_url, **variables)) as worker:
        assert systemd.recv(4096) == b"READY=1\nSTATUS=works on chat, file"
        worker.wait_for("worker started")
        assert systemd.recv(4096) == b"WATCHDOG=1"
        assert systemd.recv(4096) == b"WATCHDOG=1"
        worker.process.terminate()
        while (state := systemd.recv(4096)) == b"WATCHDOG=1":
            pass
        assert state == b"STOPPING=1\nSTATUS=stopping"
        assert worker.end() == 0


def test_a_supervisor_says_that_it_is_there_and_its_processes_say_nothing(
    systemd: socket.socket, redis_url: str, tmp_path: Path
) -> None:
    words = [*DELTABUS, "worker", "--processes", "2"]
    with Background(
        words, folder=tmp_path, environ=environ(redis_url, NOTIFY_SOCKET=str(tmp_path / "notify"))
    ) as worker:
        assert systemd.recv(4096) == b"READY=1\nSTATUS=supervises 2 processes"
        worker.wait_for("worker started", 2)
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(4096)


@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["alone", "supervised"])
def test_a_start_that_waits_for_redis_is_given_more_time_again_and_again(
    systemd: socket.socket, tmp_path: Path, options: tuple[str, ...]
) -> None:
    where = f"redis://127.0.0.1:{free_port()}"
    words = [*DELTABUS, "worker", *options]
    variables = environ(where, NOTIFY_SOCKET=str(tmp_path / "notify"))
    with Background(words, folder=tmp_path, environ=variables):
        for _ in range(2):
            told = systemd.recv(4096).decode()
            assert told.startswith("EXTEND_TIMEOUT_USEC=120000000\nSTATUS=waits for Redis at redis://127.0.0.1:")


@pytest.mark.parametrize("variables", [{}, {"NOTIFY_SOCKET": "/nowhere/at/all"}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_where_nobody_listens_nothing_happens(variables: dict[str, str]) -> None:
    async def main() -> None:
        with ServiceManager({**variables, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).on_duty("x"):
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_socket_without_a_file_is_found() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind("")  # Linux chooses a name of its abstract namespace.
        line.settimeout(PATIENCE)
        ServiceManager({"NOTIFY_SOCKET": "@" + line.getsockname()[1:].decode()}).tell("READY=1")
        assert line.recv(4096) == b"READY=1"
