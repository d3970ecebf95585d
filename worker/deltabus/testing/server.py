"""A scripted HTTP server on a real socket: any bytes, in any pieces, at the moment a test chooses.

It runs on a loop and a thread of its own, so tests with and without a loop use it alike::

    with ScriptedServer(Reply.sse({"choices": [...]})) as server:
        ...                               # a client talks to server.url
        server.received(1).wait()         # until the first request is there
        server.requests[0].json()         # what it asked
        server.requests[0].closed.wait()  # until its connection is closed

A reply is a list of steps. Nothing in it waits for time, only for a `Signal` that the test sets::

    go = Signal()
    Reply(body=[b"data: {...}\\n\\n", go, b"data: [DONE]\\n\\n"])   # the rest after go.set()
    Reply(body=[b"data: {...}\\n\\n", Action.HANG])                # silent until the client goes
    Reply.raw(b"HTTP/1.1 200 OK\\r\\nContent-Len", Action.ABORT)    # a reset in the middle of the headers
"""

from __future__ import annotations

import asyncio
import enum
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

#: Seconds after which what should happen counts as not happening.
PATIENCE = 10.0


class Signal:
    """Something that happens once. It can be set and awaited from any thread and any loop."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def __repr__(self) -> str:
        return f"<Signal {'set' if self.is_set else 'not set'}>"

    @property
    def is_set(self) -> bool:
        return self._future.done()

    def set(self) -> None:
        """Let it happen; setting it again changes nothing."""
        with suppress(InvalidStateError):
            self._future.set_result(None)

    def wait(self, timeout: float = PATIENCE) -> None:
        """Block until it has happened.

        Raises:
            TimeoutError: it has not after `timeout` seconds.
        """
        self._future.result(timeout)

    async def happened(self, timeout: float = PATIENCE) -> None:
        """The same for coroutines."""
        async with asyncio.timeout(timeout):
            # Shielded: a waiter that gives up must not cancel it for the others.
            await asyncio.shield(asyncio.wrap_future(self._future))


class Action(enum.Enum):
    """A step that sends nothing."""

    #: Wait until the client has closed the connection.
    HANG = enum.auto()
    #: Close the connection in the ordinary way (FIN), without finishing the body.
    CLOSE = enum.auto()
    #: Reset the connection (RST).
    ABORT = enum.auto()


Step = bytes | Signal | Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server answers to one request.

    Each piece of the body is one write. `framing` says how the client learns where the body ends: `chunked`
    (each piece is an HTTP chunk), `length` (Content-Length, unless `headers` has one, which may lie), `close`
    (the end of the connection), or `raw`: the pieces are all there is, the status line included.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Sequence[Step] = ()
    framing: Literal["chunked", "length", "close", "raw"] = "chunked"

    @classmethod
    def json(cls, document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
        """A document, as most servers send one."""
        return cls(
            status=status,
            headers={"Content-Type": "application/json", **(headers or {})},
            body=[json.dumps(document).encode()],
            framing="length",
        )

    @classmethod
    def sse(cls, *events: Any, done: bool = True, headers: Mapping[str, str] | None = None) -> Reply:
        """A stream of server-sent events: an object is the data of one, bytes and other steps stay as they are.

        Args:
            events: objects, bytes, signals, actions.
            done: end with `data: [DONE]`.
            headers: further headers.
        """
        steps: list[Step] = [
            event if isinstance(event, bytes | Signal | Action) else f"data: {json.dumps(event)}\n\n".encode()
            for event in events
        ]
        if done:
            steps.append(b"data: [DONE]\n\n")
        return cls(headers={"Content-Type": "text/event-stream", **(headers or {})}, body=steps)

    @classmethod
    def raw(cls, *steps: Step) -> Reply:
        """These bytes and no others; then the connection is closed."""
        return cls(body=steps, framing="raw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the server has received."""

    method: str
    #: As it stood in the request line.
    target: str
    #: Names in lower case.
    headers: Mapping[str, str]
    body: bytes
    #: Number of the connection that it came on, from 1.
    connection: int
    #: Happens when the connection is gone, whoever closed it.
    closed: Signal

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class ScriptedServer:
    """The server; a context manager.

    Args:
        replies: for the requests in the order in which they come.
        default: for those after them: a reply, or a function of the request (called on the server's
            thread). Without it they get a 500 that says so.
        tls: serve https with this context.
    """

    def __init__(
        self,
        *replies: Reply,
        default: Reply | Callable[[Request], Reply] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._replies = deque(replies)
        self._default = default
        self._tls = tls
        self._lock = threading.Lock()
        self._received: dict[int, Signal] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="scripted-server", daemon=True)
        self._ready: Future[int] = Future()
        self._stop: asyncio.Event | None = None
        self._connections: set[_Connection] = set()
        self._failures: list[Exception] = []
        #: Connections accepted so far.
        self.connections = 0
        #: What was received, in order.
        self.requests: list[Request] = []

    @property
    def port(self) -> int:
        return self._ready.result(PATIENCE)

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def script(self, *replies: Reply) -> None:
        """Add replies for the next requests."""
        self._replies.extend(replies)

    def received(self, count: int) -> Signal:
        """Happens when `count` requests have been received in all."""
        with self._lock:
            signal = self._received.setdefault(count, Signal())
            if len(self.requests) >= count:
                signal.set()
            return signal

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        if self._failures and kind is None:
            raise ExceptionGroup("the scripted server failed", self._failures)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        try:
            server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, ssl=self._tls)
        except OSError as exc:
            self._ready.set_exception(exc)
            return
        self._ready.set_result(server.sockets[0].getsockname()[1])
        try:
            await self._stop.wait()
        finally:
            server.close()
            open_connections = list(self._connections)
            for connection in open_connections:
                connection.abort()
            for connection in open_connections:
                await connection.gone.wait()

    def _answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            if signal := self._received.get(len(self.requests)):
                signal.set()
        if self._replies:
            return self._replies.popleft()
        if isinstance(self._default, Reply):
            return self._default
        if self._default is not None:
            return self._default(request)
        message = f"the test has scripted no reply to {request.method} {request.target}"
        return Reply.json({"error": {"message": message, "type": "unscripted", "code": None}}, 500)


class _Connection(asyncio.Protocol):
    """One client's connection: its requests are answered one after the other."""

    def __init__(self, server: ScriptedServer) -> None:
        self._server = server
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        #: Set when there is new input, or none will come.
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = Signal()
        self._task: asyncio.Task[None] | None = None
        #: The connection is lost and its task has ended.
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server._connections.add(self)  # noqa: SLF001  The other half of the server.
        self._server.connections += 1
        self._number = self._server.connections
        self._task = asyncio.get_running_loop().create_task(self._converse())

    def data_received(self, data: bytes) -> None:
        self._input += data
        self._news.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        self._server._connections.discard(self)  # noqa: SLF001  As above.
        assert self._task is not None
        self._task.add_done_callback(lambda _: self.gone.set())
        self._task.cancel()

    def abort(self) -> None:
        """Close with a reset: what was sent and not yet received is lost."""
        assert self._transport is not None
        if isinstance(sock := self._transport.get_extra_info("socket"), socket.socket) or sock is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def _converse(self) -> None:
        try:
            while (request := await self._request()) is not None:
                if not await self._reply(self._server._answer(request)):  # noqa: SLF001  As above.
                    break
        except Exception as exc:  # noqa: BLE001  Whatever it is, the test is to see it.
            self._server._failures.append(exc)  # noqa: SLF001  As above.
        finally:
            if self._transport is not None:
                self._transport.close()

    async def _request(self) -> Request | None:
        """The next request."""
        head = await self._until(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers: dict[str, str] = {}
        for text in lines:
            name, _, value = text.partition(":")
            name, value = name.strip().lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await self._chunks()
        else:
            body = await self._exactly(int(headers.get("content-length", "0")))
        return Request(
            method=method,
            target=target,
            headers=headers,
            body=body,
            connection=self._number,
            closed=self._closed,
        )

    async def _reply(self, reply: Reply) -> bool:
        """Answer. Returns whether the connection can take another request."""
        if reply.framing != "raw":
            await self._send(_head(reply))
        for step in reply.body:
            if isinstance(step, bytes):
                if reply.framing == "chunked":
                    step = b"%x\r\n%b\r\n" % (len(step), step) if step else b""  # noqa: PLW2901  The step, framed.
                await self._send(step)
            elif isinstance(step, Signal):
                await asyncio.shield(asyncio.wrap_future(step._future))  # noqa: SLF001  Without its deadline.
            elif step is Action.HANG:
                await asyncio.Event().wait()  # Ends when the connection is lost.
            elif step is Action.ABORT:
                self.abort()
                return False
            else:
                return False
        if reply.framing == "chunked":
            await self._send(b"0\r\n\r\n")
        return reply.framing in ("chunked", "length") and reply.headers.get("Connection", "").lower() != "close"

    async def _send(self, data: bytes) -> None:
        assert self._transport is not None
        await self._writable.wait()
        self._transport.write(data)

    async def _until(self, end: bytes) -> bytes:
        while (place := self._input.find(end)) < 0:
            self._news.clear()
            await self._news.wait()
        found = bytes(self._input[:place])
        del self._input[: place + len(end)]
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._input) < size:
            self._news.clear()
            await self._news.wait()
        found = bytes(self._input[:size])
        del self._input[:size]
        return found

    async def _chunks(self) -> bytes:
        body = b""
        while size := int((await self._until(b"\r\n")).partition(b";")[0], 16):
            body += await self._exactly(size)
            await self._until(b"\r\n")
        await self._until(b"\r\n")
        return body


def _head(reply: Reply) -> bytes:
    headers = dict(reply.headers)
    names = {name.lower() for name in headers}
    if reply.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    elif reply.framing == "close":
        headers["Connection"] = "close"
    elif "content-length" not in names:
        headers["Content-Length"] = str(sum(len(step) for step in _pieces(reply.body)))
    reason = HTTPStatus(reply.status).phrase if reply.status in set(HTTPStatus) else "Unknown"
    lines = [f"HTTP/1.1 {reply.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _pieces(body: Iterable[Step]) -> list[bytes]:
    return [step for step in body if isinstance(step, bytes)]
