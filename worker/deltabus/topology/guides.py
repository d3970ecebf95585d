"""Who is asked where a server is: Sentinels, or nodes of a Cluster. One that answers is enough."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from deltabus.topology.abrupt import AbruptConnection, AbruptSSLConnection
from deltabus.topology.certificates import misfit
from deltabus.topology.redisurl import Node

#: Seconds that one Sentinel may take to be reached, and to answer, at the most.
PATIENCE: Final = 1.0

#: What a server says to a question for Sentinels or for nodes of a Cluster that is neither.
_STRANGER: Final = re.compile(r"unknown command|cluster support disabled", re.IGNORECASE)

#: How one says that it does not let us in.
_SHUT: Final = (AuthenticationError, NoPermissionError)


class Misled(redis.ConnectionError):
    """Whoever was to be asked is there, and is another, or does not let us in: no waiting mends that."""


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
        kind = AbruptSSLConnection if self.tls else AbruptConnection
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
