"""Streams through the bus and through its peers, and what a window of them costs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sidebyside.process import Process, wait_until
from sidebyside.redismeter import Counter, cost
from sidebyside.sample import OURS
from sidebyside.stage import PATIENCE, Stage

#: Seconds after the first delta that are not measured.
WARM_UP: Final = 1.0

#: Those who only read, or read and publish: environment and program.
READERS: Final = {
    "bare aiohttp": ("readers", "read_aiohttp.py"),
    "bare httpx": ("readers", "read_httpx.py"),
    "SDK + PUBLISH": ("openai", "sdk_publish.py"),
}

REQUEST: Final = {"model": "bench-model", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


@dataclass(frozen=True, slots=True)
class Window:
    """What happened in it."""

    deltas: int
    seconds: float
    #: Of the worker, or of the program that reads.
    cpu: float
    #: Bytes in memory at its end.
    memory: int
    #: What Redis did; empty where nothing was asked of it.
    redis: dict[str, float]
    #: Seconds from a delta's writing to its reading, of some of them; only of programs that measure themselves.
    latencies: list[float]


@contextmanager
def streaming(stage: Stage, streams: int, rate: float, *, spare: int = 0) -> Iterator[Process]:
    """A worker of ours that has so many streams open, which say so many deltas a second each, and `spare` slots."""
    stage.clear()
    url = stage.provider_url(streams, rate=rate)
    with stage.worker("bench", "--concurrency", str(streams + spare), url=url) as process:
        with stage.bus() as bus:
            bus.chat_many([REQUEST] * streams, queue="bench", timeout=3600)
        wait_until(
            lambda: stage.provider_stats()["open"] >= streams,
            PATIENCE,
            what=f"{streams} streams are open",
            process=process,
        )
        yield process


def window(stage: Stage, contender: str, streams: int, rate: float, seconds: float) -> Window:
    """So many streams, for so many seconds."""
    if contender == OURS:
        with streaming(stage, streams, rate) as process, Counter(stage.redis_url) as counter:
            wait_until(lambda: counter.deltas > 0, PATIENCE, what="the first delta", process=process)
            time.sleep(WARM_UP)
            before, deltas, cpu, begun = cost(stage.client), counter.deltas, process.cpu, time.monotonic()
            time.sleep(seconds)
            wait_until(lambda: counter.deltas > deltas, PATIENCE, what="a delta", process=process)
            after = cost(stage.client)
            return Window(
                counter.deltas - deltas,
                time.monotonic() - begun,
                process.cpu - cpu,
                process.memory,
                {name: after[name] - before[name] for name in after},
                [],
            )
    stage.clear()
    environment, program = READERS[contender]
    words = (stage.provider_url(streams, rate=rate), str(streams), str(WARM_UP), str(seconds))
    with Counter(stage.redis_url):
        before = cost(stage.client)
        said: dict[str, Any] = json.loads(stage.ask_peer(environment, program, *words))
        after = cost(stage.client)
    # The program's window is a part of what Redis saw; each delta costs it the same in all of it.
    published = max(1.0, after["commands"] - before["commands"])
    share = min(1.0, said["deltas"] / published)
    redis = {name: (after[name] - before[name]) * share for name in after} if "PUBLISH" in contender else {}
    return Window(said["deltas"], said["wall"], said["cpu"], said["memory"], redis, said["latencies"])
