"""How cost grows: with processes, with the length of the queue, with the number of streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sidebyside.process import wait_until
from sidebyside.queues import feed
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.scenarios import noop
from sidebyside.stage import PATIENCE, Stage
from sidebyside.streaming import window

TITLE: Final = "Growth: processes, queued tasks, streams"

METRICS: Final = (
    Metric("tasks/s", "1/s", alone=True),
    Metric("CPU per task", "us", alone=True),
    Metric("CPU per delta", "us", alone=True),
)

#: Repetitions: each runs through all sizes.
MOST: Final = 3

PROCESSES: Final = (1, 2, 4)
QUEUED: Final = (10, 100, 1000, 10_000)
QUICK_QUEUED: Final = (100, 4000)
STREAMS: Final = (100, 500, 1000, 2000, 5000)
QUICK_STREAMS: Final = (100, 2000)

#: Tasks that a worker does first, to find its pace.
WARM_UP: Final = 200

#: Deltas a second of all streams together: only their number grows.
RATE: Final = 2500.0


def measure(stage: Stage) -> Iterator[Sample]:
    if stage.alone:
        yield _processes(stage, 2, 100)
        return
    for count in stage.pick(PROCESSES, (1, 2)):
        yield _processes(stage, count, stage.pick(8000, 2000))
    for queued in stage.pick(QUEUED, QUICK_QUEUED):
        yield _queued(stage, queued, max(1, stage.pick(2000, 1000) // queued))
    for streams in stage.pick(STREAMS, QUICK_STREAMS):
        seen = window(stage, OURS, streams, RATE / streams, stage.pick(4.0, 2.0))
        case = f"{streams} streams, {RATE:.0f} deltas/s in all"
        yield Sample("scaling", case, OURS, {"CPU per delta": seen.cpu / seen.deltas * 1e6})


def _queued(stage: Stage, tasks: int, rounds: int) -> Sample:
    """So many tasks that come to a worker that has nothing to do, several times."""
    stage.clear()
    with stage.worker("bench") as process:

        def run(count: int, so_far: int) -> None:
            feed(stage, count)
            what = f"{so_far + count} tasks are done"
            wait_until(lambda: stage.client.zcard("rq:finished:bench") >= so_far + count, PATIENCE, what=what)

        run(WARM_UP, 0)
        cpu, begun = process.cpu, time.monotonic()
        for number in range(rounds):
            run(tasks, WARM_UP + number * tasks)
        seconds, cpu = time.monotonic() - begun, process.cpu - cpu
    figures = {"tasks/s": rounds * tasks / seconds, "CPU per task": cpu / (rounds * tasks) * 1e6}
    return Sample("scaling", f"{tasks} queued tasks", OURS, figures)


def _processes(stage: Stage, count: int, tasks: int) -> Sample:
    """A queue that several workers share."""
    stage.clear()
    feed(stage, tasks)
    with stage.workers(count, "bench") as processes:

        def reached(wanted: float) -> None:
            what = f"{wanted:.0f} of {tasks} tasks are done"
            wait_until(lambda: stage.client.zcard("rq:finished:bench") >= wanted, PATIENCE, what=what)

        reached(tasks * noop.WARM_UP)
        first = int(stage.client.zcard("rq:finished:bench"))
        cpu, begun = sum(process.cpu for process in processes), time.monotonic()
        reached(tasks)
        seconds, cpu = time.monotonic() - begun, sum(process.cpu for process in processes) - cpu
    figures = {"tasks/s": (tasks - first) / seconds, "CPU per task": cpu / (tasks - first) * 1e6}
    return Sample("scaling", f"{count} processes", OURS, figures)
