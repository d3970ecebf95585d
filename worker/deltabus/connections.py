"""Redis clients: one kind from another, and connections that do not stay with a server which was demoted.

After a failover behind a stable address, the old master may go on answering as a replica. Whoever keeps a
connection to it would be refused for ever; a new connection leads to the new master.
"""

from __future__ import annotations

from typing import Any, Final

import redis
import redis.asyncio
from redis.connection import SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ReadOnlyError, ResponseError
from rq.connections import get_connection_kwargs

from deltabus.commit import resettable

#: What a blocking client's pool may hold that means nothing to, or is of another kind in, an asyncio one.
_NOT_PORTABLE: Final = ("retry", "retry_on_error", "parser_class", "socket_timeout", "decode_responses", "encoding")

#: Seconds to wait for an answer. Before its version 8, redis-py waited for ever.
ANSWER_TIMEOUT: Final = 5.0


class _Leaving:
    """Closes a connection on which a server says that it is a replica."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc] # of the connection's class
        except ResponseError as exc:
            if is_read_only(exc):
                await self.disconnect(nowait=True)  # type: ignore[attr-defined] # of the connection's class
            raise


class _Connection(_Leaving, redis.asyncio.Connection): ...


class _SSLConnection(_Leaving, redis.asyncio.SSLConnection): ...


class _UnixDomainSocketConnection(_Leaving, redis.asyncio.UnixDomainSocketConnection): ...


def is_read_only(error: BaseException) -> bool:
    """Whether a server says that it is a replica: directly, or in a script's error, as Redis 6 passes it on."""
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and "READONLY" in str(error))


def asynchronous(connection: redis.Redis, **overrides: Any) -> redis.asyncio.Redis:
    """An asyncio client for the server that a blocking client talks to, as bytes, with the same credentials."""
    pool = connection.connection_pool
    kind: type[redis.asyncio.Connection | redis.asyncio.UnixDomainSocketConnection] = _Connection
    if issubclass(pool.connection_class, SSLConnection):
        kind = _SSLConnection
    elif issubclass(pool.connection_class, UnixDomainSocketConnection):
        kind = _UnixDomainSocketConnection
    kwargs = {key: value for key, value in get_connection_kwargs(connection).items() if key not in _NOT_PORTABLE}
    options = {"connection_class": resettable(kind), "socket_timeout": ANSWER_TIMEOUT, **kwargs, **overrides}
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options))
