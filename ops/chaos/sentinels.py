"""A master with two replicas and the three Sentinels that watch them: real processes, on ports of their own.

Replication is asynchronous: what a master has answered for and no replica has heard of yet is lost with it, and
neither `min-replicas-to-write` nor `WAIT` is a promise that it is not (they narrow it down). So that a run can ask that
nothing at all is lost, a master is struck with writes paused and its replicas level with it: what was answered for is
there, what was not is sent again. It is what an operator does before a planned failover, and a crash in a lucky moment.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import deltabus.guard
from deltabus.embedded import PORTS, EmbeddedRedis, find_server

#: By which the Sentinels know the master.
SERVICE: Final = "mymaster"

#: Milliseconds without an answer after which a Sentinel holds a master to be down, and for which a failover may last;
#: twice as long lie between two of them. On a busy machine, less than this deposes masters that are up and not level.
DOWN_AFTER: Final = 2000
FAILOVER_TIMEOUT: Final = 2000

#: Seconds that anything may take that is waited for, and between two looks.
PATIENCE: Final = 120.0
LOOK: Final = 0.02

#: Milliseconds for which writes are paused at the most.
PAUSE: Final = 30_000


class Sentinel:
    """One Sentinel; it ends with this process."""

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        #: Its identity, given to it so that its peers know it from the start: they find each other in seconds.
        self.id = secrets.token_hex(20)
        self._folder = folder / f"sentinel-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, master: int, replicas: Sequence[int], peers: Sequence[Sentinel], options: Sequence[str]) -> None:
        """Start it, watching a master on a port of the loopback interface."""
        self._folder.mkdir()
        lines = [
            *("bind 127.0.0.1", f"port {self.port}", f"dir {self._folder}", f"sentinel myid {self.id}"),
            f"sentinel monitor {SERVICE} 127.0.0.1 {master} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT}",
            *(f"sentinel known-replica {SERVICE} 127.0.0.1 {port}" for port in replicas),
            *(f"sentinel known-sentinel {SERVICE} 127.0.0.1 {peer.port} {peer.id}" for peer in peers),
            *options,
        ]
        config = self._folder / "sentinel.conf"
        config.write_text("\n".join([*lines, ""]), encoding="utf-8")
        guard = [sys.executable, "-I", "-S", deltabus.guard.__file__, str(os.getpid()), ""]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 # our own interpreter, no shell
                [*guard, str(find_server()), str(config), "--sentinel"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()

    def client(self) -> redis.Redis:
        """A client for its own commands."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0))


class SentinelSet:
    """The six processes; a context manager.

    Args:
        folder: gets the Sentinels' configuration.
        args: further arguments of the servers.
        options: further lines for the Sentinels' configuration.
    """

    def __init__(self, folder: Path, args: Sequence[str] = (), options: Sequence[str] = ()) -> None:
        self._args = (*args, "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self._options = options
        self._stack = contextlib.ExitStack()
        self.servers: list[EmbeddedRedis] = []
        self.sentinels = [Sentinel(folder) for _ in range(3)]

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                self.servers.append(stack.enter_context(EmbeddedRedis(args=self._args)))
            master, *replicas = ports = [_port(server) for server in self.servers]
            for server in self.servers[1:]:
                self._follow(server, master)
            for sentinel in self.sentinels:
                peers = [peer for peer in self.sentinels if peer is not sentinel]
                stack.callback(sentinel.stop)
                sentinel.start(master, replicas, peers, self._options)
            self._stack = stack.pop_all()
        for port in ports[1:]:
            self._until(lambda port=port: self._linked(port), "a replica does not come up")
        self._until(lambda: self.master is not None, "no Sentinel answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """By which clients find the master."""
        nodes = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{nodes}/{SERVICE}/0"

    @property
    def master(self) -> EmbeddedRedis | None:
        """The server that all Sentinels call the master; None: they do not agree, as while one moves."""
        told: list[int] = []
        for sentinel in self.sentinels:
            with sentinel.client() as client, contextlib.suppress(redis.RedisError):
                # The other way to ask names the new one while the failover is still under way.
                told.append(int(client.sentinel_masters()[SERVICE]["port"]))
        for server in self.servers:
            if told.count(_port(server)) == len(self.sentinels):
                return server
        return None

    def fail_over(self) -> None:
        """As an operator does it: pause, let the replicas come level, hand over. The old master stays as a replica."""
        old = self._level()
        with self.sentinels[0].client() as client:
            self._until(lambda: _accepts(client), "Sentinel does not fail over")
        self._moved(old)
        assert self.master is not None
        # As a Sentinel does it, whose own commands wait for the end of the pause: it publishes, too. If the pause ended
        # before, the old master would take what nobody else will ever hear of.
        self._follow(old, _port(self.master))
        with redis.Redis.from_url(old.url, socket_timeout=PATIENCE) as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
            client.client_unpause()

    def crash(self) -> None:
        """Kill the master, with its replicas level, and bring it back when there is another, as a replica of that."""
        old = self._level()
        old.kill()
        self._moved(old)
        old.start()
        assert self.master is not None
        self._follow(old, _port(self.master))

    def _level(self) -> EmbeddedRedis:
        """Pause writes until all replicas have what was written; the master."""
        self._until(lambda: self.master is not None, "the Sentinels do not agree on a master")
        old = self.master
        assert old is not None
        with redis.Redis.from_url(old.url, socket_timeout=PATIENCE) as client:
            self._until(lambda: client.info("replication")["connected_slaves"] == len(self.servers) - 1, "no replicas")
            client.client_pause(PAUSE, all=False)
            self._until(lambda: _is_level(client), "the replicas do not come level")
        return old

    def _moved(self, old: EmbeddedRedis) -> None:
        """Wait until there is another master."""
        self._until(lambda: self.master not in (None, old), "there is no new master")
        new = self.master
        assert new is not None
        with redis.Redis.from_url(new.url) as client:
            self._until(lambda: client.info("replication")["role"] == "master", "the new master is none")

    def _follow(self, server: EmbeddedRedis, master: int) -> None:
        with redis.Redis.from_url(server.url) as client:
            client.replicaof("127.0.0.1", str(master))

    def _linked(self, port: int) -> bool:
        with redis.Redis(port=port) as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def _until(self, holds: object, otherwise: str) -> None:
        assert callable(holds)
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(otherwise)
            time.sleep(LOOK)


def _free_port() -> int:
    """A port on which nobody listens."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _port(server: EmbeddedRedis) -> int:
    port = urlsplit(server.url).port
    assert port is not None
    return port


def _is_level(client: redis.Redis) -> bool:
    """Whether the replicas have all that the master has written."""
    info = client.info("replication")
    return all(
        replica["offset"] == info["master_repl_offset"] for key, replica in info.items() if _is_replica(key, replica)
    )


def _is_replica(key: str, value: object) -> bool:
    return key.startswith("slave") and isinstance(value, dict)


def _accepts(sentinel: redis.Redis) -> bool:
    """Tell a Sentinel to fail over. False: it cannot yet, as it knows of no good replica or has just done so."""
    try:
        sentinel.sentinel_failover(SERVICE)
    except redis.ResponseError:
        return False
    return True
