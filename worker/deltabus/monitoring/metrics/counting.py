"""The observer that counts. It writes numbers in place, on the loop; nothing here knows Prometheus.

Producers choose models and tenants freely, so the names that become labels are bounded: the first so many have
their own, all others are `other`. A model gets one once a provider has answered for it, so that no producer can
fill the list with names that he made up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Final

from deltabus.errors import TaskError
from deltabus.events import Completed, Failed, Terminal
from deltabus.monitoring import catalogue
from deltabus.monitoring.board import Board, histogram
from deltabus.monitoring.catalogue import Metric
from deltabus.telemetry import Observer, Watch

#: Models, and tenants, that have a label of their own in each process.
OWN_NAMES: Final = 50

#: Combinations of provider, model and tenant that do.
COMBINATIONS: Final = 500

#: Characters that such a name may have.
NAME_LIMIT: Final = 100

OTHER: Final = "other"


class Counting(Observer):
    """Counts on a board; see `catalogue.COUNTED`.

    Args:
        tenants: those that have a label of their own; where there are none, the first `OWN_NAMES` do.
    """

    def __init__(self, board: Board, *, queues: Collection[str], tenants: Collection[str] = ()) -> None:
        self._board = board
        self._series: dict[tuple[str, ...], memoryview[float]] = {}
        self._histograms: dict[tuple[str, ...], Callable[[float], None]] = {}
        self._models = _Names(OWN_NAMES)
        self._tenants = _Names(OWN_NAMES, tenants)
        self._combinations: set[tuple[str, str, str]] = set()
        self._append = self._observing(catalogue.APPEND)
        for queue in queues:
            # A rate needs a first value, and the first failure is one to see.
            for metric in (catalogue.TAKEN, catalogue.STARTED):
                self._numbers(metric, queue)
            self._numbers(catalogue.SETTLED, queue, "completed", "")

    def taken(self, queue: str, used: int) -> None:
        self._numbers(catalogue.TAKEN, queue)[0] += 1

    def begun(self, watch: Watch) -> None:
        watch.appends = self._append
        if watch.attempt == 1 and (enqueued_at := watch.enqueued_at):
            # Clocks of two machines may say that it began before it was asked for.
            self._observing(catalogue.WAIT, watch.queue)(max(0.0, time.time() - enqueued_at))
        self._numbers(catalogue.STARTED, watch.queue)[0] += 1

    def first_delta(self, watch: Watch) -> None:
        labels = watch.provider, self._models.own(watch.model)
        self._observing(catalogue.FIRST_TOKEN, *labels)(watch.first_delta - watch.called)
        watch.gaps = self._observing(catalogue.GAP, *labels)

    def answered(self, provider: str, status: int) -> None:
        self._numbers(catalogue.RESPONSES, provider, str(status))[0] += 1

    def failed(self, watch: Watch, error: TaskError, retry_in: float | None) -> None:
        labels = watch.provider, error.code
        self._numbers(catalogue.FAILURES, *labels)[0] += 1
        if retry_in is not None:
            self._numbers(catalogue.RETRIES, *labels)[0] += 1

    def settled(self, watch: Watch, event: Terminal) -> None:
        code = event.error.code if isinstance(event, Failed) else ""
        self._numbers(catalogue.SETTLED, watch.queue, type(event).__name__.lower(), code)[0] += 1
        if isinstance(event, Completed):
            usage = event.result.get("usage") if isinstance(event.result, dict) else None
            if isinstance(usage, dict):
                self._spent(watch, usage)

    def ended(self, watch: Watch, ending: str) -> None:
        self._numbers(catalogue.ENDED, watch.queue, ending)[0] += 1
        model = self._models.own(watch.model) if ending == "completed" else self._models.known(watch.model)
        self._observing(catalogue.DURATION, watch.provider, model)(watch.seconds)

    def fenced(self, task: str) -> None:
        self._numbers(catalogue.FENCED)[0] += 1

    def recovered(self, jobs: int, why: str) -> None:
        self._numbers(catalogue.RECOVERED, why)[0] += jobs

    def reconnected(self, line: str) -> None:
        self._numbers(catalogue.RECONNECTS, line)[0] += 1

    def outage(self, away: bool) -> None:
        if away:
            self._numbers(catalogue.OUTAGES)[0] += 1

    def _spent(self, watch: Watch, usage: dict[str, Any]) -> None:
        labels = watch.provider, self._models.own(watch.model), self._tenants.own(watch.tenant)
        if labels not in self._combinations:
            if len(self._combinations) >= COMBINATIONS:
                labels = watch.provider, OTHER, OTHER
            self._combinations.add(labels)
        for kind in ("prompt", "completion"):
            self._add(usage.get(f"{kind}_tokens"), catalogue.TOKENS, *labels, kind)
        details = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
        cached, reasoning = (found if isinstance(found, dict) else {} for found in details)
        self._add(cached.get("cached_tokens"), catalogue.CACHED_TOKENS, *labels)
        self._add(reasoning.get("reasoning_tokens"), catalogue.REASONING_TOKENS, *labels)

    def _add(self, amount: Any, metric: Metric, *labels: str) -> None:
        if isinstance(amount, int) and amount > 0:
            self._numbers(metric, *labels)[0] += amount

    def _numbers(self, metric: Metric, *labels: str) -> memoryview[float]:
        key = (metric.name, *labels)
        numbers = self._series.get(key)
        if numbers is None:
            count = len(metric.buckets) + 2 if metric.buckets else 1
            numbers = self._series[key] = self._board.series(key, count)
        return numbers

    def _observing(self, metric: Metric, *labels: str) -> Callable[[float], None]:
        key = (metric.name, *labels)
        observe = self._histograms.get(key)
        if observe is None:
            observe = self._histograms[key] = histogram(self._numbers(metric, *labels), metric.buckets)
        return observe


class _Names:
    """Names that have become labels, so many at the most."""

    def __init__(self, limit: int, only: Collection[str] = ()) -> None:
        self._limit = 0 if only else limit
        self._own = {"", *only}

    def known(self, name: str) -> str:
        """The name's label as it is."""
        return name if name in self._own else OTHER

    def own(self, name: str) -> str:
        """The name's label, which is its own where there is room for it."""
        if name in self._own:
            return name
        if len(self._own) > self._limit or len(name) > NAME_LIMIT or not name.isprintable():
            return OTHER
        self._own.add(name)
        return name
