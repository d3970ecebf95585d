"""What is done to a run: workers killed, frozen, cut off and drained, Redis restarted, connections cut or dead."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from chaos.fleet import LEASE, Fleet, Worker
from chaos.history import Fault, Incident
from chaos.proxy import POINTS, Proxy, Then, Trap
from chaos.subscribers import Observer
from chaos.topology import Topology

#: Seconds from one fault to the next, on average.
INTERVAL: Final = 1.0

#: Seconds after which the next fault comes where one has met nobody whom it may strike.
AGAIN: Final = 0.1

#: Seconds that a named point may take to be reached.
PATIENCE: Final = 4.0

#: Seconds after which a frozen or cut off worker comes back: its lease has long run out.
ABSENCE: Final = (LEASE * 1.5, LEASE * 2.5)

#: Seconds by which a slow Redis is slow, and for how long.
SLOWNESS: Final = (0.3, 3.0)

#: How often each fault comes, in a deck that is dealt out and shuffled anew. At "redis", something else comes each time
#: of all that can be done to it.
_DECK: Final[Mapping[str, int]] = {
    "kill at a point": 5,
    "kill": 2,
    "freeze": 2,
    "freeze at a point": 2,
    "partition": 2,
    "silence": 1,
    "drain": 3,
    "cut": 2,
    "cut at a point": 3,
    "slow": 1,
    "redis": 2,
}

#: What a run begins with: even a short one has everything once, and a kill at each of these points.
_FIRST_KILLS: Final = (
    "after the take",
    "before begin",
    "before a delta",
    "before the seal",
    "between the seal and the bookkeeping",
)
_FIRST_DECK: Final[Mapping[str, int]] = dict.fromkeys(_DECK, 1) | {
    "kill at a point": len(_FIRST_KILLS),
    "redis": _DECK["redis"],
}


class Injector:
    """Strikes at random, by the seed.

    Args:
        clients: the proxy by which producers and subscribers reach Redis.
        observer: does not listen while what is published may be heard by nobody.
    """

    def __init__(self, seed: int, fleet: Fleet, redis: Topology, clients: Proxy, observer: Observer) -> None:
        self._dice = random.Random(f"faults {seed}")  # noqa: S311 # it hides nothing
        self._fleet = fleet
        self._redis = redis
        self._clients = clients
        self._observer = observer
        #: Points still to be struck, by fault; the last comes first.
        self._points: dict[Fault, list[str]] = {"kill": self._shuffled(_FIRST_KILLS)}
        self._one_restart = asyncio.Lock()
        #: What is still to be done to Redis before anything is done to it twice.
        self._strikes: list[str] = []
        self.incidents: list[Incident] = []

    async def run(self, seconds: float) -> None:
        """Strike for so many seconds; all that was struck has come back when this returns.

        Raises:
            ExceptionGroup: something could not be done, or not be undone.
        """
        faults: dict[str, Callable[[], Awaitable[bool]]] = {
            "kill at a point": lambda: self._trap("kill"),
            "kill": self._kill,
            "freeze": self._freeze,
            "freeze at a point": lambda: self._trap("freeze"),
            "partition": self._partition,
            "silence": self._silence,
            "drain": self._drain,
            "cut": self._cut,
            "cut at a point": lambda: self._trap("cut"),
            "slow": self._slow,
            "redis": self._strike,
        }
        end = time.monotonic() + seconds
        deck = self._shuffled(_cards(_FIRST_DECK))

        async def strike(name: str) -> bool:
            struck = await faults[name]()
            if not struck:
                deck.insert(0, name)
            return struck

        async with asyncio.TaskGroup() as under_way:
            while (left := end - time.monotonic()) > 0:
                if not deck:
                    deck += self._shuffled(_cards(_DECK))
                task = under_way.create_task(strike(deck.pop()))
                await asyncio.wait([task], timeout=0)
                missed = task.done() and not task.result()
                await asyncio.sleep(min(left, AGAIN if missed else self._dice.uniform(0.5, 1.5) * INTERVAL))

    # Each returns whether there was anybody to strike.

    async def _kill(self) -> bool:
        if (worker := self._choose()) is None:
            return False
        self._note("kill", worker)
        worker.kill()
        return True

    async def _freeze(self) -> bool:
        if (worker := self._choose(absent=True)) is None:
            return False
        self._note("freeze", worker)
        worker.signal(signal.SIGSTOP)
        await self._comes_back(worker)
        return True

    async def _partition(self) -> bool:
        """Nothing reaches Redis, or comes from there; the worker, and its provider, go on."""
        if (worker := self._choose(absent=True)) is None:
            return False
        self._note("partition", worker)
        worker.proxy.hold()
        await self._comes_back(worker)
        return True

    async def _silence(self) -> bool:
        """Connections go dead without a word, as when an address moves, and new ones work: a worker's, or everybody's
        who produces and subscribes.
        """
        if self._dice.random() < 0.25:
            self._note("silence")
            self._clients.silence()
        elif (worker := self._choose(absent=True)) is None:
            return False
        else:
            self._note("silence", worker)
            worker.proxy.silence()
            await self._comes_back(worker)
        return True

    async def _drain(self) -> bool:
        if (worker := self._choose()) is None:
            return False
        self._note("drain", worker)
        await self._fleet.replace(worker)
        worker.leave()
        return True

    async def _slow(self) -> bool:
        if (worker := self._choose()) is None:
            return False
        self._note("slow", worker)
        worker.proxy.delay, seconds = SLOWNESS
        await asyncio.sleep(seconds)
        worker.proxy.delay = 0.0
        worker.struck = False
        return True

    async def _cut(self) -> bool:
        """Every connection of a worker, or of all producers and subscribers."""
        worker = self._choose() if self._dice.random() < 0.5 else None
        self._note("cut", worker)
        (worker.proxy if worker else self._clients).cut()
        if worker:
            worker.struck = False
        return True

    async def _strike(self) -> bool:
        """Do something to Redis itself."""
        async with self._one_restart:
            if not self._strikes:
                self._strikes += self._shuffled(self._redis.strikes)
            fault, how = self._redis.strikes[self._strikes.pop()]
            if self._redis.moves:
                await self._observer.pause()
            incident = self._note(fault)
            await asyncio.to_thread(how)
            incident.until = time.time()
            if self._redis.moves:
                await self._observer.start()
        return True

    async def _trap(self, fault: Fault) -> bool:
        """Strike when a worker reaches a named point."""
        if (worker := self._choose(absent=fault == "freeze")) is None:
            return False
        points = self._points.setdefault(fault, [])
        if not points:
            points += self._shuffled(POINTS)
        name = points.pop()

        def strike() -> None:
            self._note(fault, worker, name)
            if fault == "kill":
                worker.kill()
            elif fault == "freeze":
                worker.signal(signal.SIGSTOP)
            else:
                worker.proxy.cut()

        trap = Trap(POINTS[name], strike, Then.HOLD if fault == "freeze" else Then.LOSE)
        worker.proxy.trap = trap
        try:
            async with asyncio.timeout(PATIENCE):
                await trap.sprung.wait()
        except TimeoutError:
            worker.proxy.trap = None
        if not trap.sprung.is_set():
            points.append(name)
        elif fault == "freeze":
            await self._comes_back(worker)
        worker.struck = worker.killed
        return trap.sprung.is_set()

    async def _comes_back(self, worker: Worker) -> None:
        await asyncio.sleep(self._dice.uniform(*ABSENCE))
        worker.signal(signal.SIGCONT)
        worker.proxy.resume()
        worker.struck = False

    def _choose(self, *, absent: bool = False) -> Worker | None:
        """A worker at work that nobody strikes; None: there is none at the moment.

        Args:
            absent: it will be away and not replaced. Somebody must be left to take over, as how soon is measured.
        """
        fit = [
            worker
            for worker in self._fleet.workers
            if worker.proxy.works and not (worker.struck or worker.asked or worker.gone)
        ]
        if len(fit) <= absent:
            return None
        worker = self._dice.choice(fit)
        worker.struck = True
        return worker

    def _note(self, fault: Fault, worker: Worker | None = None, point: str = "") -> Incident:
        name = worker.name if worker else ""
        incident = Incident(fault=fault, at=time.time(), worker=name, point=point)
        self.incidents.append(incident)
        return incident

    def _shuffled(self, what: Iterable[str]) -> list[str]:
        names = list(what)
        self._dice.shuffle(names)
        return names


def _cards(deck: Mapping[str, int]) -> list[str]:
    return [fault for fault, count in deck.items() for _ in range(count)]
