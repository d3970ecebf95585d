"""The kinds of connections to a Cluster: in either colour, in the clear or with TLS."""

from __future__ import annotations

import redis
import redis.asyncio

from deltabus.topology.discovery import AsyncConnection, AsyncSSLConnection, Leaving
from deltabus.topology.listening import Listening
from deltabus.topology.routing import AsyncRouting, BlockingRouting


class _Line(Leaving, redis.Connection): ...


class _SSLLine(Leaving, redis.SSLConnection): ...


class ClusterConnection(BlockingRouting, redis.Connection):
    line = _Line


class ClusterSSLConnection(BlockingRouting, redis.SSLConnection):
    line = _SSLLine


class ShardedConnection(Listening, redis.asyncio.Connection):
    line = AsyncConnection


class ShardedSSLConnection(Listening, redis.asyncio.SSLConnection):
    line = AsyncSSLConnection


class AsyncClusterConnection(AsyncRouting, redis.asyncio.Connection):
    line = AsyncConnection
    #: The kind that listens to channels.
    listener = ShardedConnection


class AsyncClusterSSLConnection(AsyncRouting, redis.asyncio.SSLConnection):
    line = AsyncSSLConnection
    #: The kind that listens to channels.
    listener = ShardedSSLConnection
