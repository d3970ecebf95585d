"""A provider that costs next to nothing: one asyncio protocol, no HTTP library, chunks of some 250 bytes.

    python -m sidebyside.provider          prints its port, and serves until its standard input ends

The path says what is wanted, `/<streams>/<chunks>/<microseconds>/v1/chat/completions`: every stream gets its headers
and its first chunk at once, and the others, so many and so far apart, as soon as that many streams are open. So a
window that is measured holds streams only, and nobody's way of opening them. Each chunk says when it was written, on
the clock that all processes of a machine share. `GET /stats` counts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

import uvloop

#: Seconds between two looks at what is due.
TICK: Final = 0.001

#: Seconds that the schedule may be behind until it is given up: a machine that is too slow is not flooded later.
LATEST: Final = 0.5

#: Digits of the microseconds in a chunk.
DIGITS: Final = 16

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"Cache-Control: no-cache\r\nx-request-id: req_bench\r\n\r\n"
)
_BEFORE: Final = (
    b'data: {"id":"chatcmpl-0123456789abcdefghij","object":"chat.completion.chunk","created":1763777777,'
    b'"model":"bench-model","service_tier":"default","system_fingerprint":"fp_44709d6fcb","choices":[{"index":0,'
    b'"delta":'
)


def event(delta: bytes, finish_reason: bytes = b"null") -> bytes:
    """A chunk of a completion as an event, in a chunk of HTTP's."""
    return framed(_BEFORE + delta + b',"logprobs":null,"finish_reason":' + finish_reason + b"}]}\n\n")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_FIRST: Final = event(b'{"role":"assistant","content":""}')
_LAST: Final = event(b"{}", b'"stop"') + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_HEADWORD, _TAILWORD = event(b'{"content":"@%b@ word"}' % (b"0" * DIGITS)).split(b"0" * DIGITS)


class Cohort:
    """The streams of one path: they begin together, and share one clock."""

    def __init__(self, provider: Provider, wanted: int, chunks: int, interval: float) -> None:
        self._provider = provider
        self._wanted = wanted
        self._ticks: list[dict[Connection, int]] = [{} for _ in range(max(1, round(interval / TICK)))]
        self._chunks = chunks
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def join(self, stream: Connection) -> None:
        tick = self._count * 7919 % len(self._ticks)  # a prime: neighbours are far apart
        stream.tick = self._ticks[tick]
        stream.tick[stream] = self._chunks
        self._count += 1
        if self._task is None and sum(map(len, self._ticks)) >= self._wanted:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        clock = time.monotonic
        due = clock()
        while any(self._ticks):
            for tick in self._ticks:
                due += TICK
                if (wait := due - clock()) > 0:
                    await asyncio.sleep(wait)
                else:
                    await asyncio.sleep(0)
                    due = max(due, clock() - LATEST)
                for stream, left in list(tick.items()):
                    if stream.is_paused:
                        continue
                    if left == 0:
                        del tick[stream]
                        stream.finish()
                        continue
                    tick[stream] = left - 1
                    stream.write(_HEADWORD + b"%016d" % (time.monotonic_ns() // 1000) + _TAILWORD)
                    self._provider.written += 1
        self._task = None


class Connection(asyncio.Protocol):
    """One client; it asks once or several times."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._received = b""
        self.tick: dict[Connection, int] = {}
        self.is_paused = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            return
        self._received = b""
        path = head.split(b" ", 2)[1].decode()
        if path == "/stats":
            self._say(json.dumps(self._provider.stats()).encode())
            return
        self._provider.begun += 1
        self.write(_HEAD + _FIRST)
        self._provider.cohort(path).join(self)

    def finish(self) -> None:
        self.tick = {}
        self._provider.ended += 1
        self.write(_LAST)

    def connection_lost(self, error: Exception | None) -> None:
        if self.tick.pop(self, None) is not None:
            self._provider.ended += 1

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False

    def _say(self, body: bytes) -> None:
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )


class Provider:
    """The server."""

    def __init__(self) -> None:
        self._cohorts: dict[str, Cohort] = {}
        self.begun = 0
        self.ended = 0
        self.written = 0

    def stats(self) -> dict[str, int]:
        return {"open": self.begun - self.ended, "begun": self.begun, "written": self.written}

    def cohort(self, path: str) -> Cohort:
        if path not in self._cohorts:
            streams, chunks, micros = map(int, path.split("/")[1:4])
            self._cohorts[path] = Cohort(self, streams, chunks, micros / 1e6)
        return self._cohorts[path]


async def main() -> None:
    loop = asyncio.get_running_loop()
    provider = Provider()
    server = await loop.create_server(lambda: Connection(provider), "127.0.0.1", 0, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(main())
