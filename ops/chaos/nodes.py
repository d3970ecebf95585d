"""A Redis Cluster of three masters: real processes, on ports of their own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import urlsplit

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from deltabus.embedded import EmbeddedRedis

#: Seconds that the nodes may take to agree, and between two looks.
PATIENCE: Final = 30.0
LOOK: Final = 0.02

#: How many nodes there are.
SIZE: Final = 3


class Nodes:
    """The three processes; a context manager.

    Args:
        args: further arguments of the servers.
    """

    def __init__(self, args: Sequence[str] = ()) -> None:
        self._args = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000", *args)
        self._stack = contextlib.ExitStack()
        self.servers: list[EmbeddedRedis] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.servers = [stack.enter_context(EmbeddedRedis(args=self._args)) for _ in range(SIZE)]
            self._stack = stack.pop_all()
        try:
            self._join()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """By which clients find all of them."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{port(server)}' for server in self.servers)}"

    def _join(self) -> None:
        share = REDIS_CLUSTER_HASH_SLOTS // SIZE + 1
        first = self.servers[0]
        for number, server in enumerate(self.servers):
            slots = range(share * number, min(share * (number + 1), REDIS_CLUSTER_HASH_SLOTS))
            ask(server, "CLUSTER", "ADDSLOTS", *slots)
            ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if server is not first:
                ask(server, "CLUSTER", "MEET", "127.0.0.1", port(first))
        self.settle()

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return key_slot(key.encode())

    def move(self, slot: int) -> None:
        """Move a slot to the next node, with its keys, as `redis-cli --cluster reshard` does it."""
        ids = [ask(server, "CLUSTER", "MYID") for server in self.servers]
        owner = next(number for number, server in enumerate(self.servers) if _owns(server, ids[number], slot))
        target = (owner + 1) % SIZE
        ask(self.servers[target], "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
        ask(self.servers[owner], "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        while found := ask(self.servers[owner], "CLUSTER", "GETKEYSINSLOT", slot, 100):
            ask(self.servers[owner], "MIGRATE", "127.0.0.1", port(self.servers[target]), "", 0, 5000, "KEYS", *found)
        for number in (target, owner, *range(SIZE)):
            ask(self.servers[number], "CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    def settle(self) -> None:
        """Wait until all nodes know of all others and their slots."""
        deadline = time.monotonic() + PATIENCE
        while not all(self._is_settled(server) for server in self.servers):
            if time.monotonic() > deadline:
                raise TimeoutError("the nodes of the Cluster do not agree")
            time.sleep(LOOK)

    def _is_settled(self, server: EmbeddedRedis) -> bool:
        said = ask(server, "CLUSTER", "INFO")
        return f"cluster_known_nodes:{SIZE}" in str(said) and "cluster_state:ok" in str(said)


def _owns(server: EmbeddedRedis, name: str, slot: int) -> bool:
    """Whether the server, which has this name in the Cluster, says that it owns a slot."""
    return any(first <= slot <= last and owner[2] == name for first, last, owner, *_ in ask(server, "CLUSTER", "SLOTS"))


def port(server: EmbeddedRedis) -> int:
    """The port of a server."""
    found = urlsplit(server.url).port
    assert found is not None
    return found


def ask(server: EmbeddedRedis, *command: Any) -> Any:
    """What a server answers to a command; a dictionary where it answers so, as text."""
    with redis.Redis.from_url(server.url, decode_responses=True, protocol=2) as client:
        connection = client.connection_pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            client.connection_pool.release(connection)
