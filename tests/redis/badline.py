"""A line to Redis with faults."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from bench import Bench, bench

from deltabus.testing.door import settle, shut


class BadLine:
    """A line to Redis with faults: what the server answers can be held back, and the line cut."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._target = (where.hostname, where.port)
        self._lines: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        #: The next reply is swallowed, and the line cut.
        self.lose_replies = False
        self.cut = asyncio.Event()
        self._dead: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> str:
        def serve(*line: Any) -> None:
            task = asyncio.ensure_future(self._serve(*line))
            self._served.add(task)
            task.add_done_callback(self._served.discard)

        self._ended = False
        self._server = await asyncio.start_server(serve, "127.0.0.1", port)
        host, self.port = self._server.sockets[0].getsockname()
        return f"redis://{host}:{self.port}/0"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        ends = {writer, up_writer}
        self._lines |= ends
        if self._ended:
            self.cut_all()

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
            try:
                while data := await source.read(65536):
                    if replies and self.lose_replies:
                        self.lose_replies = False
                        break
                    if sink in self._dead:
                        continue
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                for end in ends:
                    end.close()

        await asyncio.gather(pump(reader, up_writer, replies=False), pump(up_reader, writer, replies=True))
        self._lines -= ends
        self.cut.set()

    def die(self) -> None:
        """Nothing comes through any more, and nobody is told; whoever connects anew gets a new line."""
        self._dead |= self._lines

    def reset_all(self) -> None:
        """All lines are reset, as by a host that has forgotten them; whoever connects anew gets a new one."""
        for line in self._lines:
            at_once = struct.pack("ii", 1, 0)
            line.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            line.transport.abort()

    def cut_all(self) -> None:
        """All lines are closed; whoever connects anew gets a new one."""
        for line in self._lines:
            line.close()

    async def stop(self) -> None:
        assert self._server is not None
        await shut(self._server)
        await settle()
        self._ended = True
        self.cut_all()
        await asyncio.gather(*self._served)
        await settle()


@asynccontextmanager
async def over_bad_line(
    url: str, *, whose: Literal["log", "bus"] = "log", **settings: Any
) -> AsyncIterator[tuple[Bench, BadLine]]:
    """A bench of which log or bus has nothing but that line."""
    line = BadLine(url)
    where = {f"{whose}_url": await line.start()}
    try:
        async with bench(url, **where, **settings) as b:
            yield b, line
    finally:
        await line.stop()
