"""Redis clients: one kind from another."""

from __future__ import annotations

from typing import Any, Final

import redis
import redis.asyncio
from redis.connection import SSLConnection, UnixDomainSocketConnection
from rq.connections import get_connection_kwargs

from deltabus.commit import resettable

#: What a blocking client's pool may hold that means nothing to, or is of another kind in, an asyncio one.
_NOT_PORTABLE: Final = ("retry", "retry_on_error", "parser_class", "socket_timeout", "decode_responses", "encoding")


def asynchronous(connection: redis.Redis, **overrides: Any) -> redis.asyncio.Redis:
    """An asyncio client for the server that a blocking client talks to, as bytes, with the same credentials."""
    pool = connection.connection_pool
    kind: type[redis.asyncio.Connection | redis.asyncio.UnixDomainSocketConnection] = redis.asyncio.Connection
    if issubclass(pool.connection_class, SSLConnection):
        kind = redis.asyncio.SSLConnection
    elif issubclass(pool.connection_class, UnixDomainSocketConnection):
        kind = redis.asyncio.UnixDomainSocketConnection
    kwargs = {key: value for key, value in get_connection_kwargs(connection).items() if key not in _NOT_PORTABLE}
    options = {"connection_class": resettable(kind), **kwargs, **overrides}
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options))
