"""Deltas through one process: what each costs it, at few streams and at many, fast ones and slow ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidebyside.environments import NotInstalled
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import Stage
from sidebyside.streaming import READERS, window

TITLE: Final = "Deltas, one process"

METRICS: Final = (
    Metric("CPU per delta", "us"),
    Metric("deltas/s", "1/s", alone=True),
)

#: Streams, and chunks a second of each.
CASES: Final = ((100, 50), (100, 5), (500, 50), (500, 5), (2000, 50), (2000, 5))
QUICK_CASES: Final = ((500, 50), (500, 5))

#: Above so many streams, those whose client walks all its connections take minutes to open them.
MOST_OF_HTTPCORE: Final = 500


def measure(stage: Stage) -> Iterator[Sample]:
    cases = [(5, 20)] if stage.alone else stage.pick(CASES, QUICK_CASES)
    for streams, rate in cases:
        contenders = [OURS] if stage.alone else [OURS, *READERS]
        if streams > MOST_OF_HTTPCORE:
            contenders = [OURS, "bare aiohttp"]
        for contender in stage.turns(contenders):
            try:
                yield sample(stage, contender, streams, rate)
            except NotInstalled as exc:
                stage.note(str(exc))


def sample(stage: Stage, contender: str, streams: int, rate: float) -> Sample:
    """One window of one contender."""
    seen = window(stage, contender, streams, rate, stage.pick(4.0, 2.0))
    figures = {"CPU per delta": seen.cpu / seen.deltas * 1e6, "deltas/s": seen.deltas / seen.seconds}
    return Sample("deltas", f"{streams} streams, {rate}/s each", contender, figures)
