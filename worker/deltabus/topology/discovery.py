"""Connections to Redis that find the server anew each time that they are made, where others have to be asked for it.

A Sentinel is asked where the master is; who answers there must say that it is one, as Sentinel's guidelines for
clients have it (https://redis.io/docs/latest/develop/reference/sentinel-clients/). A connection is kept until it
breaks, or until an answer says that its server is the master no more: whoever makes the next one is led to the new
master. Where a stable address leads to whichever server is the master, the same does what is needed.
"""

from __future__ import annotations

import asyncio
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from deltabus.topology.certificates import misfit
from deltabus.topology.redisurl import Node

try:
    from redis.driver_info import DriverInfo
except ImportError:  # an older redis-py, which reads its version once
    DRIVER: Mapping[str, Any] = {}
else:
    #: What connections say of their client. Each would read redis-py's metadata to find its version: 400 us.
    DRIVER = {"driver_info": DriverInfo()}

#: Seconds that one Sentinel may take to be reached, and to answer, at the most.
PATIENCE: Final = 1.0

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

#: What a server says to a question for Sentinels or for nodes of a Cluster that is neither.
_STRANGER: Final = re.compile(r"unknown command|cluster support disabled", re.IGNORECASE)

#: How one says that it does not let us in.
_SHUT: Final = (AuthenticationError, NoPermissionError)


class Misled(redis.ConnectionError):
    """Whoever was to be asked is there, and is another, or does not let us in: no waiting mends that."""


def is_elsewhere(error: BaseException) -> bool:
    """Whether a server says that it is no master, or none that others follow: the next connection may lead to one."""
    return isinstance(error, ReadOnlyError | ClusterDownError | MovedError) or (
        isinstance(error, ResponseError) and _LEFT.search(str(error)) is not None
    )


def _is_stranger(error: Exception | None) -> bool:
    return isinstance(error, ResponseError) and _STRANGER.search(str(error)) is not None


def _is_final(error: Exception | None) -> bool:
    """Whether no waiting mends it."""
    return error is not None and (
        _is_stranger(error) or isinstance(error, _SHUT) or misfit(error, fresh=True) is not None
    )


@dataclass
class Guides(ABC):
    """Who knows where a server is.

    Args:
        nodes: where they are.
        options: of the connections to them: credentials, TLS.
    """

    nodes: tuple[Node, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    tls: bool = False

    def find(self, patience: float | None) -> Node:
        """Where the server is.

        Args:
            patience: seconds that one of them may take to be reached, and to answer, if less than `PATIENCE`.

        Raises:
            Misled: none of them is what it should be.
            redis.ConnectionError: nobody knows.
        """
        kind = redis.SSLConnection if self.tls else redis.Connection
        failures: list[tuple[Node, Exception | None]] = []
        for node in self.nodes:
            connection = kind(**self._to(node, patience), retry=Retry(NoBackoff(), 0))
            try:
                connection.connect()  # type: ignore[no-untyped-call]
                connection.send_command(*self.question)  # type: ignore[no-untyped-call]
                if (answer := self.read(connection.read_response(), node)) is not None:
                    return answer
                failures.append((node, None))
            except (RedisError, OSError) as exc:
                failures.append((node, exc))
            finally:
                connection.disconnect()  # type: ignore[no-untyped-call]
        raise self._lost(failures)

    async def afind(self, patience: float | None) -> Node:
        """As `find`."""
        kind = redis.asyncio.SSLConnection if self.tls else redis.asyncio.Connection
        failures: list[tuple[Node, Exception | None]] = []
        for node in self.nodes:
            connection = kind(**self._to(node, patience), retry=AsyncRetry(NoBackoff(), 0))
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    await connection.connect()  # type: ignore[no-untyped-call]
                    await connection.send_command(*self.question)
                    if (answer := self.read(await connection.read_response(), node)) is not None:
                        return answer
                failures.append((node, None))
            except (RedisError, OSError) as exc:
                failures.append((node, exc))
            finally:
                await connection.disconnect(nowait=True)
        raise self._lost(failures)

    def _lost(self, failures: Sequence[tuple[Node, Exception | None]]) -> redis.ConnectionError:
        """The error, by what each node has answered; None: that it does not know."""
        reasons = []
        for (host, port), error in failures:
            if error is None:
                reasons.append(self.ignorant((host, port)))
            elif _is_stranger(error):
                reasons.append(f"the server at {host}:{port} is no {self.title}")
            elif (reason := misfit(error, fresh=True)) is not None:
                reasons.append(f"at {host}:{port}, {reason}")
            else:
                reasons.append(str(error) or f"{host}:{port} does not answer")
        final = all(_is_final(error) for _, error in failures)
        return (Misled if final else redis.ConnectionError)(self.lost(reasons))

    def _to(self, node: Node, patience: float | None) -> dict[str, Any]:
        host, port = node
        timeouts = dict.fromkeys(("socket_connect_timeout", "socket_timeout"), min(PATIENCE, patience or PATIENCE))
        return {**self.options, "host": host, "port": port, "protocol": 2, **timeouts}

    def doubt(self) -> None:
        """What was told has turned out wrong: ask another one first the next time."""
        self.nodes = (*self.nodes[1:], self.nodes[0])

    def ask_first(self, node: Node) -> None:
        """Ask this one first the next time: others may be dead."""
        if self.nodes[0] != node:
            self.nodes = (node, *(other for other in self.nodes if other != node))

    @property
    @abstractmethod
    def title(self) -> str:
        """What they are, as they are called."""

    @property
    @abstractmethod
    def question(self) -> tuple[str, ...]:
        """The command that they are asked."""

    @abstractmethod
    def read(self, reply: Any, node: Node) -> Node | None:
        """Where the server is, by the reply of a node; None: that one does not know."""

    @abstractmethod
    def ignorant(self, node: Node) -> str:
        """What to say of a node that does not know."""

    @abstractmethod
    def lost(self, reasons: Sequence[str]) -> str:
        """What to say where nobody knows."""


@dataclass
class Sentinels(Guides):
    """Sentinels, who know where the master is.

    Args:
        service: the name by which they know it.
    """

    service: str = ""

    def __str__(self) -> str:
        return f"{self.service} (Sentinels {', '.join(f'{host}:{port}' for host, port in self.nodes)})"

    @property
    def title(self) -> str:
        return "Sentinel"

    @property
    def question(self) -> tuple[str, ...]:
        return "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service

    def read(self, reply: Any, node: Node) -> Node | None:
        if reply is None:
            return None
        self.ask_first(node)
        host, port = reply
        return bytes(host).decode(), int(port)

    def ignorant(self, node: Node) -> str:
        return f"the Sentinel at {node[0]}:{node[1]} knows no service `{self.service}`"

    def lost(self, reasons: Sequence[str]) -> str:
        return f"no Sentinel tells where the master of `{self.service}` is: {'; '.join(reasons)}"


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


class AsyncLeaving:
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
        await self.disconnect(nowait=True)  # type: ignore[attr-defined] # of the connection's class


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
