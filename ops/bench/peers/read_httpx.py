"""Reads streams with httpx and its own transport."""

import httpx
import uvloop
from window import Window

BODY = {"model": "bench-model", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


async def read(client: httpx.AsyncClient, window: Window) -> None:
    async with client.stream("POST", f"{window.url}/chat/completions", json=BODY) as response:
        async for data in response.aiter_bytes():
            window.add(data)


async def main() -> None:
    window = Window()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None) as client:  # noqa: S113 # streams last as long as they do
        await window.measure(read(client, window) for _ in range(window.streams))


uvloop.run(main())
