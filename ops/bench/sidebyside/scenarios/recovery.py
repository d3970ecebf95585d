"""From SIGKILL of a worker with a thousand streams until all of them run again, in another one that stands by."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sidebyside.process import wait_until
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import PATIENCE, Stage
from sidebyside.streaming import streaming

TITLE: Final = "Recovery: SIGKILL, with default leases, until every stream runs in another worker"

METRICS: Final = (Metric("seconds", "s", alone=True),)

#: Repetitions: most of it is the lease.
MOST: Final = 3


def measure(stage: Stage) -> Iterator[Sample]:
    streams = 20 if stage.alone else 1000
    with (
        streaming(stage, streams, 1.0) as process,
        stage.worker("bench", "--concurrency", str(streams), url=stage.provider_url(streams, rate=1.0)) as heir,
    ):
        wait_until(lambda: stage.client.scard("rq:workers") >= 2, PATIENCE, what="the other worker", process=heir)
        begun = stage.provider_stats()["begun"]
        process.kill()
        killed = time.monotonic()
        wait_until(
            lambda: stage.provider_stats()["begun"] >= begun + streams, PATIENCE, what="all run again", process=heir
        )
        yield Sample("recovery", f"{streams} streams", OURS, {"seconds": time.monotonic() - killed})
