"""The metrics of all processes of a roster as Prometheus reads them. The only file that knows prometheus-client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any, Final

from redis.exceptions import RedisError

from deltabus.errors import ConfigError
from deltabus.monitoring import catalogue
from deltabus.monitoring.board import Key
from deltabus.monitoring.catalogue import COUNTED, Metric
from deltabus.monitoring.health import Health
from deltabus.monitoring.metrics.queuesight import Sight
from deltabus.monitoring.pulse import Trouble, read
from deltabus.monitoring.roster import Roster

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
except ImportError as exc:
    raise ConfigError("metrics_port needs prometheus-client: pip install 'deltabus[metrics]'") from exc

#: Label values with a number, or a histogram's numbers.
Rows = Iterable[tuple[Sequence[str], Sequence[float]]]

#: What a process may be doing, in every scrape: a sum over nothing is no 0.
_STATES: Final = ("starting", "working", "suspended", "draining")


class Exposition:
    """What one endpoint shows.

    Args:
        look: asks Redis for what waits in queues; raises `RedisError` or `OSError` where it does not answer.
    """

    def __init__(self, roster: Roster, look: Callable[[], Sequence[Sight]]) -> None:
        self._roster = roster
        self._look = look

    def render(self, health: Health, accept: str) -> tuple[bytes, str]:
        """All metrics, in the form that a scraper's `Accept` asks for (OpenMetrics, Prometheus' text), and its type."""
        encode, media_type = choose_encoder(accept)
        return encode(_Families([*self._counted(), *self._read(health)])), media_type

    def _counted(self) -> Iterator[Any]:
        totals = self._roster.totals()
        for metric in COUNTED:
            rows = [(key[1:], numbers) for key, numbers in totals.items() if key[0] == metric.name]
            if not rows and not metric.labels:
                rows = [((), [0.0] * (len(metric.buckets) + 2))]
            yield _family(metric, sorted(rows))

    def _read(self, health: Health) -> Iterator[Any]:
        readings = [vital.reading for vital in health.processes]
        states = Counter(vital.state for vital in health.processes)
        stuck = Counter(problem.reason for problem in health.live)
        reasons = [trouble.name.lower() for trouble in Trouble if trouble is not Trouble.NONE]
        yield _gauge(catalogue.SLOTS, {(): sum(reading.slots for reading in readings)})
        yield _gauge(catalogue.SLOTS_USED, {(): sum(reading.used for reading in readings)})
        yield _gauge(catalogue.MEMORY, {(): sum(reading.memory for reading in readings)})
        yield _gauge(catalogue.PROCESSES, {(state,): states[state] for state in _STATES})
        yield _gauge(catalogue.STUCK, {(reason,): stuck[reason] for reason in (*reasons, "not_started")})
        yield _gauge(catalogue.USABLE, self._providers())
        yield from self._queues()
        yield _gauge(catalogue.INFO, {(version("deltabus"),): 1})

    def _providers(self) -> dict[Key, float]:
        usable: dict[Key, float] = {}
        for entry in self._roster.living():
            for name, good in read(entry.board)[1].items():
                usable[name,] = min(usable.get((name,), 1), good)
        return usable

    def _queues(self) -> Iterator[Any]:
        try:
            sights = self._look()
        except (RedisError, OSError):
            sights = None
        yield _gauge(catalogue.REDIS_UP, {(): sights is not None})
        found = sights or ()
        yield _gauge(catalogue.QUEUE_DEPTH, {(sight.queue,): sight.depth for sight in found})
        yield _gauge(catalogue.QUEUE_OLDEST, {(sight.queue,): sight.oldest for sight in found})
        yield _gauge(
            catalogue.QUEUE_JOBS,
            {(sight.queue, state): count for sight in found for state, count in sight.jobs.items()},
        )


class _Families:
    """A registry, as far as encoders want one."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        return self._families


def _gauge(metric: Metric, values: dict[Key, float]) -> Any:
    return _family(metric, [(labels, [value]) for labels, value in values.items()])


def _family(metric: Metric, rows: Rows) -> Any:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family = kinds[metric.kind](metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
    for labels, numbers in rows:
        if metric.kind == "histogram":
            bounds = [*(f"{bound:g}" for bound in metric.buckets), "+Inf"]
            # On the board each bucket is by itself; Prometheus wants all that is below its bound.
            family.add_metric(labels, list(zip(bounds, accumulate(numbers[:-1]), strict=True)), numbers[-1])
        else:
            family.add_metric(labels, numbers[0])
    return family
