"""Redis clients from a URL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import redis
import redis.asyncio
from redis.connection import parse_url
from redis.exceptions import RedisError

from deltabus.errors import ConfigError
from deltabus.topology.cluster import Cluster
from deltabus.topology.clusterconnections import (
    AsyncClusterConnection,
    AsyncClusterSSLConnection,
    ClusterConnection,
    ClusterSSLConnection,
)
from deltabus.topology.discovery import (
    DRIVER,
    KEEPALIVE,
    AsyncConnection,
    AsyncFindingConnection,
    AsyncFindingSSLConnection,
    AsyncSSLConnection,
    AsyncUnixConnection,
    FindingConnection,
    FindingSSLConnection,
)
from deltabus.topology.guides import Guides
from deltabus.topology.redisurl import RedisURL
from deltabus.topology.sentinels import Sentinels

#: RQ's own, unless its environment variable of this name says otherwise.
RQ_KEY_PREFIX: Final = "rq"

#: What redis-py takes for true in a URL, too.
_YES: Final = ("yes", "true", "1")

#: Options of a URL that name files.
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def blocking(url: str, *, home: str = RQ_KEY_PREFIX, **defaults: Any) -> redis.Redis:
    """A client that blocks.

    Args:
        home: prefix of RQ's keys: of a Cluster, the node that owns them is the one that RQ is led to.
        defaults: redis-py's options, where the URL says nothing else.

    Raises:
        ConfigError: the URL has an option that redis-py does not know, or names a file that is not there.
    """
    where = RedisURL.parse(url)
    kwargs = {**defaults, **options(url, home)}
    if where.is_cluster:
        kwargs["connection_class"] = ClusterSSLConnection if where.tls else ClusterConnection
    elif where.nodes:
        kwargs["connection_class"] = FindingSSLConnection if where.tls else FindingConnection
    pool = redis.ConnectionPool(**kwargs)
    _try(pool)
    return redis.Redis.from_pool(pool)


def asynchronous(url: str, *, home: str = RQ_KEY_PREFIX, **defaults: Any) -> redis.asyncio.Redis:
    """A client for asyncio.

    Args, Raises:
        as `blocking`.
    """
    where = RedisURL.parse(url)
    kwargs = {**defaults, **options(url, home)}
    unix = where.scheme == "unix"
    kwargs["connection_class"] = kind(kwargs.get("whereabouts"), tls=where.tls, unix=unix)
    pool = redis.asyncio.ConnectionPool(**kwargs)
    _try(pool)
    return redis.asyncio.Redis.from_pool(pool)


def kind(whereabouts: Guides | None, *, tls: bool, unix: bool) -> Any:
    """The kind of asyncio connections that leads to a server.

    Args:
        whereabouts: who has to be asked for it.
    """
    if isinstance(whereabouts, Cluster):
        return AsyncClusterSSLConnection if tls else AsyncClusterConnection
    if whereabouts is not None:
        return AsyncFindingSSLConnection if tls else AsyncFindingConnection
    if unix:
        return AsyncUnixConnection
    return AsyncSSLConnection if tls else AsyncConnection


def options(url: str, home: str = RQ_KEY_PREFIX) -> dict[str, Any]:
    """What connections are made with, by redis-py's own reading of the URL; and `whereabouts`, where that is asked for.

    Raises:
        ConfigError: as `blocking`.
    """
    where = RedisURL.parse(url)
    for name, path in where.options:
        if name in _FILES and not Path(path).is_file():
            raise ConfigError(f"`redis_url`: the option `{name}` names a file that is not there: {path}")
    try:
        parsed = parse_url(where.of(where.nodes[0]) if where.nodes else url)  # type: ignore[no-untyped-call]
    except ValueError as exc:
        raise ConfigError(f"`redis_url`: {exc}") from exc
    kwargs: dict[str, Any] = {**DRIVER, **({} if where.scheme == "unix" else KEEPALIVE), **parsed}
    if where.nodes:
        for name in ("host", "port", "connection_class"):
            kwargs.pop(name, None)
        shared = {name: value for name, value in kwargs.items() if name.startswith("ssl_")}
        guides: Guides
        if where.is_cluster:
            shared |= {name: kwargs[name] for name in ("username", "password") if name in kwargs}
            sharded = str(kwargs.pop("sharded_pubsub", "no")).lower() in _YES
            guides = Cluster(where.nodes, shared, where.tls, home, wants_shards=sharded)
        else:
            guides = Sentinels(where.nodes, {**shared, **dict(where.sentinel_options)}, where.tls, where.service)
        kwargs["whereabouts"] = guides
    return kwargs


def _try(pool: redis.ConnectionPool | redis.asyncio.ConnectionPool) -> None:
    """Make a connection, without connecting it: what is wrong with an option is found out now."""
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as exc:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(exc))
        if unknown is None:
            raise
        raise ConfigError(f"`redis_url`: there is no option `{unknown[1]}`") from exc
    except (ValueError, RedisError) as exc:
        raise ConfigError(f"`redis_url`: {exc}") from exc
