"""Leads each command to the node of a Cluster which owns its key.

To its user, a connection that does so is one to the home slot's node. It has a line to every other node that it is
led to, sends each command down the right one, and hands out the replies in the order in which they were asked for. What
goes to one slot stays in order; nothing else is promised, and nothing else is relied upon. Where one line breaks,
all of them are given up: whoever sends again, sends all of it again, which scripts recognise.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from deltabus.topology.cluster import Cluster
from deltabus.topology.clusterscripts import translated
from deltabus.topology.discovery import AsyncFinding, Finding, is_elsewhere
from deltabus.topology.redisurl import Node
from deltabus.topology.slots import slot_of


class Routing:
    """What both colours have in common."""

    #: The kind of connections to other nodes.
    line: ClassVar[Any]

    #: Commands have to be given to it one by one; it sends those for a node in one piece.
    parts_them = True

    #: Of the home node.
    host: str
    port: int

    def __init__(self, *, whereabouts: Cluster, **kwargs: Any) -> None:
        super().__init__(whereabouts=whereabouts, **kwargs)  # type: ignore[call-arg] # of the connection's class
        self._cluster = whereabouts
        self._kwargs = kwargs
        self._lines: dict[Node, Any] = {}
        #: Whose replies are due, in the order in which they were asked for.
        self._due: deque[tuple[Any, ...]] = deque()
        self._in_transaction = False

    def pack_command(self, *words: Any) -> list[bytes]:
        """One command, in one piece."""
        return [b"".join(super().pack_command(*words))]  # type: ignore[misc] # of the connection's class

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Commands, each in one piece."""
        return [self.pack_command(*words)[0] for words in commands]

    def _learn(self, about: Any) -> None:
        """Whether messages are sharded, by what the server knows of the command."""
        self._cluster.sharded = bool(about) and about[0] is not None

    def _targets(self, packed: bytes) -> tuple[Any, ...]:
        """The lines down which a command goes."""
        if packed[:20].split(b"\r\n")[2:3] == [b"SCRIPT"]:
            return tuple(self._line(node) for node in self._cluster.masters)
        slot = slot_of(packed)
        if slot is None or slot == self._cluster.home_slot:
            return (self,)
        owner = self._cluster.owner(slot)
        if owner is None:
            raise redis.ConnectionError(f"nobody owns slot {slot} of the Cluster")
        return (self._line(owner),)

    def _line(self, node: Node) -> Any:
        """The line to a node."""
        if node == (self.host, self.port):
            return self
        if node not in self._lines:
            self._lines[node] = self.line(**{**self._kwargs, "host": node[0], "port": node[1]})
        return self._lines[node]

    def _split(self, command: bytes | str | Iterable[bytes]) -> dict[Any, list[bytes]]:
        """Commands by the lines down which they go."""
        whole = [command] if isinstance(command, bytes | str) else command
        batches: dict[Any, list[bytes]] = {}
        due = []
        for packed in whole:
            data = packed.encode() if isinstance(packed, str) else packed
            data = translated(data, sharded=self._cluster.sharded)
            self._check(data)
            targets = self._targets(data)
            for target in targets:
                batches.setdefault(target, []).append(data)
            due.append(targets)
        self._due.extend(due)
        return batches

    def _check(self, packed: bytes) -> None:
        """A transaction cannot reach beyond its node: one that would is refused, before it does harm."""
        name = packed[:20].split(b"\r\n")[2:3]
        if name in ([b"MULTI"], [b"EXEC"], [b"DISCARD"]):
            self._in_transaction = name == [b"MULTI"]
        elif self._in_transaction and slot_of(packed) not in (None, self._cluster.home_slot):
            self._in_transaction = False
            raise redis.RedisClusterException("a transaction on a Cluster can only have keys of RQ's slot")

    def _forget(self) -> list[Any]:
        """Let go of all lines but the home node's; those."""
        lines, self._lines = list(self._lines.values()), {}
        self._due.clear()
        self._in_transaction = False
        return lines


def _joint(replies: Sequence[Any]) -> Any:
    """The answer of all: a script is there if all of them have it (`SCRIPT EXISTS`), else all say the same."""
    if len(replies) > 1 and all(isinstance(reply, list) for reply in replies):
        return [min(each) for each in zip(*replies, strict=True)]
    return replies[0]


class BlockingRouting(Routing, Finding):
    """A connection that blocks."""

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        if self._cluster.wants_shards:
            self.send_command("COMMAND", "INFO", "SPUBLISH", check_health=False)  # type: ignore[attr-defined] # as below
            self._learn(self.read_response(disable_decoding=True))

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self._sock:  # type: ignore[attr-defined] # of the connection's class
            self.connect_check_health(check_health=False)  # type: ignore[attr-defined] # as before
        batches = self._split(command)
        try:
            for line, batch in batches.items():
                if line is self:
                    super().send_packed_command([b"".join(batch)], check_health)  # type: ignore[misc] # as before
                else:
                    line.send_packed_command([b"".join(batch)], check_health=False)
        except BaseException:
            self.disconnect()  # what was not sent is due all the same
            raise

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        replies = []
        for source in self._due.popleft() if self._due else (self,):
            read = super().read_response if source is self else source.read_response
            try:
                replies.append(read(*args, **kwargs))
            except ResponseError as exc:
                replies.append(exc)
            except BaseException as exc:
                if source is not self and exc.__cause__ is not None and is_elsewhere(exc.__cause__):
                    self._cluster.doubt()
                if kwargs.get("disconnect_on_error", True):
                    self.disconnect()  # nobody reads what else is due
                raise
        # The reply of one node, or the first refusal of several.
        refusals = [reply for reply in replies if isinstance(reply, ResponseError)]
        if refusals:
            raise refusals[0]
        return _joint(replies)

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        for line in self._forget():
            line.disconnect()
        super().disconnect(*args, **kwargs)  # type: ignore[misc] # of the connection's class


class AsyncRouting(Routing, AsyncFinding):
    """A connection for asyncio."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: Who may send to which other node: one at a time.
        self._turns: dict[Any, asyncio.Lock] = {}

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        if self._cluster.wants_shards:
            await self.send_command("COMMAND", "INFO", "SPUBLISH", check_health=False)  # type: ignore[attr-defined]
            self._learn(await self.read_response(disable_decoding=True))

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:  # type: ignore[attr-defined] # of the connection's class
            await self.connect_check_health(check_health=False)  # type: ignore[attr-defined] # as before
        batches = self._split(command)
        try:
            for line, batch in batches.items():
                if line is self:
                    await super().send_packed_command([b"".join(batch)], check_health)  # type: ignore[misc] # as before
                else:
                    await self._send_down(line, batch)
        except BaseException:
            await self.disconnect(nowait=True)  # what was not sent is due all the same
            raise

    async def _send_down(self, line: Any, batch: list[bytes]) -> None:
        """To another node. Of two who connect a line at once, one would lose it, and all that he sends.

        A line that is let go of while it connects would stay open, and nobody would know it.
        """
        try:
            async with self._turns.setdefault(line, asyncio.Lock()):
                if line not in self._lines.values():
                    raise redis.ConnectionError("the line to another node was given up")
                await line.send_packed_command([b"".join(batch)], check_health=False)
        finally:
            if line not in self._lines.values():
                await line.disconnect(nowait=True)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        replies = []
        for source in self._due.popleft() if self._due else (self,):
            read = super().read_response if source is self else source.read_response
            try:
                replies.append(await read(*args, **kwargs))
            except ResponseError as exc:
                replies.append(exc)
                if source is not self and is_elsewhere(exc):
                    self._cluster.doubt()
            except BaseException:
                if kwargs.get("disconnect_on_error", True):
                    await self.disconnect(nowait=True)  # nobody reads what else is due
                raise
        refusals = [reply for reply in replies if isinstance(reply, ResponseError)]
        if any(map(is_elsewhere, refusals)):
            await self.disconnect(nowait=True)
        if refusals:
            raise refusals[0]
        return _joint(replies)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self._turns.clear()
        for line in self._forget():
            await line.disconnect(nowait=True)
        await super().disconnect(*args, **kwargs)
