"""An OpenAI-compatible server on a real socket, with a loop and a thread of its own.

In a test::

with ApiServer(api_key="key-0123456789") as server:
    ...                                   # a provider talks to server.url
    [file] = server.files                 # what it keeps
    file.sha256, file.data, file.media_type
    server.requests[0].body["purpose"]    # what it was asked
    assert server.left == []              # nothing is left at the provider

with ApiServer(LOCALAI) as server: ...    # another server's ways

server.fault(Fault.cut(after=100_000), on="POST /files")      # the next upload is cut off
server.fault(Fault.rate_limit(2), on="POST /files", times=2)  # so many in a row
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import uvloop
from aiohttp import web

from deltabus.testing.api.chat import ChatApi
from deltabus.testing.api.dialect import OPENAI, Dialect, refusal
from deltabus.testing.api.fault import Arming, Fault
from deltabus.testing.api.files import FileApi
from deltabus.testing.api.media import MediaApi
from deltabus.testing.api.record import CURRENT, Received
from deltabus.testing.api.store import Store, StoredFile
from deltabus.testing.door import settle
from deltabus.testing.script import PATIENCE, Signal

#: Seconds that a request which is under way when the server ends has left. Not 0, which aiohttp takes for no limit.
_GOODBYE = 0.01

#: Connections that may wait to be accepted: tests open thousands at once.
_BACKLOG = 4096
_MIB = 1024 * 1024

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiServer:
    """The server; a context manager.

    Args:
        dialect: how it differs from OpenAI's.
        api_key: what it wants as a bearer; None, it asks for none.
        models: what it lists.
        port: to listen on; 0, one that is free.
        max_file_bytes: largest file that `POST /files` takes.
        max_part_bytes: largest part of an upload.
    """

    def __init__(
        self,
        dialect: Dialect = OPENAI,
        *,
        api_key: str | None = None,
        models: Sequence[str] = ("gpt-4o-mini", "text-embedding-3-small", "tts-1", "whisper-1"),
        port: int = 0,
        max_file_bytes: int = 512 * _MIB,
        max_part_bytes: int = 64 * _MIB,
    ) -> None:
        self._dialect = dialect
        self._api_key = api_key
        self._port = port
        self._store = Store()
        self._limits = {"max_file_bytes": max_file_bytes, "max_part_bytes": max_part_bytes}
        self._models = models
        self._book = _Book()
        self._thread = threading.Thread(target=self._run, name="api-server", daemon=True)
        self._ready: Future[int] = Future()
        self._stopped = Signal()

    @property
    def url(self) -> str:
        """The base URL, which ends in `/v1`."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def port(self) -> int:
        return self._ready.result(PATIENCE)

    @property
    def files(self) -> list[StoredFile]:
        """What it keeps, the oldest first."""
        with self._store.lock:
            return list(self._store.files.values())

    @property
    def left(self) -> list[str]:
        """Ids of the files that it keeps, and of the uploads that were neither completed nor cancelled."""
        with self._store.lock:
            pending = [upload.id for upload in self._store.uploads.values() if upload.status == "pending"]
            return [*self._store.files, *pending]

    @property
    def requests(self) -> Sequence[Received]:
        """What it was asked, in order."""
        return self._book.requests

    def operations(self) -> list[str]:
        """What it was asked, in order, such as `POST /files`."""
        return [request.operation for request in list(self._book.requests)]

    def put(
        self, data: bytes, filename: str = "file.bin", purpose: str = "user_data", media_type: str | None = None
    ) -> StoredFile:
        """Have a file without an upload."""
        with self._store.spool() as spool:
            spool.write(data)
        return self._store.keep(spool, filename=filename, purpose=purpose, media_type=media_type)

    def fault(self, fault: Fault, *, on: str, times: int | None = 1, skip: int = 0) -> None:
        """Let requests go wrong.

        Args:
            fault: how.
            on: method and path, without `/v1`, `*` for anything: `POST /files`, `GET /files/*`, `* /uploads*`.
            times: how many of them; None: all.
            skip: how many of them go well first.
        """
        pattern = re.compile(".*".join(map(re.escape, on.split("*"))))
        self._book.armed.append(Arming(fault, pattern, times, skip))

    def mend(self) -> None:
        """Let nothing go wrong any more."""
        self._book.armed.clear()

    def received(self, count: int, on: str = "*") -> Signal:
        """Happens when `count` requests (`on` as in `fault`) have been received in all: their heads, perhaps not
        all of their bodies.
        """
        return self._book.received(count, re.compile(".*".join(map(re.escape, on.split("*")))))

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)
        self._store.close()
        if self._thread.is_alive() and kind is None:
            raise RuntimeError(f"the API server has not ended after {PATIENCE:g} s")
        if self._book.failures and kind is None:
            raise ExceptionGroup("the API server failed", self._book.failures)

    def _run(self) -> None:
        # uvloop, because asyncio's own loop leaks a socket that was reset before it was accepted.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        api = web.Application(middlewares=[self._deal], client_max_size=1 << 40)
        for part in (
            FileApi(self._store, self._dialect, **self._limits),
            ChatApi(self._store, self._dialect),
            MediaApi(self._store, self._dialect, self._models),
        ):
            # With and without a version, as servers are.
            for route in part.routes():
                api.router.add_route(route.method, f"/v1{route.path}", route.handler)
                api.router.add_route(route.method, route.path, route.handler)
        runner = web.AppRunner(api, handler_cancellation=True, access_log=None, shutdown_timeout=_GOODBYE)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, backlog=_BACKLOG)
        try:
            await site.start()
        except OSError as exc:
            self._ready.set_exception(exc)
            await runner.cleanup()
            return
        self._ready.set_result(runner.addresses[0][1])
        await self._stopped.happened()
        await site.stop()
        # What has just been accepted becomes a connection, and what is closed is gone, a turn or two of the loop later.
        await settle()
        await runner.cleanup()
        await settle()

    @web.middleware
    async def _deal(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """What is done with every request."""
        received = Received(
            method=request.method,
            path=request.path.removeprefix("/v1"),
            query=dict(request.query),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        CURRENT.set(received)
        fault = received.fault = self._book.note(received)
        try:
            if self._api_key is not None and received.headers.get("authorization") != f"Bearer {self._api_key}":
                return refusal(401, "Incorrect API key provided", code="invalid_api_key")
            if fault is not None and (struck := await fault.strike(request)) is not None:
                return struck
            if received.headers.get("content-type", "").startswith("application/json"):
                if not isinstance(document := json.loads(await request.read() or b"{}"), dict):
                    return refusal(400, "the body is not an object")
                received.body.update(document)
            return await handler(request)
        except asyncio.CancelledError:
            received.lost.set()
            raise
        except (web.HTTPException, ConnectionError) as exc:
            if isinstance(exc, ConnectionError):
                received.lost.set()
                raise
            return refusal(exc.status, exc.text or exc.reason)
        except (ValueError, KeyError, TypeError) as exc:
            return refusal(400, f"the request is malformed: {exc!r}")
        except Exception as exc:
            self._book.failures.append(exc)
            raise
        finally:
            # A client that goes in the middle of a form may be taken for one that writes bad forms.
            if request.transport is None or request.transport.is_closing():
                received.lost.set()
            received.done.set()


class _Book:
    """What the server's requests and its users share."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.armed: list[Arming] = []
        self.failures: list[Exception] = []
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, re.Pattern[str], Signal]] = []

    def note(self, received: Received) -> Fault | None:
        """Write a request down; return what is to go wrong with it."""
        with self._lock:
            self.requests.append(received)
            for count, pattern, signal in self._waiting:
                if self._count(pattern) >= count:
                    signal.set()
            for arming in self.armed:
                if not arming.on.fullmatch(received.operation) or arming.times == 0:
                    continue
                if arming.skip:
                    arming.skip -= 1
                    continue
                if arming.times is not None:
                    arming.times -= 1
                return arming.fault
        return None

    def received(self, count: int, pattern: re.Pattern[str]) -> Signal:
        with self._lock:
            signal = Signal()
            if self._count(pattern) >= count:
                signal.set()
            self._waiting.append((count, pattern, signal))
            return signal

    def _count(self, pattern: re.Pattern[str]) -> int:
        return sum(pattern.fullmatch(request.operation) is not None for request in self.requests)
