"""Memory for each stream that is open."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sidebyside.environments import NotInstalled
from sidebyside.process import wait_until
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import PATIENCE, Stage
from sidebyside.streaming import REQUEST, streaming, window

TITLE: Final = "Memory of a process with open streams, a delta a second each (PSS)"

METRICS: Final = (
    Metric("memory per stream", "kB"),
    Metric("whole process", "MB", alone=True),
)

#: Streams.
CASES: Final = (100, 1000, 5000)
QUICK_CASES: Final = (1000,)

#: Repetitions: it hardly varies.
MOST: Final = 2

_KB: Final = 1000.0


def measure(stage: Stage) -> Iterator[Sample]:
    for streams in stage.pick(CASES, QUICK_CASES):
        with streaming(stage, streams, 1.0) as process:
            time.sleep(2.0)  # some deltas have gone through each
            yield _sample(f"{streams} streams", OURS, process.memory, streams)
    if stage.alone:
        return
    try:
        seen = window(stage, "SDK + PUBLISH", 100, 1.0, 1.0)
        yield _sample("100 streams", "SDK + PUBLISH", seen.memory, 100)
        yield _sample("", "stock RQ worker", _stock(stage), 1)
    except NotInstalled as exc:
        stage.note(str(exc))


def _stock(stage: Stage) -> int:
    """Bytes of an RQ worker, and the child that it forks for a job, while that reads a stream with the OpenAI SDK."""
    stage.clear()
    before = stage.provider_stats()["written"]
    stage.ask_peer("rq", "rq_tasks.py", "stream", stage.provider_url(1, rate=1.0))
    with stage.peer("rq", "rq", "worker", "--quiet", "bench") as process:
        wait_until(
            lambda: stage.provider_stats()["written"] >= before + 3,
            PATIENCE,
            what=f"{REQUEST} streams",
            process=process,
        )
        return process.memory


def _sample(case: str, contender: str, memory: int, streams: int) -> Sample:
    figures = {"memory per stream": memory / streams / _KB, "whole process": memory / _KB / _KB}
    return Sample("memory", case or "1 stream", contender, figures)
