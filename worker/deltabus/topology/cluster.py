"""A Redis Cluster, as its nodes tell of it: who owns which slot.

RQ works on a Cluster only where all of its keys lie in one slot, the home slot: `RQ_KEY_PREFIX` sees to that, with a
hash tag. The keys of a task have its id for a hash tag, so logs spread over all nodes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.crc import key_slot

from deltabus.topology.guides import Guides
from deltabus.topology.redisurl import Node


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
