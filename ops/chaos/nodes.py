"""A Redis Cluster: real processes, on ports of their own, and what operators do to one.

Replication is asynchronous here as with Sentinels, and what follows from it is the same: see `sentinels`.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from deltabus.embedded import EmbeddedRedis

#: Seconds that the nodes may take to agree, and between two looks.
PATIENCE: Final = 120.0
LOOK: Final = 0.02

#: How many masters there are.
SIZE: Final = 3

#: Milliseconds without an answer after which a node is held to be down, and its replica takes over. On a busy machine,
#: less than this deposes masters that are up and not level.
NODE_TIMEOUT: Final = 3000

#: Arguments of servers none of which is to be held to be down, however busy the machine.
PATIENT: Final = ("--cluster-node-timeout", "300000")

#: Milliseconds for which writes are paused at the most.
PAUSE: Final = 30_000

#: Milliseconds that a node may take to take over keys. Nobody could use a slot whose move is left half done.
MIGRATION: Final = 1000 * int(PATIENCE)

#: Keys that are moved at once.
PORTION: Final = 100

_Found = TypeVar("_Found")


class Nodes:
    """The processes; a context manager.

    Args:
        args: further arguments of the servers.
        replicas: whether each master has one.
        spares: servers that are up, and no part of the Cluster until they `join`.
    """

    def __init__(self, args: Sequence[str] = (), *, replicas: bool = False, spares: int = 0) -> None:
        cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT))
        # A master that leaves is to become nobody's replica, and each has its own.
        alone = ("--cluster-migration-barrier", "9")
        soon = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self._args = (*cluster, *alone, *soon, *args)
        self._stack = contextlib.ExitStack()
        self._count = SIZE * (1 + replicas)
        self._spares = spares
        self.servers: list[EmbeddedRedis] = []
        #: Those that are part of the Cluster.
        self.members: list[EmbeddedRedis] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for _ in range(self._count + self._spares):
                self.servers.append(stack.enter_context(EmbeddedRedis(args=self._args)))
            self._stack = stack.pop_all()
        self.members = self.servers[: self._count]
        try:
            self._meet()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """By which clients find all of them."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{port(server)}' for server in self.members)}"

    @property
    def masters(self) -> list[EmbeddedRedis]:
        """The members that own slots."""
        return [server for server in self.members if _slots(server, _name(server))]

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return key_slot(key.encode())

    def owner(self, slot: int) -> EmbeddedRedis:
        """The member that owns a slot."""
        owners = (server for server in self.members if slot in _slots(server, _name(server)))
        return _first(owners, f"no node owns slot {slot}")

    def replica(self, master: EmbeddedRedis) -> EmbeddedRedis:
        """The one that would take over from a master."""
        name = _name(master)
        views = (nodes for _, _, *nodes in ask(master, "CLUSTER", "SLOTS") if nodes[0][2] == name)
        taker = _first(views, "it owns no slots")[1][1]
        return _first((server for server in self.members if port(server) == taker), "it has no replica")

    def move(self, slot: int, target: EmbeddedRedis | None = None) -> None:
        """Move a slot, with its keys; without a target, to the next master."""
        if target is None:
            masters = self.masters
            target = masters[(masters.index(self.owner(slot)) + 1) % len(masters)]
        move = Move(self, slot, target)
        move.begin()
        while move.carry():
            pass
        move.end()

    def fail_over(self, slot: int) -> None:
        """As an operator does it: the replica of the slot's owner takes over, with all that was written."""
        new = self.replica(self.owner(slot))
        ask(new, "CLUSTER", "FAILOVER")
        self._until(lambda: slot in _slots(new, _name(new)), "no replica takes over")
        self.settle()

    def crash(self, slot: int) -> None:
        """Kill the slot's owner with its replica level, and bring it back as a replica of that."""
        old = self.owner(slot)
        new = self.replica(old)
        self.level(old)
        self.depose(old, new, slot)

    def level(self, master: EmbeddedRedis) -> None:
        """Pause writes until the replica of a master has what was written."""
        with redis.Redis.from_url(master.url, socket_timeout=PATIENCE) as client:
            client.client_pause(PAUSE, all=False)
            self._until(lambda: _is_level(client), "the replica does not come level")

    def depose(self, old: EmbeddedRedis, new: EmbeddedRedis, slot: int) -> None:
        """Kill a master, and bring it back when its replica, which may not have all, owns the slot instead."""
        old.kill()
        self._until(lambda: slot in _slots(new, _name(new)), "no replica takes over")
        old.start()
        self.settle()

    def join(self) -> EmbeddedRedis:
        """Make a server part of the Cluster, as a master without slots; the server."""
        server = _first((server for server in self.servers if server not in self.members), "there is no spare server")
        for other in self.members:
            ask(other, "CLUSTER", "MEET", "127.0.0.1", port(server))
        self.members.append(server)
        self.settle()
        return server

    def leave(self, server: EmbeddedRedis) -> None:
        """Take a master without slots out of the Cluster. Where its servers still think of it, it thinks of nobody."""
        name = _name(server)
        self.members.remove(server)
        for other in self.members:
            ask(other, "CLUSTER", "FORGET", name)
        # Hard, as it is to come back under another name: this one is banned for a minute.
        ask(server, "CLUSTER", "RESET", "HARD")
        self.settle()

    def settle(self) -> None:
        """Wait until all members know of all others and their slots, and replicas follow their masters."""
        self._until(self._is_settled, "the nodes of the Cluster do not agree")

    def _meet(self) -> None:
        share = REDIS_CLUSTER_HASH_SLOTS // SIZE + 1
        for number, server in enumerate(self.members):
            if number < SIZE:
                slots = range(share * number, min(share * (number + 1), REDIS_CLUSTER_HASH_SLOTS))
                ask(server, "CLUSTER", "ADDSLOTS", *slots)
            ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server, other in itertools.combinations(self.members, 2):
            ask(server, "CLUSTER", "MEET", "127.0.0.1", port(other))
        self._until(lambda: all(map(self._is_known, self.members)), "the nodes of the Cluster do not meet")
        for number, replica in enumerate(self.members[SIZE:]):
            ask(replica, "CLUSTER", "REPLICATE", _name(self.members[number]))
        self.settle()

    def _is_known(self, server: EmbeddedRedis) -> bool:
        known = {line.split()[0] for line in ask(server, "CLUSTER", "NODES").splitlines()}
        return known == set(map(_name, self.members))  # else it has the passing name of one that it is yet to meet

    def _is_settled(self) -> bool:
        views, replicas = set(), set()
        for server in self.members:
            if "cluster_state:ok" not in ask(server, "CLUSTER", "INFO") or not self._is_known(server):
                return False
            slots = ask(server, "CLUSTER", "SLOTS")
            views.add(tuple(sorted(_names(first, last, *nodes) for first, last, *nodes in slots)))
            kind, *where = ask(server, "ROLE")
            if kind == "slave":
                if where[2] != "connected":
                    return False
                replicas.add(_name(server))
        return len(views) == 1 and replicas <= {word for view in views for words in view for word in words}

    def _until(self, holds: Callable[[], object], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.BusyLoadingError):  # a replica that gets all of its master's data
                if holds():
                    return
            time.sleep(LOOK)
        raise TimeoutError(otherwise)


class Move:
    """The steps in which a slot goes to another node, as `redis-cli --cluster reshard` takes them.

    Args:
        target: the node that is to own it.
    """

    def __init__(self, nodes: Nodes, slot: int, target: EmbeddedRedis) -> None:
        self._nodes = nodes
        self._slot = slot
        self.source, self.target = nodes.owner(slot), target

    def begin(self) -> None:
        """From now on, keys that are not there are asked for at the target (`ASK`)."""
        ask(self.target, "CLUSTER", "SETSLOT", self._slot, "IMPORTING", _name(self.source))
        ask(self.source, "CLUSTER", "SETSLOT", self._slot, "MIGRATING", _name(self.target))

    def carry(self, count: int = PORTION) -> int:
        """Move some keys; how many. Where some are here and some are there, nobody gets both (`TRYAGAIN`)."""
        found = ask(self.source, "CLUSTER", "GETKEYSINSLOT", self._slot, count)
        if found:
            ask(self.source, "MIGRATE", "127.0.0.1", port(self.target), "", 0, MIGRATION, "KEYS", *found)
        return len(found)

    def end(self) -> None:
        """From now on, the slot is the target's (`MOVED`)."""
        name = _name(self.target)
        for server in dict.fromkeys((self.target, self.source, *self._nodes.masters)):
            # Who has given its last slot away may be the target's replica by now.
            if ask(server, "ROLE")[0] == "master":
                ask(server, "CLUSTER", "SETSLOT", self._slot, "NODE", name)


def _first(found: Iterable[_Found], otherwise: str) -> _Found:
    """The first of them. None is an error; not StopIteration, which does not come out of a thread."""
    for each in found:
        return each
    raise LookupError(otherwise)


def _name(server: EmbeddedRedis) -> str:
    """By which the Cluster knows a server."""
    return str(ask(server, "CLUSTER", "MYID"))


def _slots(server: EmbeddedRedis, name: str) -> set[int]:
    """What a server says that the one of this name owns."""
    ranges = [range(first, last + 1) for first, last, owner, *_ in ask(server, "CLUSTER", "SLOTS") if owner[2] == name]
    return set().union(*ranges)


def _names(first: int, last: int, owner: Any, *replicas: Any) -> tuple[Any, ...]:
    """Slots, and the names of those who have them."""
    return first, last, owner[2], *sorted(node[2] for node in replicas)


def _is_level(client: redis.Redis) -> bool:
    """Whether there are replicas, and they have all that the master has written."""
    info = client.info("replication")
    replicas = [value for key, value in info.items() if key.startswith("slave") and isinstance(value, dict)]
    return bool(replicas) and all(replica["offset"] == info["master_repl_offset"] for replica in replicas)


def port(server: EmbeddedRedis) -> int:
    """The port of a server."""
    found = urlsplit(server.url).port
    assert found is not None
    return found


def ask(server: EmbeddedRedis, *command: Any) -> Any:
    """What a server answers to a command; a dictionary where it answers so, as text."""
    with redis.Redis.from_url(server.url, decode_responses=True, protocol=2, socket_timeout=2 * PATIENCE) as client:
        connection = client.connection_pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            client.connection_pool.release(connection)
