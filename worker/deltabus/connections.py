"""An asyncio client for the server that RQ's blocking client talks to, wherever that one moves."""

from __future__ import annotations

from typing import Any, Final

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool
from rq.connections import get_connection_kwargs

from deltabus.topology import clients
from deltabus.topology.cluster import Cluster
from deltabus.topology.discovery import KEEPALIVE
from deltabus.topology.ownconnection import resettable
from deltabus.topology.sentinels import Sentinels

#: What a blocking client's pool may hold that means nothing to, or is of another kind in, an asyncio one.
_NOT_PORTABLE: Final = ("retry", "retry_on_error", "parser_class", "socket_timeout", "decode_responses", "encoding")

#: Seconds to wait for an answer. Before its version 8, redis-py waited for ever.
ANSWER_TIMEOUT: Final = 5.0

#: Seconds to wait for an answer where somebody else waits for ours, and has little patience.
SOON: Final = 1.0

#: What redis-py's own pool for Sentinel holds of itself.
_OF_SENTINEL_POOLS: Final = ("connection_pool", "host", "port")


def hasty(connection: redis.Redis) -> redis.Redis:
    """A client that blocks, for the same server and as bytes, and gives up soon: for who must not be kept waiting."""
    pool = connection.connection_pool
    soon = {"socket_timeout": SOON, "socket_connect_timeout": SOON, "retry": Retry(NoBackoff(), 0)}
    kwargs = {**pool.connection_kwargs, **soon, "decode_responses": False}
    if isinstance(pool, SentinelConnectionPool):
        kwargs = {key: value for key, value in kwargs.items() if key not in _OF_SENTINEL_POOLS}
        again = SentinelConnectionPool(pool.service_name, pool.sentinel_manager, **kwargs)  # type: ignore[no-untyped-call]
        return redis.Redis.from_pool(again)
    return redis.Redis.from_pool(redis.ConnectionPool(pool.connection_class, **kwargs))


def asynchronous(connection: redis.Redis, **overrides: Any) -> redis.asyncio.Redis:
    """An asyncio client for the server that a blocking client talks to, as bytes, with the same credentials.

    Where Sentinels tell the blocking client which server that is (a `redis+sentinel://` URL, or the `SENTINEL` of RQ's
    configuration), they tell this one, too.
    """
    pool = connection.connection_pool
    tls = issubclass(pool.connection_class, SSLConnection)
    kwargs = {key: value for key, value in get_connection_kwargs(connection).items() if key not in _NOT_PORTABLE}
    if isinstance(pool, SentinelConnectionPool):
        kwargs = {key: value for key, value in kwargs.items() if key not in _OF_SENTINEL_POOLS}
        kwargs["whereabouts"] = _sentinels(pool)
    unix = issubclass(pool.connection_class, UnixDomainSocketConnection)
    kind = clients.kind(kwargs.get("whereabouts"), tls=tls, unix=unix)
    options = {"connection_class": resettable(kind), "socket_timeout": ANSWER_TIMEOUT, **kwargs, **overrides}
    if not unix:
        options |= {name: value for name, value in KEEPALIVE.items() if options.get(name) is None}
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options))


def is_cluster(client: redis.asyncio.Redis) -> bool:
    """Whether keys lie on several servers."""
    return isinstance(client.connection_pool.connection_kwargs.get("whereabouts"), Cluster)


def _sentinels(pool: SentinelConnectionPool) -> Sentinels:
    """Whom redis-py's own pool asks."""
    pools = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    nodes = tuple((each.connection_kwargs["host"], each.connection_kwargs["port"]) for each in pools)
    used = pools[0].connection_kwargs
    options = {name: used[name] for name in used if name in {"username", "password"} or name.startswith("ssl_")}
    tls = issubclass(pools[0].connection_class, SSLConnection)
    return Sentinels(nodes, options, tls, pool.service_name)
