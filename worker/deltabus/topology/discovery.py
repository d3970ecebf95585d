"""Connections to Redis that find the server anew each time that they are made, where others have to be asked for it.

A Sentinel is asked where the master is; who answers there must say that it is one, as Sentinel's guidelines for
clients have it (https://redis.io/docs/latest/develop/reference/sentinel-clients/). A connection is kept until it
breaks, or until an answer says that its server is the master no more: whoever makes the next one is led to the new
master. Where a stable address leads to whichever server is the master, the same does what is needed.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from deltabus.topology.abrupt import Abrupt
from deltabus.topology.guides import Guides

try:
    from redis.driver_info import DriverInfo
except ImportError:  # an older redis-py, which reads its version once
    DRIVER: Mapping[str, Any] = {}
else:
    #: What connections say of their client. Each would read redis-py's metadata to find its version: 400 us.
    DRIVER = {"driver_info": DriverInfo()}


#: When the kernel asks whether an idle line still stands, in seconds, how often and how many times: one that has gone
#: dead without a word is noticed after 6 s, where a worker that only listens would not miss anything on it for longer.
#: What a system does not know, it does without.
KEEPALIVE: Final[Mapping[str, Any]] = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    },
}

#: Error replies of a server that is not, or no longer, the one to write to; where a script passes one on, it is in the
#: text. NOREPLICAS: it may be a master that is cut off from all others, and replaced by now. MOVED, and what a script
#: says instead of it: the key belongs to another node of a Cluster by now.
_LEFT: Final = re.compile(
    r"\b(READONLY|UNBLOCKED|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|MOVED)\b|a non local key in a cluster node"
)


def is_elsewhere(error: BaseException) -> bool:
    """Whether a server says that it is no master, or none that others follow: the next connection may lead to one."""
    return isinstance(error, ReadOnlyError | ClusterDownError | MovedError) or (
        isinstance(error, ResponseError) and _LEFT.search(str(error)) is not None
    )


def _check(role: Any, whereabouts: Guides, host: str, port: int) -> None:
    """Refuse a server that is no master.

    Raises:
        redis.ConnectionError: it is none.
    """
    kind = bytes(role[0]).decode()
    if kind != "master":
        whereabouts.doubt()
        raise redis.ConnectionError(
            f"the server at {host}:{port} is a {kind}, and no longer the master that it was said to be"
        )


class Leaving:
    """Closes a connection on which a server says that it is not the one to write to.

    To whoever blocks, it is as if that had broken: RQ's code, and redis-py's retries, know what to do then.
    """

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc] # of the connection's class
        except ResponseError as exc:
            if is_elsewhere(exc):
                self.leave()
            elif isinstance(exc, AskError | TryAgainError):  # the slot is on its way to another node
                self.disconnect()  # type: ignore[attr-defined] # of the connection's class
            else:
                raise
            raise redis.ConnectionError(f"not the server to write to: {exc}") from exc

    def leave(self) -> None:
        """The server says that it is not the one."""
        self.disconnect()  # type: ignore[attr-defined] # of the connection's class


class Finding(Leaving):
    """Asks where the server is whenever it connects."""

    #: Of the connection's class.
    socket_connect_timeout: float | None

    def __init__(self, *, whereabouts: Guides, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.whereabouts = whereabouts

    def leave(self) -> None:
        self.whereabouts.doubt()
        super().leave()

    def _connect(self) -> Any:
        self.host, self.port = self.whereabouts.find(self.socket_connect_timeout)
        return super()._connect()  # type: ignore[misc] # of the connection's class

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health=check_health)  # type: ignore[misc] # of the connection's class
        self.send_command("ROLE", check_health=False)  # type: ignore[attr-defined] # of the connection's class
        try:
            role = self.read_response(disable_decoding=True)
        except NoPermissionError:
            return  # Then Sentinel is believed.
        _check(role, self.whereabouts, self.host, self.port)


class FindingConnection(Finding, redis.Connection): ...


class FindingSSLConnection(Finding, redis.SSLConnection): ...


class AsyncLeaving(Abrupt):
    """As `Leaving`."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc] # of the connection's class
        except ResponseError as exc:
            if is_elsewhere(exc):
                await self.leave()
            raise

    async def leave(self) -> None:
        """The server says that it is not the one."""
        await self.disconnect(nowait=True)


class AsyncConnection(AsyncLeaving, redis.asyncio.Connection): ...


class AsyncSSLConnection(AsyncLeaving, redis.asyncio.SSLConnection): ...


class AsyncUnixConnection(AsyncLeaving, redis.asyncio.UnixDomainSocketConnection): ...


class AsyncFinding(AsyncLeaving):
    """As `Finding`."""

    #: Of the connection's class.
    socket_connect_timeout: float | None

    def __init__(self, *, whereabouts: Guides, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.whereabouts = whereabouts

    async def leave(self) -> None:
        self.whereabouts.doubt()
        await super().leave()

    async def _connect(self) -> None:
        self.host, self.port = await self.whereabouts.afind(self.socket_connect_timeout)
        await super()._connect()  # type: ignore[misc] # of the connection's class

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health=check_health)  # type: ignore[misc] # of the connection's class
        await self.send_command("ROLE", check_health=False)  # type: ignore[attr-defined] # of the connection's class
        try:
            role = await self.read_response(disable_decoding=True)
        except NoPermissionError:
            return  # Then Sentinel is believed.
        _check(role, self.whereabouts, self.host, self.port)


class AsyncFindingConnection(AsyncFinding, redis.asyncio.Connection): ...


class AsyncFindingSSLConnection(AsyncFinding, redis.asyncio.SSLConnection): ...
