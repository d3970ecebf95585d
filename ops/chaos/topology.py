"""The Redis of a run: one server, a master that Sentinels move, or a Cluster; and what can be done to each.

| topology   | what happens to it                                                                                    |
| ---------- | ----------------------------------------------------------------------------------------------------- |
| standalone | it restarts in good order, or is killed and comes back with what its append-only file has             |
| sentinel   | the master is moved as an operator does it, or killed; with its replicas level, see `sentinels`        |
| cluster    | a master, that of RQ's keys or one of only logs, is killed or hands over, and its replica takes over,  |
|            | level with it; a node restarts, or is killed and is back at once; slots move, RQ's own, too; a node    |
|            | comes, gets RQ's slot, gives it back, and leaves                                                       |
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

from chaos.history import Fault
from chaos.nodes import Nodes, port
from chaos.sentinels import SERVICE, SentinelSet
from deltabus.embedded import EmbeddedRedis

#: Redis forgets nothing that it has answered for, as only processes die here: what it has written, the system has. A
#: disk that is waited for at each write would have masters deposed that are up. The observer may be slow.
ARGUMENTS: Final = (
    *("--appendonly", "yes", "--appendfsync", "no"),
    *("--client-output-buffer-limit", "pubsub", "0", "0", "0"),
)

#: What is done to it: by the name of a card in the deck, what it is and how.
Strikes = Mapping[str, tuple[Fault, Callable[[], None]]]


class Topology(Protocol):
    """A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def ports(self) -> Sequence[int]:
        """Of everything that a client may have to reach, on the loopback interface."""

    def url(self, ports: Sequence[int]) -> str:
        """How clients are told of it, where they reach it by these ports instead."""

    @property
    def strikes(self) -> Strikes:
        """What can be done to it; each returns when it is whole again."""

    @property
    def moves(self) -> bool:
        """Whether what is published may be heard by nobody while that is done."""

    @property
    def servers(self) -> Sequence[EmbeddedRedis]:
        """Those that have the data between them at present."""


class Standalone:
    """One server."""

    moves = False

    def __init__(self, seed: int, folder: Path) -> None:
        self._server = EmbeddedRedis(args=ARGUMENTS)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def ports(self) -> Sequence[int]:
        return [port(self._server)]

    def url(self, ports: Sequence[int]) -> str:
        return f"redis://127.0.0.1:{ports[0]}/0"

    @property
    def strikes(self) -> Strikes:
        return {"restart": ("restart", self._server.restart), "crash": ("crash", self._crash)}

    @property
    def servers(self) -> Sequence[EmbeddedRedis]:
        return [self._server]

    def _crash(self) -> None:
        self._server.kill()
        self._server.start()


class Watched:
    """A master with two replicas, and three Sentinels."""

    moves = True

    def __init__(self, seed: int, folder: Path) -> None:
        self._set = SentinelSet(folder, ARGUMENTS)

    def __enter__(self) -> Self:
        self._set.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._set.__exit__()

    @property
    def ports(self) -> Sequence[int]:
        return [*map(port, self._set.servers), *(sentinel.port for sentinel in self._set.sentinels)]

    def url(self, ports: Sequence[int]) -> str:
        sentinels = ports[len(self._set.servers) :]
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in sentinels)}/{SERVICE}/0"

    @property
    def strikes(self) -> Strikes:
        return {"restart": ("failover", self._set.fail_over), "crash": ("crash", self._set.crash)}

    @property
    def servers(self) -> Sequence[EmbeddedRedis]:
        assert self._set.master is not None
        return [self._set.master]


class Clustered:
    """A Cluster of three masters with a replica each, and a node that comes and goes."""

    moves = True

    def __init__(self, seed: int, folder: Path) -> None:
        self._nodes = Nodes(ARGUMENTS, replicas=True, spares=1)
        self._dice = random.Random(f"nodes {seed}")  # noqa: S311 # it hides nothing
        self._rq = self._nodes.slot("{rq}")

    def __enter__(self) -> Self:
        self._nodes.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._nodes.__exit__()

    @property
    def ports(self) -> Sequence[int]:
        return [port(server) for server in self._nodes.servers]

    def url(self, ports: Sequence[int]) -> str:
        members = ports[: len(self._nodes.members)]
        return f"redis+cluster://{','.join(f'127.0.0.1:{port}' for port in members)}"

    @property
    def strikes(self) -> Strikes:
        return {
            "crash of RQ's master": ("failover", lambda: self._fail_over(self._rq, crash=True)),
            "crash of another master": ("failover", lambda: self._fail_over(self._slot_of_logs(), crash=True)),
            "handover": ("failover", lambda: self._fail_over(self._dice.choice([self._rq, self._slot_of_logs()]))),
            "crash": ("crash", self._crash),
            "move": ("move", self._move),
            "visit": ("move", self._visit),
        }

    @property
    def servers(self) -> Sequence[EmbeddedRedis]:
        return self._nodes.masters

    def _fail_over(self, slot: int, *, crash: bool = False) -> None:
        (self._nodes.crash if crash else self._nodes.fail_over)(slot)

    def _slot_of_logs(self) -> int:
        """A slot of a node that has no key of RQ's."""
        home = self._nodes.owner(self._rq)
        master = self._dice.choice([server for server in self._nodes.masters if server is not home])
        return next(
            slot for slot in iter(lambda: self._dice.randrange(16384), None) if self._nodes.owner(slot) is master
        )

    def _crash(self) -> None:
        server = self._dice.choice(self._nodes.members)
        if server in self._nodes.masters:
            self._nodes.level(server)  # should it be away for so long that its replica takes over
        if self._dice.random() < 0.5:  # either
            server.kill()
            server.start()
        else:
            server.restart()
        self._nodes.settle()

    def _move(self) -> None:
        for _ in range(50):
            self._nodes.move(self._dice.randrange(16384))
        if self._dice.random() < 0.5:  # either
            self._nodes.move(self._rq)

    def _visit(self) -> None:
        """A node comes, owns slots for a moment, and is gone."""
        guest, host = self._nodes.join(), self._nodes.owner(self._rq)
        slots = dict.fromkeys([self._rq, *self._dice.sample(range(16384), 20)])
        for slot in slots:
            self._nodes.move(slot, guest)
        for slot in slots:
            self._nodes.move(slot, host)
        self._nodes.leave(guest)


TOPOLOGIES: Final[Mapping[str, Callable[[int, Path], contextlib.AbstractContextManager[Topology]]]] = {
    "standalone": Standalone,
    "sentinel": Watched,
    "cluster": Clustered,
}
