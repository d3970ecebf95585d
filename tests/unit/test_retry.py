"""What the retry policy decides, and that it keeps within its limits whatever it is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltabus import errors, retry
from deltabus.errors import InvalidRequest, QuotaExhausted, RateLimited, StreamTruncated, TaskError
from deltabus.retry import LONGEST_WAIT, Fail, Policy, Retry

POLICY = Policy(max_retries=3, delay=1.0, max_delay=60.0, after_delta="restart")
NOW = 1_000_000.0

EVERY_ERROR = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TaskError)),
    key=lambda kind: kind.__name__,
)


def decide(
    error: TaskError,
    policy: Policy = POLICY,
    *,
    failures: int = 0,
    streamed: bool = False,
    deadline: float | None = None,
) -> Retry | Fail:
    return retry.decide(error, policy, failures=failures, streamed=streamed, now=NOW, deadline=deadline)


@pytest.mark.parametrize("kind", EVERY_ERROR)
def test_the_class_of_an_error_says_whether_it_is_tried_again(kind: type[TaskError]) -> None:
    assert isinstance(decide(kind("no")), Retry) is kind.retryable


@pytest.mark.parametrize("word", [None, True, False])
def test_quota_is_never_tried_again_whatever_the_provider_says(word: bool | None) -> None:
    error = QuotaExhausted("no credit", retry_after=1.0, should_retry=word)
    assert isinstance(decide(error), Fail)
    assert error.info.retryable is False


@pytest.mark.parametrize("word", [True, False])
def test_the_providers_explicit_word_counts_for_more_than_the_class(word: bool) -> None:
    assert isinstance(decide(RateLimited("slow down", should_retry=word)), Retry) is word
    assert isinstance(decide(InvalidRequest("a hiccup", should_retry=word)), Retry) is word


@pytest.mark.parametrize(("failures", "again"), [(0, True), (2, True), (3, False), (4, False)])
def test_there_are_as_many_retries_as_the_policy_says(failures: int, again: bool) -> None:
    assert isinstance(decide(RateLimited("slow down"), failures=failures), Retry) is again


def test_the_provider_says_how_long_to_wait() -> None:
    assert decide(RateLimited("slow down", retry_after=90.5)) == Retry(90.5)


def test_a_provider_that_asks_for_too_long_a_wait_means_not_today() -> None:
    assert isinstance(decide(RateLimited("tomorrow", retry_after=LONGEST_WAIT + 1)), Fail)


@pytest.mark.parametrize(("deadline", "again"), [(NOW + 5.1, True), (NOW + 5.0, False), (NOW - 1, False)])
def test_no_retry_leads_past_the_deadline(deadline: float, again: bool) -> None:
    assert isinstance(decide(RateLimited("slow down", retry_after=5.0), deadline=deadline), Retry) is again


@pytest.mark.parametrize(
    ("after_delta", "streamed", "again"),
    [("restart", True, True), ("restart", False, True), ("fail", True, False), ("fail", False, True)],
)
def test_what_was_streamed_is_kept_where_the_policy_says_so(after_delta: str, streamed: bool, again: bool) -> None:
    policy = Policy(max_retries=3, delay=1.0, max_delay=60.0, after_delta=after_delta)
    assert isinstance(decide(StreamTruncated("cut"), policy, streamed=streamed), Retry) is again


@given(
    failures=st.integers(0, 10_000),
    max_retries=st.integers(0, 10_000),
    delay=st.floats(0, 1e6),
    max_delay=st.floats(0, 1e6),
    retry_after=st.none() | st.floats(-1e9, 1e9),
    deadline=st.none() | st.floats(NOW - 1e6, NOW + 1e6),
)
def test_a_delay_is_never_negative_too_long_or_past_the_deadline(  # noqa: PLR0917 # by hypothesis
    failures: int,
    max_retries: int,
    delay: float,
    max_delay: float,
    retry_after: float | None,
    deadline: float | None,
) -> None:
    policy = Policy(max_retries=max_retries, delay=delay, max_delay=max_delay, after_delta="restart")
    decision = decide(RateLimited("slow down", retry_after=retry_after), policy, failures=failures, deadline=deadline)
    if isinstance(decision, Retry):
        assert failures < max_retries
        assert 0 <= decision.delay <= (max_delay if retry_after is None else LONGEST_WAIT)
        assert deadline is None or NOW + decision.delay < deadline


def test_backoff_doubles_up_to_its_cap_and_is_spread_over_the_whole_range() -> None:
    for failures, reach in [(0, 1.0), (1, 2.0), (2, 4.0)]:
        delays = [
            decision.delay
            for _ in range(500)
            if isinstance(decision := decide(RateLimited("x"), failures=failures), Retry)
        ]
        assert max(delays) <= reach
        assert min(delays) < reach * 0.1
        assert max(delays) > reach * 0.9
