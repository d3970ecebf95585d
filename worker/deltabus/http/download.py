"""Bytes that a server is asked for, as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Final, cast

from deltabus.http import disposition
from deltabus.http.transport import Exchange
from deltabus.provider import Download, ProviderProtocol

#: The answer to a header `Range`, which tasks may have among theirs, or a proxy may add.
PARTIAL: Final = HTTPStatus.PARTIAL_CONTENT


async def begin(
    opened: AbstractAsyncContextManager[Exchange], judge: Callable[[Exchange, bytes], Awaitable[None]] | None = None
) -> Download:
    """A download whose first bytes are here.

    Args:
        opened: see `Client.open`; left when the download is closed.
        judge: is given the answer and its first bytes, and raises where they say that it is none, perhaps after
            reading the rest. Without it, whatever comes with a 2xx is what was asked for, unless it is a part of it.

    Raises:
        TaskError: there is no answer.
        ProviderProtocol: it is a part of what was asked for.
    """
    pieces = _pieces(opened, judge)
    # Now, and not when somebody reads: errors are the call's, and only an iterator that has begun can be closed.
    exchange = cast("Exchange", await anext(pieces))
    found = exchange.headers
    size = found.get("content-length", "")
    plain = found.get("content-encoding", "").strip().lower() in ("", "identity")
    return Download(
        cast("AsyncGenerator[bytes]", pieces),
        media_type=found.get("content-type", "").strip() or "application/octet-stream",
        size=int(size) if plain and size.isascii() and size.isdigit() else None,
        name=disposition.filename(found.get("content-disposition", "")),
    )


async def _pieces(
    opened: AbstractAsyncContextManager[Exchange], judge: Callable[[Exchange, bytes], Awaitable[None]] | None
) -> AsyncGenerator[bytes | Exchange]:
    """The exchange, once its first bytes are here; then all of its bytes."""
    async with opened as exchange:
        if exchange.status == PARTIAL:
            raise ProviderProtocol("the provider answers with a part of the bytes (HTTP 206) where all were asked for")
        piece = await exchange.read()
        if judge is not None:
            await judge(exchange, piece)
        yield exchange
        while piece:
            yield piece
            piece = await exchange.read()
