"""What passes between a test and a scripted server: replies, the requests that were received, signals."""

from __future__ import annotations

import asyncio
import enum
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

#: Seconds after which what should happen counts as not happening, on however busy a machine.
PATIENCE = 60.0


class Signal:
    """Something that happens once. It can be set and awaited from any thread and any loop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        #: What wakes the coroutines that wait.
        self._wakers: set[Callable[[], object]] = set()

    def __repr__(self) -> str:
        return f"<Signal {'set' if self.is_set else 'not set'}>"

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Let it happen; setting it again changes nothing."""
        with self._lock:
            self._event.set()
            for wake in self._wakers:
                wake()
            self._wakers.clear()

    def wait(self, timeout: float = PATIENCE) -> None:
        """Block until it has happened.

        Raises:
            TimeoutError: it has not after `timeout` seconds.
        """
        if not self._event.wait(timeout):
            raise TimeoutError(f"it has not happened within {timeout:g} s")

    async def happened(self) -> None:
        """Wait until it has happened, however long that takes; a coroutine's `wait`, for `asyncio.timeout` to limit."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(event.set)

        with self._lock:
            if self._event.is_set():
                return
            self._wakers.add(wake)
        try:
            await event.wait()
        finally:
            with self._lock:
                self._wakers.discard(wake)


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
