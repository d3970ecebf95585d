"""No-op tasks, from a full queue, in one process: how many a second, and what each costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sidebyside.environments import NotInstalled
from sidebyside.process import wait_until
from sidebyside.queues import RACERS, Racer
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import PATIENCE, Stage

TITLE: Final = "No-op tasks (echo, not streaming), one process"

METRICS: Final = (
    Metric("tasks/s", "1/s", more=True),
    Metric("CPU per task", "us"),
)

#: The first so many of the tasks are not measured: a worker that has just started is still finding its pace.
WARM_UP: Final = 0.1


def measure(stage: Stage) -> Iterator[Sample]:
    racers = [racer for racer in RACERS if not stage.alone or racer.name == OURS]
    for racer in stage.turns(racers):
        try:
            yield race(stage, racer, 200 if stage.alone else max(50, racer.tasks // stage.pick(1, 4)))
        except NotInstalled as exc:
            stage.note(str(exc))


def race(stage: Stage, racer: Racer, tasks: int, *, scenario: str = "noop", case: str = "full queue") -> Sample:
    """Let it do so many tasks."""
    stage.clear()
    racer.feed(stage, tasks)
    with racer.work(stage) as process:

        def reached(wanted: float) -> None:
            what = f"{racer.name} does {wanted:.0f} of {tasks} tasks"
            wait_until(lambda: racer.done(stage.client, tasks) >= wanted, PATIENCE, what=what, process=process)

        reached(max(1, tasks * WARM_UP))
        first, cpu, begun = racer.done(stage.client, tasks), process.cpu, time.monotonic()
        reached(tasks)
        cpu, seconds = process.cpu - cpu, time.monotonic() - begun
    if first >= tasks:  # nothing was left to measure: this process was not let run meanwhile
        return race(stage, racer, 2 * tasks, scenario=scenario, case=case)
    figures = {"tasks/s": (tasks - first) / seconds, "CPU per task": cpu / (tasks - first) * 1e6}
    return Sample(scenario, case, racer.name, figures)
