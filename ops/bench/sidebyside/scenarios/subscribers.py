"""Subscribers: one that follows many tasks, many that follow one, and one that comes when all is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import PATIENCE, Stage
from sidebyside.streaming import streaming

TITLE: Final = "Subscribers"

METRICS: Final = (
    Metric("deltas/s", "1/s", alone=True),
    Metric("CPU per delta", "us", alone=True),
    Metric("latency, median", "ms", alone=True),
)

#: Repetitions.
MOST: Final = 3

#: Deltas of the log that is replayed.
REPLAYED: Final = 10_000


def measure(stage: Stage) -> Iterator[Sample]:
    if not stage.alone:
        yield _live(stage, streams=stage.pick(1000, 500), rate=2.0, buses=1)
        yield _live(stage, streams=1, rate=20.0, buses=100)
    yield _replay(stage)


def _live(stage: Stage, *, streams: int, rate: float, buses: int) -> Sample:
    with streaming(stage, streams, rate):
        said = stage.follow(tasks=stage.running(), seconds=stage.pick(4.0, 2.0), buses=buses, before=3.0)
    figures = {
        "deltas/s": said["deltas"] / said["wall"],
        "CPU per delta": said["cpu"] / said["deltas"] * 1e6,
        "latency, median": said["latencies"][len(said["latencies"]) // 2] * 1e3,
    }
    return Sample("subscribers", f"{buses} of {streams} tasks, {rate:g}/s each", OURS, figures)


def _replay(stage: Stage) -> Sample:
    stage.clear()
    request = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}], "echo": {"words": REPLAYED}}
    with stage.worker("bench"), stage.bus() as bus:
        task = bus.chat(request, queue="bench")
        task.result(PATIENCE)
        begun, cpu, deltas = time.perf_counter(), time.process_time(), 0
        for event in task.events():
            deltas += len(getattr(event, "chunks", ()))
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    figures = {"deltas/s": deltas / seconds, "CPU per delta": cpu / deltas * 1e6}
    return Sample("subscribers", f"replay of {REPLAYED} deltas", OURS, figures)
