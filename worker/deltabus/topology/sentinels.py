"""Sentinels, as those who are asked where the master is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltabus.topology.guides import Guides
from deltabus.topology.redisurl import Node


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
