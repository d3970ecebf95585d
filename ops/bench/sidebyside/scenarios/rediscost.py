"""What a delta and a task cost Redis, and what is left of a task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidebyside.environments import NotInstalled
from sidebyside.process import wait_until
from sidebyside.queues import RACERS, Racer
from sidebyside.redismeter import cost
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import PATIENCE, Stage
from sidebyside.streaming import window

TITLE: Final = "What Redis has to do, and to keep"

METRICS: Final = (
    Metric("commands", "each"),
    Metric("bytes in", "B"),
    Metric("bytes out", "B"),
    Metric("cpu", "us"),
    Metric("memory kept", "B"),
)

#: Repetitions: counts hardly vary.
MOST: Final = 3

#: Streams, and deltas a second of each.
LOAD: Final = (500, 5.0)


def measure(stage: Stage) -> Iterator[Sample]:
    for racer in RACERS[:1] if stage.alone else RACERS[:2]:
        try:
            yield _task(stage, racer)
        except NotInstalled as exc:
            stage.note(str(exc))
    if stage.alone:
        return
    for contender in (OURS, "SDK + PUBLISH"):
        try:
            seen = window(stage, contender, *LOAD, stage.pick(4.0, 2.0))
        except NotInstalled as exc:
            stage.note(str(exc))
            continue
        figures = {name: value / seen.deltas for name, value in seen.redis.items()}
        figures["cpu"] *= 1e6
        yield Sample("redis", "a delta, with one subscriber to all", contender, figures)


def _task(stage: Stage, racer: Racer) -> Sample:
    """From the queue to its end, and what is there then."""
    tasks = 100 if stage.alone else stage.pick(1000, 300)
    stage.clear()
    with racer.work(stage) as process:
        wait_until(lambda: stage.client.scard("rq:workers") >= 1, PATIENCE, what="the worker is there", process=process)
        memory, before = int(stage.client.info("memory")["used_memory"]), cost(stage.client)
        racer.feed(stage, tasks)
        # The look at the result is one of the commands that are counted: it is not repeated fast.
        wait_until(
            lambda: racer.done(stage.client, tasks) >= tasks, PATIENCE, what="all tasks are done", process=process
        )
        after, kept = cost(stage.client), int(stage.client.info("memory")["used_memory"]) - memory
    figures = {name: (after[name] - before[name]) / tasks for name in after}
    figures["cpu"] *= 1e6
    return Sample("redis", "a no-op task, enqueued and run", racer.name, figures | {"memory kept": kept / tasks})
