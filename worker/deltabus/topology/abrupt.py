"""Connections for asyncio that are closed when they have been disconnected, also where nobody waited for it.

redis-py's `disconnect(nowait=True)` only begins to close: with TLS, until the other side has said goodbye too. A loop
that ends before, as that of a short program does, leaves the socket open; and a server that hangs says nothing.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio


class Abrupt:
    """Does without what the other side has not said by then: nobody reads it any more."""

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        writer = self._writer  # type: ignore[attr-defined] # of the connection's class
        try:
            await super().disconnect(*args, **kwargs)  # type: ignore[misc] # of the connection's class
        finally:
            if writer is not None:
                writer.transport.abort()


class AbruptConnection(Abrupt, redis.asyncio.Connection): ...


class AbruptSSLConnection(Abrupt, redis.asyncio.SSLConnection): ...
