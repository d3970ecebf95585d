"""What is counted, under which labels, and that producers cannot make up ever more of them."""

from __future__ import annotations

import pytest

from deltabus.envelope import Envelope
from deltabus.errors import ErrorInfo, RateLimited
from deltabus.events import Completed, Failed
from deltabus.monitoring import catalogue
from deltabus.monitoring.board import SIZE, Board
from deltabus.monitoring.metrics.counting import COMBINATIONS, OWN_NAMES, Counting
from deltabus.telemetry import Watch


class Bench:
    def __init__(self, **options) -> None:
        self.board = Board()
        self.counting = Counting(self.board, **{"queues": ["chat"], **options})

    def watch(self, model: str = "m", tenant: str | None = None) -> Watch:
        watch = Watch("t", "chat", 1, "w", Envelope(request={"model": model}, tenant=tenant))
        watch.provider = "main"
        watch.call()
        return watch

    def complete(self, model: str = "m", tenant: str | None = None, **usage) -> None:
        watch = self.watch(model, tenant)
        self.counting.begun(watch)
        self.counting.settled(watch, Completed(task="t", at=1.0, result={"usage": usage}))
        self.counting.ended(watch, "completed")

    def counts(self, metric: catalogue.Metric) -> dict:
        """Numbers by labels, without those that are 0."""
        return {key[1:]: sum(numbers) for key, numbers in self.board.read() if key[0] == metric.name and any(numbers)}


@pytest.fixture
def bench():
    return Bench()


def test_each_gap_falls_into_its_bucket_and_the_sum(bench):
    watch = bench.watch()
    watch.observer = bench.counting
    watch.delta()
    assert watch.gaps is not None
    for gap in (0.0005, 0.0006, 0.4, 11.0):
        watch.gaps(gap)
    (numbers,) = [numbers for key, numbers in bench.board.read() if key == (catalogue.GAP.name, "main", "m")]
    filled = {bound: count for bound, count in zip([*catalogue.SHORT, "inf"], numbers, strict=False) if count}
    assert filled == {0.0005: 1, 0.001: 1, 0.5: 1, "inf": 1}
    assert numbers[-1] == pytest.approx(11.4011)


def test_tokens_are_counted_by_model_tenant_and_kind(bench):
    bench.complete(
        tenant="acme",
        prompt_tokens=10,
        completion_tokens=5,
        prompt_tokens_details={"cached_tokens": 4},
        completion_tokens_details={"reasoning_tokens": 3},
    )
    bench.complete(prompt_tokens=1, completion_tokens=None, prompt_tokens_details=7)
    assert bench.counts(catalogue.TOKENS) == {
        ("main", "m", "acme", "prompt"): 10,
        ("main", "m", "acme", "completion"): 5,
        ("main", "m", "", "prompt"): 1,
    }
    assert bench.counts(catalogue.CACHED_TOKENS) == {("main", "m", "acme"): 4}
    assert bench.counts(catalogue.REASONING_TOKENS) == {("main", "m", "acme"): 3}


def test_how_long_a_job_has_waited_is_counted_once_however_many_attempts_it_takes(bench):
    for attempt in (1, 2):
        bench.counting.begun(Watch("t", "chat", attempt, "w", enqueued=b"2026-01-01T00:00:00.000000Z"))
    for date in (b"", b"soon"):
        bench.counting.begun(Watch("t", "chat", 1, "w", enqueued=date))
    bench.counting.begun(Watch("t", "chat", 1, "w", enqueued=b"2999-01-01T00:00:00.000000Z"))
    ((key, numbers),) = [found for found in bench.board.read() if found[0][0] == catalogue.WAIT.name]
    assert (key[1:], sum(numbers[:-1]), numbers[0], numbers[-2]) == (("chat",), 2, 1, 1)


def test_failures_have_their_code_and_those_that_are_tried_again_count_as_retries(bench):
    watch = bench.watch()
    bench.counting.failed(watch, RateLimited("no"), 1.0)
    bench.counting.failed(watch, RateLimited("no"), None)
    bench.counting.settled(watch, Failed(task="t", at=1.0, error=ErrorInfo(code="rate_limited", message="no")))
    assert bench.counts(catalogue.FAILURES) == {("main", "rate_limited"): 2}
    assert bench.counts(catalogue.RETRIES) == {("main", "rate_limited"): 1}
    assert bench.counts(catalogue.SETTLED) == {("chat", "failed", "rate_limited"): 1}


def test_a_model_that_no_provider_has_answered_for_has_no_label(bench):
    for number in range(1000):
        bench.counting.ended(bench.watch(f"made up {number}"), "failed")
    assert set(bench.counts(catalogue.DURATION)) == {("main", "other")}


def test_labels_are_bounded_whatever_producers_send(bench):
    for number in range(3 * OWN_NAMES):
        for name in (f"m{number}", f"m{number % 60}"):
            bench.complete(name, f"t{number}", prompt_tokens=1)
    assert len({labels[1] for labels in bench.counts(catalogue.TOKENS)}) <= OWN_NAMES + 2
    assert len({labels[2] for labels in bench.counts(catalogue.TOKENS)}) <= OWN_NAMES + 2
    assert sum(bench.counts(catalogue.TOKENS).values()) == 6 * OWN_NAMES
    assert bench.board.refused == 0


def test_every_combination_that_is_allowed_fits_onto_a_board():
    bench = Bench()
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    details = {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 1}}
    for model in range(OWN_NAMES):
        for tenant in range(OWN_NAMES):
            bench.complete(f"{model:0100}", f"{tenant:0100}", **usage, **details)
        bench.counting.first_delta(bench.watch(f"{model:0100}"))
    assert len(bench.counts(catalogue.CACHED_TOKENS)) == COMBINATIONS + 1
    assert bench.board.refused == 0
    assert bench.board._used < SIZE / 4


@pytest.mark.parametrize("name", ["x" * 101, "two\nlines", "\ud800"])
def test_a_name_that_is_none_is_other(bench, name):
    bench.complete("m", name, prompt_tokens=1)
    assert bench.counts(catalogue.TOKENS) == {("main", "m", "other", "prompt"): 1}


def test_named_tenants_are_told_apart_and_no_others():
    bench = Bench(tenants=["acme"])
    for tenant in ("acme", "beta", None):
        bench.complete("m", tenant, prompt_tokens=1)
    assert set(bench.counts(catalogue.TOKENS)) == {("main", "m", tenant, "prompt") for tenant in ("acme", "other", "")}
