"""What surrounds the work: enqueuing, starting, importing, and waiting for work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sidebyside.environments import NotInstalled
from sidebyside.process import answer_of, wait_until
from sidebyside.queues import put
from sidebyside.redismeter import cost
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import PATIENCE, Stage

TITLE: Final = "Enqueuing, starting, waiting"

METRICS: Final = (
    Metric("tasks/s", "1/s", more=True),
    Metric("start to ready", "ms", alone=True),
    Metric("import Bus", "ms", alone=True),
    Metric("CPU while idle", "%", alone=True),
    Metric("commands while idle", "1/s", alone=True),
)

_IMPORT: Final = (
    "import time; a = time.perf_counter(); from deltabus import Bus; print((time.perf_counter() - a) * 1e3)"
)


def measure(stage: Stage) -> Iterator[Sample]:
    stage.clear()
    tasks = stage.pick(3000, 500)
    yield _sample("enqueue, in batches", OURS, {"tasks/s": tasks / _in_batches(stage, tasks)})
    yield _sample("enqueue, one by one", OURS, {"tasks/s": tasks / 5 / _one_by_one(stage, tasks // 5)})
    if not stage.alone:
        try:
            for case, words in {"enqueue, in batches": ["many"], "enqueue, one by one": []}.items():
                seconds = float(stage.ask_peer("rq", "rq_tasks.py", *words, str(tasks)))
                yield _sample(case, "RQ", {"tasks/s": tasks / seconds})
        except NotInstalled as exc:
            stage.note(str(exc))
    stage.clear()
    imported = float(answer_of([stage.python, "-c", _IMPORT], {}, stage.folder, timeout=PATIENCE))
    begun = time.monotonic()
    with stage.worker("bench") as process:
        wait_until(lambda: stage.client.scard("rq:workers") >= 1, PATIENCE, what="the worker is there", process=process)
        ready = time.monotonic() - begun
        time.sleep(1.0)
        before, cpu, begun = cost(stage.client)["commands"], process.cpu, time.monotonic()
        time.sleep(2.0 if stage.alone else stage.pick(30.0, 10.0))
        seconds = time.monotonic() - begun
        figures = {
            "start to ready": ready * 1e3,
            "import Bus": imported,
            "CPU while idle": (process.cpu - cpu) / seconds * 100,
            "commands while idle": (cost(stage.client)["commands"] - before - 1) / seconds,
        }
    yield _sample("one worker process", OURS, figures)


def _in_batches(stage: Stage, tasks: int) -> float:
    """Seconds for so many. As with RQ, the first call connects; what is imported and made before it is not counted."""
    with stage.bus() as bus:
        begun = time.perf_counter()
        put(bus, tasks)
        return time.perf_counter() - begun


def _one_by_one(stage: Stage, tasks: int) -> float:
    """Seconds for so many, each sent when the one before it was accepted."""
    with stage.bus() as bus:
        begun = time.perf_counter()
        for _ in range(tasks):
            bus.chat(messages="Hello", model="echo", stream=False, queue="bench")
        return time.perf_counter() - begun


def _sample(case: str, contender: str, figures: dict[str, float]) -> Sample:
    return Sample("starting", case, contender, figures)
