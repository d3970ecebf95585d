"""Added latency: from the provider's write to the subscriber's callback, against a program that reads directly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sidebyside.environments import NotInstalled
from sidebyside.sample import OURS, Metric, Sample
from sidebyside.stage import Stage
from sidebyside.streaming import streaming, window

TITLE: Final = "Latency of deltas and of first tokens, at shares of what this machine can do"

METRICS: Final = (
    Metric("median", "ms"),
    Metric("p99", "ms"),
    Metric("max", "ms"),
    Metric("added, median", "ms", alone=True),
    Metric("added, p99", "ms", alone=True),
    Metric("first token", "ms"),
    Metric("added to first token", "ms", alone=True),
    Metric("load", "1/s", alone=True),
)

SHARES: Final = {"a quarter": 0.25, "half": 0.5, "90 %": 0.9}
QUICK_SHARES: Final = {"half": 0.5}

STREAMS: Final = 100

#: Streams that the subscriber follows: it is not to be what is measured.
FOLLOWED: Final = 20

#: Deltas a second of each stream at which it is measured what a delta costs while none waits for another.
CALM: Final = 10.0

#: Tasks that are sent for their first token.
PROBES: Final = 40

DIRECT: Final = "bare aiohttp"


def measure(stage: Stage) -> Iterator[Sample]:
    calm = window(stage, OURS, STREAMS, CALM, 3.0)
    # What a processor of its own would pass on. Above that, deltas gather into batches, and it can do more.
    capacity = calm.deltas / calm.cpu
    for share, part in stage.pick(SHARES, QUICK_SHARES).items():
        rate = capacity * part / STREAMS
        case = f"{share} of capacity"
        figures = _ours(stage, rate)
        first_directly = figures.pop("first directly")
        figures["added to first token"] = figures["first token"] - first_directly
        figures["load"] = rate * STREAMS
        if not stage.alone:
            try:
                direct = _spread(window(stage, DIRECT, STREAMS, rate, stage.pick(4.0, 2.0)).latencies)
            except NotInstalled as exc:
                stage.note(str(exc))
            else:
                figures |= {f"added, {name}": figures[name] - direct[name] for name in ("median", "p99")}
                yield Sample("latency", case, DIRECT, direct | {"first token": first_directly})
        yield Sample("latency", case, OURS, figures)


def _ours(stage: Stage, rate: float) -> dict[str, float]:
    with streaming(stage, STREAMS, rate, spare=5):
        said = stage.follow(
            tasks=stage.running()[:FOLLOWED],
            seconds=stage.pick(4.0, 2.0),
            probes=PROBES,
            direct=stage.provider_url(STREAMS, rate=rate),
        )
    figures = {"first token": said["first by bus"] * 1e3, "first directly": said["first directly"] * 1e3}
    return figures | _spread(said["latencies"])


def _spread(latencies: Sequence[float]) -> dict[str, float]:
    """Milliseconds; the latencies are sorted."""
    at = len(latencies) - 1
    return {
        "median": latencies[at // 2] * 1e3,
        "p99": latencies[round(at * 0.99)] * 1e3,
        "max": latencies[at] * 1e3,
    }
