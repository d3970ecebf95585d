"""What goes wrong with a request, on purpose."""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

#: Bytes that are read of a request's body at a time.
_PIECE = 64 * 1024
#: Milliseconds after which a wait for the client to go looks whether the server is to stop.
_LOOK = 100
#: The other side has closed: Linux has a flag for it, elsewhere it is a hang-up.
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to go wrong; the class methods make them. `ApiServer.fault` says with which requests."""

    kind: Literal["refuse", "stall", "cut", "silent", "miscount", "cut_answer", "stall_answer"]
    status: int = 500
    #: Of the answer: JSON, or text as it is.
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Bytes of a body after which it happens, or by which a count is wrong.
    after: int = 0
    #: Answer before the request's body has been read.
    early: bool = False

    @classmethod
    def refuse(
        cls, status: int, body: Any = None, *, headers: Mapping[str, str] | None = None, early: bool = False
    ) -> Self:
        """Answer with an error: OpenAI's shape where there is no body.

        Early: the request's body is left unread.
        """
        if body is None:
            body = {"error": {"message": f"refused with {status}, as asked", "type": "fault", "code": None}}
        return cls(kind="refuse", status=status, body=body, headers=headers or {}, early=early)

    @classmethod
    def rate_limit(cls, retry_after: float) -> Self:
        """429, with the seconds to wait in Retry-After."""
        body = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}
        return cls(kind="refuse", status=429, body=body, headers={"Retry-After": f"{retry_after:g}"})

    @classmethod
    def stall(cls, after: int = 0) -> Self:
        """Read so much of the request's body, and no further, until the client goes."""
        return cls(kind="stall", after=after)

    @classmethod
    def cut(cls, after: int = 0) -> Self:
        """Read so much of the request's body, then reset the connection."""
        return cls(kind="cut", after=after)

    @classmethod
    def silent(cls) -> Self:
        """Read the request and never answer."""
        return cls(kind="silent")

    @classmethod
    def miscount(cls, by: int) -> Self:
        """Do as asked, but store so many bytes more (zeros) or fewer, and say so, as servers with a bug do."""
        return cls(kind="miscount", after=by)

    @classmethod
    def cut_answer(cls, after: int) -> Self:
        """Reset the connection after so many bytes of the bytes that were asked for."""
        return cls(kind="cut_answer", after=after)

    @classmethod
    def stall_answer(cls, after: int) -> Self:
        """Send so many bytes of the bytes that were asked for, and no more, until the client goes."""
        return cls(kind="stall_answer", after=after)

    async def strike(self, request: web.Request) -> web.Response | None:
        """Do what is wrong before the request is looked at; None where it is to be answered, with the fault in it."""
        match self.kind:
            case "refuse":
                if not self.early:
                    await self._read(request, None)
                if isinstance(self.body, str | bytes):
                    return web.Response(status=self.status, body=self.body, headers=self.headers)
                return web.json_response(self.body, status=self.status, headers=self.headers)
            case "stall":
                await self._read(request, self.after)
                await _gone(request)
                abort(request)
                await asyncio.Event().wait()
            case "silent":
                await self._read(request, None)
                await asyncio.Event().wait()  # Ends when the client goes.
            case "cut":
                await self._read(request, self.after)
                abort(request)
                await asyncio.Event().wait()
        return None

    async def _read(self, request: web.Request, most: int | None) -> None:
        left = most
        while left is None or left > 0:
            data = await request.content.read(_PIECE if left is None else min(left, _PIECE))
            if not data:
                return
            if left is not None:
                left -= len(data)


@dataclass(slots=True)
class Arming:
    """A fault that waits for its requests."""

    fault: Fault
    on: re.Pattern[str]
    #: Requests that it still strikes; None: all of them.
    times: int | None
    #: Requests that it lets by first.
    skip: int


async def _gone(request: web.Request) -> None:
    """Wait until the client has closed the connection, which nobody who has stopped reading is told."""
    assert request.transport is not None
    poll = select.poll()
    poll.register(request.transport.get_extra_info("socket").fileno(), _HANGUP)
    while not await asyncio.to_thread(poll.poll, _LOOK):
        pass


def abort(request: web.BaseRequest) -> None:
    """Reset the connection: what was sent and not yet received is lost."""
    if request.transport is not None:
        request.transport.abort()
