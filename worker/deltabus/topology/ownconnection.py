"""Connections that are not a pool's: whoever has one looks after it, and shares it with nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def own_connection(client: redis.asyncio.Redis, *, listens: bool = False) -> Any:
    """A connection as the client's pool makes them, for one user who looks after retries and timeouts himself.

    Args:
        listens: it is for channels.

    It speaks RESP2, in which redis-py takes published messages as they come. (Its asyncio connections
    have no common base class, hence the type.)
    """
    pool = client.connection_pool
    options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": None, "protocol": 2}
    kind = pool.connection_class
    if listens:
        kind = getattr(kind, "listener", kind)
    return resettable(kind)(**{**pool.connection_kwargs, **options})


def resettable(kind: Any) -> Any:
    """A kind of redis-py's asyncio connections whose peer may reset it, and whose user may be cancelled, at any time.

    Where the peer has reset an idle connection, uvloop answers the next write with a RuntimeError; asyncio, and whoever
    mends connections, knows an OSError. And Python 3.11's wait_for, in which redis-py sends, swallows a cancellation
    that comes in the moment in which it is done (python/cpython#86296).
    """

    class Resettable(kind):  # type: ignore[misc] # which it is, the caller says
        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            task = asyncio.current_task()
            before = task.cancelling() if task else 0
            try:
                await super().send_packed_command(command, check_health)
            except RuntimeError as exc:
                raise redis.ConnectionError("the connection to Redis was reset") from exc
            if task and task.cancelling() > before:
                await self.disconnect(nowait=True)  # nobody reads the answer
                raise asyncio.CancelledError

    return Resettable


def address(client: redis.Redis | redis.asyncio.Redis) -> str:
    """Where the client's server is, without credentials."""
    where = client.connection_pool.connection_kwargs
    if "whereabouts" in where:
        return str(where["whereabouts"])
    return str(where.get("path") or f"{where.get('host', 'localhost')}:{where.get('port', 6379)}")
