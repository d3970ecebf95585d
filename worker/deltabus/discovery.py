"""Redis clients from a URL, which find the server anew for each connection where Sentinels have to be asked.

A Sentinel is asked where the master is; who answers there must say that it is one, as Sentinel's guidelines for
clients have it (https://redis.io/docs/latest/develop/reference/sentinel-clients/). A connection is kept until it
breaks, or until an answer says that its server is the master no more: whoever makes the next one is led to the new
master. Where a stable address leads to whichever server is the master, the same does what is needed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import MasterDownError, NoPermissionError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from deltabus.errors import ConfigError
from deltabus.redisurl import Node, RedisURL

try:
    from redis.driver_info import DriverInfo
except ImportError:  # an older redis-py, which reads its version once
    _DRIVER: Mapping[str, Any] = {}
else:
    #: What connections say of their client. Each would read redis-py's metadata to find its version: 400 us.
    _DRIVER = {"driver_info": DriverInfo()}

#: Seconds that one Sentinel may take to be reached, and to answer, at the most.
PATIENCE: Final = 1.0

#: Error replies of a server that is not, or no longer, the one to write to; where a script passes one on, it is in the
#: text. NOREPLICAS: it may be a master that is cut off from all others, and replaced by now.
_LEFT: Final = re.compile(r"\b(READONLY|UNBLOCKED|NOREPLICAS|MASTERDOWN)\b")

#: Options of a URL that name files.
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def is_elsewhere(error: BaseException) -> bool:
    """Whether a server says that it is no master, or none that others follow: the next connection may lead to one."""
    return isinstance(error, ReadOnlyError | MasterDownError) or (
        isinstance(error, ResponseError) and _LEFT.search(str(error)) is not None
    )


@dataclass
class Sentinels:
    """Who knows where the master is.

    Args:
        service: the name by which they know it.
        nodes: where they are.
        options: of the connections to them: credentials, TLS.
    """

    service: str
    nodes: tuple[Node, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.service} (Sentinels {', '.join(f'{host}:{port}' for host, port in self.nodes)})"

    def find(self, patience: float | None) -> Node:
        """Where the master is.

        Args:
            patience: seconds that one Sentinel may take to be reached, and to answer, if less than `PATIENCE`.

        Raises:
            redis.ConnectionError: nobody knows.
        """
        kind = redis.SSLConnection if self.tls else redis.Connection
        reasons = []
        for node in self.nodes:
            connection = kind(**self._to(node, patience), retry=Retry(NoBackoff(), 0))
            try:
                connection.connect()  # type: ignore[no-untyped-call]
                connection.send_command(*self._question)  # type: ignore[no-untyped-call]
                if (answer := self._read(connection.read_response())) is not None:
                    self._trust(node)
                    return answer
                reasons.append(self._ignorant(node))
            except (RedisError, OSError) as exc:
                reasons.append(str(exc))
            finally:
                connection.disconnect()  # type: ignore[no-untyped-call]
        raise self._lost(reasons)

    async def afind(self, patience: float | None) -> Node:
        """As `find`."""
        kind = redis.asyncio.SSLConnection if self.tls else redis.asyncio.Connection
        reasons = []
        for node in self.nodes:
            connection = kind(**self._to(node, patience), retry=AsyncRetry(NoBackoff(), 0))
            try:
                async with asyncio.timeout(2 * PATIENCE):
                    await connection.connect()  # type: ignore[no-untyped-call]
                    await connection.send_command(*self._question)
                    if (answer := self._read(await connection.read_response())) is not None:
                        self._trust(node)
                        return answer
                reasons.append(self._ignorant(node))
            except (RedisError, OSError) as exc:
                reasons.append(str(exc) or f"the Sentinel at {node[0]}:{node[1]} does not answer")
            finally:
                await connection.disconnect(nowait=True)
        raise self._lost(reasons)

    def _to(self, node: Node, patience: float | None) -> dict[str, Any]:
        host, port = node
        timeouts = dict.fromkeys(("socket_connect_timeout", "socket_timeout"), min(PATIENCE, patience or PATIENCE))
        return {**self.options, "host": host, "port": port, "protocol": 2, **timeouts}

    @property
    def _question(self) -> tuple[str, ...]:
        return "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service

    def _read(self, reply: Any) -> Node | None:
        if reply is None:
            return None
        host, port = reply
        return bytes(host).decode(), int(port)

    def _trust(self, node: Node) -> None:
        """Who has answered is asked first the next time: others may be dead."""
        if self.nodes[0] != node:
            self.nodes = (node, *(other for other in self.nodes if other != node))

    def _ignorant(self, node: Node) -> str:
        return f"the Sentinel at {node[0]}:{node[1]} knows no service `{self.service}`"

    def _lost(self, reasons: list[str]) -> redis.ConnectionError:
        return redis.ConnectionError(f"no Sentinel tells where the master of `{self.service}` is: {'; '.join(reasons)}")


def _check(role: Any, host: str, port: int) -> None:
    """Refuse a server that is no master.

    Raises:
        redis.ConnectionError: it is none.
    """
    kind = bytes(role[0]).decode()
    if kind != "master":
        raise redis.ConnectionError(f"the server at {host}:{port} is a {kind}, though Sentinel calls it the master")


class _Leaving:
    """Closes a connection on which a server says that it is not the one to write to."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc] # of the connection's class
        except ResponseError as exc:
            if is_elsewhere(exc):
                self.disconnect()  # type: ignore[attr-defined] # of the connection's class
            raise


class _Finding(_Leaving):
    """Asks where the server is whenever it connects."""

    #: Of the connection's class.
    socket_connect_timeout: float | None

    def __init__(self, *, whereabouts: Sentinels, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.whereabouts = whereabouts

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
        _check(role, self.host, self.port)


class FindingConnection(_Finding, redis.Connection): ...


class FindingSSLConnection(_Finding, redis.SSLConnection): ...


class _AsyncLeaving:
    """As `_Leaving`."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc] # of the connection's class
        except ResponseError as exc:
            if is_elsewhere(exc):
                await self.disconnect(nowait=True)  # type: ignore[attr-defined] # of the connection's class
            raise


class AsyncConnection(_AsyncLeaving, redis.asyncio.Connection): ...


class AsyncSSLConnection(_AsyncLeaving, redis.asyncio.SSLConnection): ...


class AsyncUnixConnection(_AsyncLeaving, redis.asyncio.UnixDomainSocketConnection): ...


class _AsyncFinding(_AsyncLeaving):
    """As `_Finding`."""

    #: Of the connection's class.
    socket_connect_timeout: float | None

    def __init__(self, *, whereabouts: Sentinels, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.whereabouts = whereabouts

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
        _check(role, self.host, self.port)


class AsyncFindingConnection(_AsyncFinding, redis.asyncio.Connection): ...


class AsyncFindingSSLConnection(_AsyncFinding, redis.asyncio.SSLConnection): ...


def blocking(url: str, **defaults: Any) -> redis.Redis:
    """A client that blocks.

    Args:
        defaults: redis-py's options, where the URL says nothing else.

    Raises:
        ConfigError: the URL has an option that redis-py does not know, or names a file that is not there.
    """
    where = RedisURL.parse(url)
    kwargs = {**defaults, **options(url)}
    if where.nodes:
        kwargs["connection_class"] = FindingSSLConnection if where.tls else FindingConnection
    pool = redis.ConnectionPool(**kwargs)
    _try(pool)
    return redis.Redis.from_pool(pool)


def asynchronous(url: str, **defaults: Any) -> redis.asyncio.Redis:
    """A client for asyncio.

    Args, Raises:
        as `blocking`.
    """
    where = RedisURL.parse(url)
    kwargs = {**defaults, **options(url)}
    if where.nodes:
        kwargs["connection_class"] = AsyncFindingSSLConnection if where.tls else AsyncFindingConnection
    elif where.scheme == "unix":
        kwargs["connection_class"] = AsyncUnixConnection
    else:
        kwargs["connection_class"] = AsyncSSLConnection if where.tls else AsyncConnection
    pool = redis.asyncio.ConnectionPool(**kwargs)
    _try(pool)
    return redis.asyncio.Redis.from_pool(pool)


def options(url: str) -> dict[str, Any]:
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
    kwargs: dict[str, Any] = {**_DRIVER, **parsed}
    if where.nodes:
        for name in ("host", "port", "connection_class"):
            kwargs.pop(name, None)
        shared = {name: value for name, value in kwargs.items() if name.startswith("ssl_")}
        kwargs["whereabouts"] = Sentinels(
            where.service, where.nodes, {**shared, **dict(where.sentinel_options)}, tls=where.tls
        )
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
