"""Reads streams with aiohttp alone: what any client in Python has to do at least."""

import aiohttp
import uvloop
from window import Window

BODY = {"model": "bench-model", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


async def read(session: aiohttp.ClientSession, window: Window) -> None:
    async with session.post(f"{window.url}/chat/completions", json=BODY) as response:
        async for data in response.content.iter_any():
            window.add(data)


async def main() -> None:
    window = Window()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        await window.measure(read(session, window) for _ in range(window.streams))


uvloop.run(main())
