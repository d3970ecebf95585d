"""A subscriber in a process of its own: follows tasks by the bus' own client, and says what that took.

    python -m sidebyside.follower '{"redis": …, "tasks": […], "buses": 1, "before": 1, "seconds": 4, "probes": 0}'

Each of `buses` follows all tasks on a connection of its own. With `probes`, it meanwhile sends so many tasks of its
own, and as many requests of its own to the provider at `direct`, by turns, and times the first chunk of each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import aclosing
from statistics import median
from typing import Any, Final

import aiohttp
import uvloop

from deltabus import AsyncBus, AsyncTask
from deltabus.events import Delta
from sidebyside.streaming import REQUEST

#: Latencies that are passed on: enough for a percentile.
KEPT: Final = 10_000


class Follower:
    """Counts what comes."""

    def __init__(self) -> None:
        self.deltas = 0
        self.latencies: list[float] = []
        self.is_open = False

    async def follow(self, task: AsyncTask) -> None:
        async for event in task.events():
            if isinstance(event, Delta):
                self.deltas += len(event.chunks)
                if self.is_open:
                    now = time.monotonic()
                    self.latencies += (now - at for at in map(written_at, event.chunks) if at)


def written_at(chunk: Any) -> float:
    """When the provider wrote it, in seconds; 0: it does not say."""
    text = chunk["choices"][0]["delta"].get("content") or ""
    return int(text[1:17]) / 1e6 if text.startswith("@") else 0.0


async def first_by_bus(bus: AsyncBus) -> float:
    """Seconds from a task's sending to its first chunk."""
    begun = time.monotonic()
    task = await bus.chat(REQUEST, queue="bench", timeout=600)
    async with aclosing(task.events()) as events:
        async for event in events:
            if isinstance(event, Delta):
                break
    seconds = time.monotonic() - begun
    await task.cancel()
    return seconds


async def first_directly(session: aiohttp.ClientSession, url: str) -> float:
    """Seconds from a request's sending to its first chunk."""
    begun = time.monotonic()
    async with session.post(f"{url}/chat/completions", json=REQUEST) as response:
        await response.content.readany()
        seconds = time.monotonic() - begun
        response.close()
    return seconds


async def probe(bus: AsyncBus, url: str, count: int) -> dict[str, float]:
    """Time first chunks."""
    by_bus, directly = [], []
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            by_bus.append(await first_by_bus(bus))
            directly.append(await first_directly(session, url))
    return {"first by bus": median(by_bus), "first directly": median(directly)} if count else {}


async def main() -> None:
    order = json.loads(sys.argv[1])
    follower = Follower()
    buses = [AsyncBus(order["redis"]) for _ in range(order["buses"])]
    following = [asyncio.create_task(follower.follow(bus.task(task))) for bus in buses for task in order["tasks"]]
    await asyncio.sleep(order["before"])
    follower.is_open = True
    deltas, cpu, begun = follower.deltas, time.process_time(), time.monotonic()
    await asyncio.sleep(order["seconds"])
    follower.is_open = False
    figures: dict[str, Any] = {
        "deltas": follower.deltas - deltas,
        "cpu": time.process_time() - cpu,
        "wall": time.monotonic() - begun,
        "latencies": sorted(follower.latencies)[:: len(follower.latencies) // KEPT + 1],
    }
    figures |= await probe(buses[0], order.get("direct", ""), order["probes"])
    print(json.dumps(figures), flush=True)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    for bus in buses:
        await bus.aclose()


if __name__ == "__main__":
    uvloop.run(main())
