"""A TCP proxy between one process and Redis: what passes can be seen, held back, lost, delayed or cut.

It knows deltabus' steps by the hashes of their scripts, as they go over the wire. So a process can be struck at a
named point, to the command, without knowing of it: right before a command reaches Redis, or after Redis has
carried it out and before the process hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Self

from deltabus.scripts import APPEND, BEGIN, FINISH, SEAL, TAKE
from deltabus.testing.door import settle, shut
from deltabus.topology.clusterscripts import meant

#: Bytes read at once.
_PORTION: Final = 1 << 18

#: Longest piece of a point's sign, so that one which is cut in two is found.
_OVERLAP: Final = 200


@dataclass(frozen=True, slots=True)
class Point:
    """A moment between two steps of a worker."""

    #: Signs in what the worker sends, all of which must be there.
    signs: tuple[bytes, ...]
    #: True: strike when Redis has done it and the worker has not heard. False: before Redis has heard of it.
    done: bool
    #: Sign in Redis' answer that is waited for, where not every answer counts.
    answer: bytes = b""


#: The named points. What a worker does for a job, in order: take (which starts it), begin, append…, seal, book its end.
POINTS: Final[Mapping[str, Point]] = {
    # Every job hash has this field; an answer without any holds none.
    "after the take": Point((TAKE.sha,), done=True, answer=b"created_at"),
    "before begin": Point((BEGIN.sha,), done=False),
    "after begin": Point((BEGIN.sha,), done=True),
    "before a delta": Point((APPEND.sha,), done=False),
    "after a delta": Point((APPEND.sha,), done=True),
    "before the seal": Point((SEAL.sha,), done=False),
    "between the seal and the bookkeeping": Point((SEAL.sha,), done=True),
    "before the end is booked": Point((FINISH.sha,), done=False),
    "after the end is booked": Point((FINISH.sha,), done=True),
}


class Then(Enum):
    """What becomes of that which was under way when a trap was sprung."""

    #: It is lost, with its connection.
    LOSE = auto()
    #: It is held until `Proxy.resume`, with everything else that comes, and then goes on.
    HOLD = auto()


class Trap:
    """Springs once, when a point is reached.

    Args:
        strike: called in that very moment.
    """

    def __init__(self, point: Point, strike: Callable[[], None], then: Then) -> None:
        self.point = point
        self.then = then
        self.sprung = asyncio.Event()
        self._strike = strike

    def spring(self) -> None:
        """The point is reached."""
        self.sprung.set()
        self._strike()


#: By which a process asks where servers are, as they go over the wire; on connections on which it asks nothing else.
_QUESTIONS: Final = (b"\r\nGET-MASTER-ADDR-BY-NAME\r\n", b"\r\nCLUSTER\r\n$5\r\nSLOTS\r\n")


def _first(ports: Sequence[int]) -> str:
    return f"redis://127.0.0.1:{ports[0]}/0"


def _number(port: int) -> bytes:
    """A port as nodes of a Cluster write it."""
    return b"\r\n127.0.0.1\r\n:%d\r\n" % port


def _text(port: int) -> bytes:
    """A port as Sentinels write it, with its length before it."""
    return b"$%d\r\n%d\r\n" % (len(str(port)), port)


class Proxy:
    """One process' way to Redis; an async context manager.

    Args:
        ports: of the servers, on the loopback interface. Each gets a door. Where servers tell of each other, the
            process is told of their doors.
        url: what the process is told to be Redis, by the ports of the doors.
    """

    def __init__(self, *ports: int, url: Callable[[Sequence[int]], str] = _first) -> None:
        self._targets = ports
        self._url = url
        self._doors: list[asyncio.Server] = []
        #: What stands for a port where servers tell of each other, and for the door's port instead.
        self._spellings: list[tuple[bytes, bytes]] = []
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.trap: Trap | None = None
        #: The worker has asked for jobs.
        self.works = False
        #: Seconds by which everything is delayed.
        self.delay = 0.0

    async def __aenter__(self) -> Self:
        for target in self._targets:
            accept = functools.partial(self._accept, target)
            self._doors.append(await asyncio.start_server(accept, "127.0.0.1", 0, limit=_PORTION))
        for target, door in zip(self._targets, self._ports, strict=True):
            # As a number behind its host, where slots are numbers too, and as text.
            self._spellings += [(_number(target), _number(door)), (_text(target), _text(door))]
        return self

    async def __aexit__(self, *_: object) -> None:
        for door in self._doors:
            await shut(door)
        self._open.set()
        await settle()  # who was held at a door is a link by then
        self.cut()
        await asyncio.gather(*(link.ended.wait() for link in self._links))
        await settle()

    @property
    def url(self) -> str:
        """What the process is told to be Redis."""
        return self._url(self._ports)

    @property
    def _ports(self) -> list[int]:
        return [door.sockets[0].getsockname()[1] for door in self._doors]

    def cut(self) -> None:
        """Reset all connections. What is under way is lost, or not, as it happens."""
        for link in list(self._links):
            link.cut()

    def hold(self) -> None:
        """Let nothing through any more, and say nothing: a partition."""
        self._open.clear()

    def silence(self) -> None:
        """Let nothing through any more on the connections that there are, and say nothing; new ones work."""
        for link in self._links:
            link.silent = True

    def resume(self) -> None:
        """Let everything through that was held, and what comes."""
        self._open.set()

    async def _accept(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run(target)
        finally:
            self._links.discard(link)
            link.ended.set()

    def _respelled(self, data: bytes) -> bytes:
        """An answer about where servers are, with their doors instead."""
        for server, door in self._spellings:
            data = data.replace(server, door)
        return data

    async def _pass(self) -> None:
        """Wait until something may pass."""
        if self.delay:
            await asyncio.sleep(self.delay)
        await self._open.wait()

    def _strikes(self, trap: Trap) -> bool:
        """Spring a trap. Returns whether what is under way is lost."""
        self.trap = None
        if trap.then is Then.HOLD:
            self.hold()
        trap.spring()
        return trap.then is Then.LOSE


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = reader, writer
        self._writers = [writer]
        self.ended = asyncio.Event()
        #: Nothing passes any more.
        self.silent = False
        #: A trap whose command has passed: it springs at the answer.
        self._awaited: Trap | None = None
        #: Where servers are was asked on it.
        self._asks = False

    async def run(self, port: int) -> None:
        try:
            server = await asyncio.open_connection("127.0.0.1", port, limit=_PORTION)
        except OSError:  # Redis is away
            self.cut()
            return
        self._writers.append(server[1])
        pumps = [
            asyncio.create_task(self._pump(self._client[0], server[1], self._sends)),
            asyncio.create_task(self._pump(server[0], self._client[1], self._hears)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            self.cut()
            await asyncio.gather(*pumps, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: Callable[[bytes, bytes], bool]
    ) -> None:
        with contextlib.suppress(OSError):
            before = b""
            while data := await reader.read(_PORTION):
                if loses(before, data):
                    return
                before = meant(data[-_OVERLAP:])
                await self._proxy._pass()  # noqa: SLF001 # a part of it
                if self.silent:
                    continue
                writer.write(self._proxy._respelled(data) if self._asks else data)  # noqa: SLF001
                await writer.drain()

    def _sends(self, before: bytes, data: bytes) -> bool:
        """The process sends this. Returns whether it is lost."""
        self._asks = self._asks or any(question in data for question in _QUESTIONS)
        data = meant(data)
        self._proxy.works = self._proxy.works or TAKE.sha in data
        trap = self._proxy.trap
        if trap is None or not _has(before, data, trap.point.signs):
            return False
        if not trap.point.done:
            return self._proxy._strikes(trap)  # noqa: SLF001
        self._awaited = trap
        return False

    def _hears(self, before: bytes, data: bytes) -> bool:
        """Redis answers this. Returns whether it is lost."""
        trap, self._awaited = self._awaited, None
        if trap is None or trap is not self._proxy.trap or trap.point.answer not in data:
            return False
        return self._proxy._strikes(trap)  # noqa: SLF001


def _has(before: bytes, data: bytes, signs: tuple[bytes, ...]) -> bool:
    """Whether the signs are in what has come, the last of them not before it came."""
    both = before + data
    places = [both.rfind(sign) for sign in signs]
    ends = [place + len(sign) for place, sign in zip(places, signs, strict=True)]
    return min(places) >= 0 and max(ends) > len(before)
