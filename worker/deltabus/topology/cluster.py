"""Redis Cluster: a connection that leads each command to the node which owns its key.

RQ works on a Cluster only where all of its keys lie in one slot, the home slot: `RQ_KEY_PREFIX` sees to that, with a
hash tag. The keys of a task have its id for a hash tag, so logs spread over all nodes.

To its user, a `ClusterConnection` is a connection to the home slot's node. It has a line to every other node that it is
led to, sends each command down the right one, and hands out the replies in the order in which they were asked for. What
goes to one slot stays in order; nothing else is promised, and nothing else is relied upon. Where one line breaks,
all of them are given up: whoever sends again, sends all of it again, which scripts recognise.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import redis
import redis.asyncio
from redis.crc import key_slot
from redis.exceptions import ResponseError

from deltabus.topology.discovery import (
    AsyncConnection,
    AsyncFinding,
    AsyncSSLConnection,
    Finding,
    Guides,
    Leaving,
    is_elsewhere,
)
from deltabus.topology.redisurl import Node
from deltabus.topology.shards import translated

#: Bytes of a command in which its name and its first key are found, scripts by their hash.
_HEAD: Final = 1024

#: Commands without a key, which any node can answer: the home node does.
_KEYLESS: Final = frozenset(
    b"ACL AUTH CLIENT CLUSTER COMMAND CONFIG DISCARD ECHO EXEC HELLO INFO MULTI PING PSUBSCRIBE PUBLISH PUBSUB "
    b"PUNSUBSCRIBE READONLY READWRITE RESET ROLE SCAN SELECT SUBSCRIBE TIME UNSUBSCRIBE UNWATCH WAIT".split()
)


def slot_of(packed: bytes) -> int | None:
    """The slot of a command, as it goes over the wire; None: it has no key."""
    # How many words there are; then each behind its length.
    words = packed[:_HEAD].split(b"\r\n")
    name = words[2].upper()
    if name == b"EVALSHA":
        return key_slot(words[8]) if words[6] != b"0" else None
    if name == b"EVAL":
        script = len(b"\r\n".join(words[:4])) + 2
        after = packed[script + int(words[3][1:]) + 2 :][:_HEAD].split(b"\r\n")
        return key_slot(after[3]) if after[1] != b"0" else None
    if name == b"XREAD":
        return key_slot(words[next(at for at, word in enumerate(words) if word.upper() == b"STREAMS") + 2])
    if name in _KEYLESS or len(words) < 6:
        return None
    return key_slot(words[4])


@dataclass
class Cluster(Guides):
    """Nodes of a Cluster, who know who owns which slot.

    Args:
        home: prefix of RQ's keys, with a hash tag.
        wants_shards: a task's messages are to be sharded, if the servers can do it.
    """

    home: str = ""
    wants_shards: bool = False
    #: They are, as far as is known.
    sharded: bool = False
    _starts: list[int] = field(default_factory=list)
    _owners: list[tuple[int, Node]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home_slot = key_slot(self.home.encode())

    def __str__(self) -> str:
        return f"Cluster {', '.join(f'{host}:{port}' for host, port in self.nodes)}"

    @property
    def title(self) -> str:
        return "node of a Cluster"

    @property
    def question(self) -> tuple[str, ...]:
        return "CLUSTER", "SLOTS"

    def read(self, reply: Any, node: Node) -> Node | None:
        found = []
        for first, last, master, *_ in reply:
            # A node that does not know its own address says nothing there: it is where it was asked.
            host = bytes(master[0] or b"").decode()
            found.append((int(first), int(last), (host if host not in {"", "?"} else node[0], int(master[1]))))
        found.sort()
        self._starts = [first for first, _, _ in found]
        self._owners = [(last, owner) for _, last, owner in found]
        home = self.owner(self.home_slot)
        if home is not None:
            others = [owner for _, owner in self._owners]
            self.nodes = tuple(dict.fromkeys((node, *others, *self.nodes)))
        return home

    def owner(self, slot: int) -> Node | None:
        """The node that was said to own a slot; None: nobody does."""
        place = bisect_right(self._starts, slot) - 1
        if place < 0 or self._owners[place][0] < slot:
            return None
        return self._owners[place][1]

    @property
    def masters(self) -> list[Node]:
        """Every node that owns slots."""
        return list(dict.fromkeys(owner for _, owner in self._owners))

    def ignorant(self, node: Node) -> str:
        return f"the node at {node[0]}:{node[1]} knows nobody who owns slot {self.home_slot}"

    def lost(self, reasons: Sequence[str]) -> str:
        return f"no node of the Cluster tells who owns which slot: {'; '.join(reasons)}"


class _Routing:
    """What both colours have in common."""

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
            self._lines[node] = self._make(node)
        return self._lines[node]

    def _make(self, node: Node) -> Any:
        raise NotImplementedError

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


class _Blocking(_Routing, Finding):
    """A connection that blocks."""

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        if self._cluster.wants_shards:
            self.send_command("COMMAND", "INFO", "SPUBLISH", check_health=False)  # type: ignore[attr-defined] # as below
            self._learn(self.read_response(disable_decoding=True))

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self._sock:  # type: ignore[attr-defined] # of the connection's class
            self.connect_check_health(check_health=False)  # type: ignore[attr-defined] # as before
        for line, batch in self._split(command).items():
            if line is self:
                super().send_packed_command([b"".join(batch)], check_health)  # type: ignore[misc] # as before
            else:
                line.send_packed_command([b"".join(batch)], check_health=False)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        replies = []
        for source in self._due.popleft() if self._due else (self,):
            read = super().read_response if source is self else source.read_response
            try:
                replies.append(read(*args, **kwargs))
            except ResponseError as exc:
                replies.append(exc)
        # The reply of one node, or the first refusal of several.
        refusals = [reply for reply in replies if isinstance(reply, ResponseError)]
        if refusals:
            raise refusals[0]
        return _joint(replies)

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        for line in self._forget():
            line.disconnect()
        super().disconnect(*args, **kwargs)  # type: ignore[misc] # of the connection's class


class _Line(Leaving, redis.Connection): ...


class _SSLLine(Leaving, redis.SSLConnection): ...


class ClusterConnection(_Blocking, redis.Connection):
    def _make(self, node: Node) -> Any:
        return _Line(**{**self._kwargs, "host": node[0], "port": node[1]})  # type: ignore[no-untyped-call]


class ClusterSSLConnection(_Blocking, redis.SSLConnection):
    def _make(self, node: Node) -> Any:
        return _SSLLine(**{**self._kwargs, "host": node[0], "port": node[1]})


class _Async(_Routing, AsyncFinding):
    """A connection for asyncio."""

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        if self._cluster.wants_shards:
            await self.send_command("COMMAND", "INFO", "SPUBLISH", check_health=False)  # type: ignore[attr-defined]
            self._learn(await self.read_response(disable_decoding=True))

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:  # type: ignore[attr-defined] # of the connection's class
            await self.connect_check_health(check_health=False)  # type: ignore[attr-defined] # as before
        for line, batch in self._split(command).items():
            if line is self:
                await super().send_packed_command([b"".join(batch)], check_health)  # type: ignore[misc] # as before
            else:
                await self._send_down(line, batch)

    async def _send_down(self, line: Any, batch: list[bytes]) -> None:
        """To another node. A line that is let go of while it connects would stay open, and nobody would know it."""
        try:
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
        refusals = [reply for reply in replies if isinstance(reply, ResponseError)]
        if any(map(is_elsewhere, refusals)):
            await self.disconnect(nowait=True)
        if refusals:
            raise refusals[0]
        return _joint(replies)

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        for line in self._forget():
            await line.disconnect(nowait=True)
        await super().disconnect(*args, **kwargs)  # type: ignore[misc] # of the connection's class


class _Sharded(_Async):
    """Listens at all nodes at once: for what is published where, and on the home node for the rest.

    Replies and messages come as they come, from whichever line.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._ears: dict[Any, asyncio.Task[None]] = {}
        self._introduced = False

    @property
    def sharded(self) -> bool:
        """Whether it has to be listened for sharded messages."""
        return self._cluster.sharded

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        self._introduced = True
        if self.sharded:
            self._due = deque(maxlen=0)  # nothing is due from anybody: each line is listened to

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        await super().send_packed_command(command, check_health)
        if self._introduced and self.sharded:
            for line in (self, *self._lines.values()):
                if line not in self._ears:
                    self._ears[line] = asyncio.create_task(self._hear(line), name="deltabus shard")

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if not self._ears:
            return await super().read_response(*args, **kwargs)
        heard = await self._heard.get()
        if isinstance(heard, Exception):
            raise heard
        return heard

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        ears, self._ears = list(self._ears.values()), {}
        for ear in ears:
            ear.cancel()
        self._heard = asyncio.Queue()
        self._introduced = False
        self._due = deque()
        await super().disconnect(*args, **kwargs)

    async def _hear(self, line: Any) -> None:
        read = super().read_response if line is self else line.read_response
        while True:
            try:
                self._heard.put_nowait(await read(disable_decoding=True))
            except Exception as exc:  # noqa: BLE001 # whoever reads gets it
                self._heard.put_nowait(exc)
                return


class _PlainLines:
    """Lines in the clear."""

    _kwargs: dict[str, Any]

    def _make(self, node: Node) -> Any:
        return AsyncConnection(**{**self._kwargs, "host": node[0], "port": node[1]})


class _SSLLines:
    """Lines with TLS."""

    _kwargs: dict[str, Any]

    def _make(self, node: Node) -> Any:
        return AsyncSSLConnection(**{**self._kwargs, "host": node[0], "port": node[1]})


class ShardedConnection(_PlainLines, _Sharded, redis.asyncio.Connection): ...


class ShardedSSLConnection(_SSLLines, _Sharded, redis.asyncio.SSLConnection): ...


class AsyncClusterConnection(_PlainLines, _Async, redis.asyncio.Connection):
    #: The kind that listens to channels.
    listener = ShardedConnection


class AsyncClusterSSLConnection(_SSLLines, _Async, redis.asyncio.SSLConnection):
    #: The kind that listens to channels.
    listener = ShardedSSLConnection
