r"""A scripted HTTP server on a real socket: any bytes, in any pieces, at the moment a test chooses.

It runs on a loop and a thread of its own, so tests with and without a loop use it alike::

    with ScriptedServer(Reply.sse({"choices": [...]})) as server:
        ...                               # a client talks to server.url
        server.received(1).wait()         # until the first request is there
        server.requests[0].json()         # what it asked
        server.requests[0].closed.wait()  # until its connection is closed

A reply is a list of steps. Nothing in it waits for time, only for a `Signal` that the test sets::

    go = Signal()
    Reply(body=[b"data: {...}\n\n", go, b"data: [DONE]\n\n"])   # the rest after go.set()
    Reply(body=[b"data: {...}\n\n", Action.HANG])                # silent until the client goes
    Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Len", Action.ABORT)    # a reset in the middle of the headers
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Self, cast

from deltabus.testing.door import shut
from deltabus.testing.script import PATIENCE, Action, Reply, Request, Signal, Step

__all__ = ["PATIENCE", "Action", "Reply", "Request", "ScriptedServer", "Signal", "Step"]

#: Connections that may wait to be accepted: tests open thousands at once.
_BACKLOG = 4096


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
        self._book = _Book(deque(replies), default)
        self._tls = tls
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="scripted-server", daemon=True)
        self._ready: Future[int] = Future()
        self._stopped = Signal()

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self._ready.result(PATIENCE)

    @property
    def requests(self) -> Sequence[Request]:
        """What was received, in order."""
        return self._book.requests

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self._book.connections

    def script(self, *replies: Reply) -> None:
        """Add replies for the next requests."""
        self._book.replies.extend(replies)

    def received(self, count: int) -> Signal:
        """Happens when `count` requests have been received in all."""
        return self._book.received(count)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive() and kind is None:
            raise RuntimeError(f"the scripted server has not ended after {PATIENCE:g} s")
        if self._book.failures and kind is None:
            raise ExceptionGroup("the scripted server failed", self._book.failures)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                lambda: _Connection(self._book), "127.0.0.1", 0, ssl=self._tls, backlog=_BACKLOG
            )
        except OSError as exc:
            self._ready.set_exception(exc)
            return
        self._ready.set_result(server.sockets[0].getsockname()[1])
        await self._stopped.happened()
        await shut(server)
        for connection in (left := list(self._book.open)):
            connection.abort()
        for connection in left:
            await connection.gone.wait()


class _Book:
    """What the server and its connections share."""

    def __init__(self, replies: deque[Reply], default: Reply | Callable[[Request], Reply] | None) -> None:
        self.replies = replies
        self.requests: list[Request] = []
        self.connections = 0
        self.open: set[_Connection] = set()
        self.failures: list[Exception] = []
        self._default = default
        self._lock = threading.Lock()
        self._received: dict[int, Signal] = {}

    def received(self, count: int) -> Signal:
        with self._lock:
            signal = self._received.setdefault(count, Signal())
            if len(self.requests) >= count:
                signal.set()
            return signal

    def answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            if signal := self._received.get(len(self.requests)):
                signal.set()
        if self.replies:
            return self.replies.popleft()
        if isinstance(self._default, Reply):
            return self._default
        if self._default is not None:
            return self._default(request)
        message = f"the test has scripted no reply to {request.method} {request.target}"
        return Reply.json({"error": {"message": message, "type": "unscripted", "code": None}}, 500)


class _Connection(asyncio.Protocol):
    """One client's connection: its requests are answered one after the other."""

    def __init__(self, book: _Book) -> None:
        self._book = book
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        #: Set when there is new input.
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = Signal()
        self._task: asyncio.Task[None] | None = None
        #: The connection is lost and its task has ended.
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._book.open.add(self)
        self._book.connections += 1
        self._number = self._book.connections
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
        self._book.open.discard(self)
        assert self._task is not None
        self._task.add_done_callback(lambda _: self.gone.set())
        self._task.cancel()

    def abort(self) -> None:
        """Close with a reset: what was sent and not yet received is lost."""
        assert self._transport is not None
        # A connection over TLS that is closing may have none any more.
        if (open_socket := self._transport.get_extra_info("socket")) is not None:
            with suppress(OSError):
                # On, for no time: closing sends RST.
                open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def _converse(self) -> None:
        try:
            while await self._reply(self._book.answer(await self._request())):
                pass
        except Exception as exc:  # noqa: BLE001  Whatever it is, the test is to see it.
            self._book.failures.append(exc)
        finally:
            assert self._transport is not None
            self._transport.close()

    async def _request(self) -> Request:
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
                await step.happened()
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
        if self._transport.is_closing():
            await asyncio.Event().wait()  # Ends when the connection is lost.
        self._transport.write(data)
        await asyncio.sleep(0)  # Let the loop send it, and see whether the client is still there.

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
