"""`/metrics`, `/healthz`, `/livez` and `/readyz` over HTTP, from a thread: it answers while the event loop hangs.

One answer a connection, some dozens of connections at once, the others wait for their turn. Where they would have to
wait for a client that neither asks nor reads, that one is cut off, so that a probe always gets through; one that is
being answered never is. There is no authentication: by default only this machine can reach it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Final, Self

import structlog
from redis import Redis
from redis.exceptions import RedisError

from deltabus.errors import ConfigError
from deltabus.monitoring.health import Health, Problem, judge, reasons
from deltabus.monitoring.metrics import queuesight
from deltabus.monitoring.metrics.exposition import Exposition
from deltabus.monitoring.roster import Roster

#: Connections at once.
CONNECTIONS: Final = 128

#: Connections that may wait to be accepted.
BACKLOG: Final = 1024

#: Seconds that a client may take to ask, and to read its answer, while others wait for its place.
HURRY: Final = 0.25

#: Seconds that a client may take for each step of its request.
PATIENCE: Final = 5.0

#: Seconds for which Redis' answer to one request serves the next ones.
PING_INTERVAL: Final = 1.0

log = structlog.get_logger("deltabus.status")


class StatusServer:
    """Serves while its block runs.

    Args:
        host, port: to listen on; port 0: any that is free.
        redis: a client that gives up soon.
        queues: those of which depth and age are shown.
        lease: see `health.judge`.

    Raises:
        ConfigError: it cannot listen there.
    """

    def __init__(
        self, host: str, port: int, roster: Roster, redis: Redis, *, queues: Sequence[str], lease: float
    ) -> None:
        self._roster = roster
        self._redis = redis
        self._lease = lease
        self._exposition = Exposition(roster, lambda: queuesight.look(redis, queues))
        self._pinged = threading.Lock()
        self._ping_at = 0.0
        self._problem: str | None = None
        try:
            self._server = _Server((host.strip("[]"), port), self)
        except (OSError, UnicodeError) as exc:  # the latter: what cannot be the name of a host
            why = exc.strerror if isinstance(exc, OSError) else "no address"
            raise ConfigError(
                f"metrics_port: cannot listen on {host}:{port}: {why}; choose another port or address, or none: "
                "--metrics-port 0"
            ) from exc
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="deltabus status", kwargs={"poll_interval": 0.2}, daemon=True
        )

    @property
    def port(self) -> int:
        """On which it listens."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        log.info("serving /metrics, /healthz, /livez and /readyz", host=self._server.server_address[0], port=self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._thread.join()
        self._redis.close()

    def answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, type and body of an answer."""
        pages: dict[str, Callable[[Health], Sequence[Problem]]] = {
            "/healthz": lambda health: health.well,
            "/livez": lambda health: health.live,
            "/readyz": lambda health: health.ready,
        }
        if path == "/metrics":
            body, media_type = self._exposition.render(self._judge(), accept)
            return 200, media_type, body
        if path not in pages:
            return _json(404, {"error": f"there are /metrics, {', '.join(pages)}"})
        health = self._judge()
        problems = pages[path](health)
        shown = {
            "status": "failing" if problems else "ok",
            "problems": reasons(problems),
            "processes": [vital.shown() for vital in health.processes],
        }
        return _json(503 if problems else 200, shown)

    def _judge(self) -> Health:
        return judge(self._roster, lease=self._lease, redis=self._ping())

    def _ping(self) -> str | None:
        """What is wrong with Redis."""
        with self._pinged:
            now = time.monotonic()
            if now >= self._ping_at:
                try:
                    self._redis.ping()
                    self._problem = None
                except (RedisError, OSError) as exc:
                    self._problem = f"Redis does not answer: {str(exc) or type(exc).__name__}"
                self._ping_at = time.monotonic() + PING_INTERVAL
            return self._problem


def _json(status: int, document: dict[str, Any]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps(document).encode() + b"\n"


class _Server(ThreadingHTTPServer):
    """The standard library's, within bounds."""

    daemon_threads = True
    block_on_close = False
    # Whoever does not fit in there tries again a second later, and a probe is not that patient.
    request_queue_size = BACKLOG

    def __init__(self, where: tuple[str, int], status: StatusServer) -> None:
        self.status = status
        self._closing = False
        #: Open connections, and since when it is for the client to do something; None: it is for us.
        self._open: dict[socket.socket, float | None] = {}
        #: Those of them whose request has come.
        self._asked: set[socket.socket] = set()
        self._changed = threading.Condition()
        found = socket.getaddrinfo(*where, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # Of a name that has both, IPv4: what everybody tries.
        self.address_family, *_, (host, *_) = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        super().__init__((str(host), where[1]), _Handler)
        #: An open file that is given up for a connection where the process has no other left.
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)

    def server_bind(self) -> None:
        # The HTTP server's own asks the DNS for a name that nobody needs, and may wait for it.
        TCPServer.server_bind(self)

    def get_request(self) -> Any:
        """Accept a connection, also in a process that has no file left: that is when its health is asked for."""
        try:
            return super().get_request()
        except OSError as exc:
            if exc.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            with self._changed:
                spare, self._spare = self._spare, None
                if spare is None:
                    # Whoever waits to be accepted would be met again at once, and for ever.
                    self._changed.wait(HURRY)
                    raise
        os.close(spare)
        return super().get_request()

    def close(self) -> None:
        """Answer nobody any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.shutdown()
        self.server_close()
        if self._spare is not None:
            os.close(self._spare)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            while len(self._open) >= CONNECTIONS and not self._closing:
                idle = [(since, connection) for connection, since in self._open.items() if since is not None]
                since, slowest = min(idle, key=lambda entry: entry[0], default=(None, None))
                rest = HURRY if since is None else since + HURRY - time.monotonic()
                if slowest is not None and rest <= 0:
                    _cut(slowest, asked=slowest in self._asked)
                    self._forget(slowest)
                else:
                    self._changed.wait(rest)
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def turn(self, request: socket.socket, *, ours: bool) -> None:
        """Say whose turn it is on a connection."""
        with self._changed:
            if request in self._open:  # else it was cut
                self._open[request] = None if ours else time.monotonic()
                self._asked.add(request)
                self._changed.notify_all()

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._forget(request)
        super().shutdown_request(request)
        with self._changed:
            if self._spare is None and not self._closing:
                with contextlib.suppress(OSError):
                    self._spare = os.open(os.devnull, os.O_RDONLY)
            self._changed.notify_all()

    def _forget(self, request: socket.socket) -> None:
        self._open.pop(request, None)
        self._asked.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what is our fault: the base class prints, and whatever a client does."""
        if (error := sys.exception()) is not None and not isinstance(error, OSError):
            log.error("a request for the status could not be answered", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.0: the connection ends with the answer."""

    server: _Server
    timeout = PATIENCE
    server_version = "deltabus"
    sys_version = ""

    def do_GET(self) -> None:
        self.server.turn(self.connection, ours=True)
        status, media_type, body = self.server.status.answer(
            self.path.partition("?")[0], self.headers.get("Accept", "")
        )
        self.server.turn(self.connection, ours=False)
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 # the base class looks for it by this name

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for each probe is of no use to anybody."""


def _cut(connection: socket.socket, *, asked: bool) -> None:
    """End what is waited for: a request, or that an answer is read.

    Whoever has sent a request is answered all the same, should this process only not have come to read it yet.
    """
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR if asked else socket.SHUT_RD)
