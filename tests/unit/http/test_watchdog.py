"""Waits end in time, once, and only waits. The clock is the tests'."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from deltabus.http.config import Timeouts
from deltabus.http.watchdog import Watchdog
from deltabus.provider import DeadlineExceeded, ProviderTimeout


def limits(**given: float | None) -> Timeouts:
    """No limits but these."""
    return Timeouts(**{"connect": None, "first_byte": None, "between_bytes": None, "total": None, **given})


class Timer:
    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """What a watchdog asks of its loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], object]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer.when <= self.now and not timer.cancelled]:
            timer.cancel()
            timer.call()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("deltabus.http.watchdog.asyncio.get_running_loop", lambda: made)
    return made


@pytest.mark.parametrize(
    ("phase", "first"), [("first_byte", True), ("between_bytes", False), ("total", True), ("total", False)]
)
def test_a_read_that_takes_too_long_makes_it_bark_and_name_the_limit(clock: Clock, phase: str, first: bool) -> None:
    dog = Watchdog(limits(**{phase: 7}))
    barks = []
    dog.bark = lambda: barks.append(clock.now)
    dog.begin(first=first)
    clock.advance(6.5)
    assert not dog.barked
    clock.advance(0.5)
    clock.advance(100)
    assert dog.barked
    assert barks == [1007.0]
    error = dog.error()
    assert isinstance(error, ProviderTimeout)
    assert f"timeouts.{phase} = 7 s" in error.message


def test_the_first_byte_counts_from_the_start_of_the_request(clock: Clock) -> None:
    dog = Watchdog(limits(first_byte=10))
    clock.advance(6)
    dog.begin(first=True)
    clock.advance(4)
    assert dog.barked


def test_the_tasks_deadline_is_an_error_of_its_own(clock: Clock) -> None:
    dog = Watchdog(limits(total=3600), time.time() + 60)
    dog.begin()
    clock.advance(61)
    assert dog.barked
    assert isinstance(dog.error(), DeadlineExceeded)
    earlier = Watchdog(limits(total=60), time.time() + 3600)
    earlier.begin()
    clock.advance(61)
    assert "timeouts.total" in earlier.error().message


def test_a_request_whose_time_is_over_lets_nothing_begin(clock: Clock) -> None:
    with pytest.raises(DeadlineExceeded):
        Watchdog(limits(), time.time() - 1).sending()
    with pytest.raises(DeadlineExceeded):
        Watchdog(limits(), time.time() - 1).begin()
    dog = Watchdog(limits(total=5))
    clock.advance(6)
    with pytest.raises(ProviderTimeout, match="total"):
        dog.begin()


def test_without_limits_there_is_no_timer(clock: Clock) -> None:
    dog = Watchdog(limits())
    dog.begin(first=True)
    dog.begin()
    assert clock.timers == []


def test_time_between_reads_does_not_count(clock: Clock) -> None:
    """The consumer may be slow; only the provider is timed."""
    dog = Watchdog(limits(between_bytes=5))
    for _ in range(3):
        dog.begin()
        clock.advance(1)
        dog.end()
        clock.advance(100)
    dog.begin()
    clock.advance(4)
    assert not dog.barked
    clock.advance(1)
    assert dog.barked


def test_a_timer_for_an_earlier_read_does_not_end_a_later_one(clock: Clock) -> None:
    dog = Watchdog(limits(between_bytes=5))
    dog.begin()
    clock.advance(3)
    dog.end()
    dog.begin()
    clock.advance(3)
    assert not dog.barked
    clock.advance(2)
    assert dog.barked


def test_a_busy_stream_arms_no_timer_for_each_read(clock: Clock) -> None:
    dog = Watchdog(Timeouts(first_byte=3600, between_bytes=60))
    dog.begin(first=True)
    for _ in range(100):
        dog.end()
        dog.begin()
        clock.advance(0.1)
    assert len(clock.timers) == 2


@pytest.mark.parametrize("first", [True, False])
def test_a_limit_for_one_read_alone_is_heeded(clock: Clock, first: bool) -> None:
    dog = Watchdog(Timeouts())
    dog.begin(3, first=first)
    clock.advance(3)
    assert dog.barked
    assert isinstance(dog.error(), ProviderTimeout)


def test_a_closed_watchdog_is_silent_until_it_is_needed_again(clock: Clock) -> None:
    dog = Watchdog(limits(between_bytes=5))
    dog.begin()
    dog.end()
    dog.close()
    dog.close()
    clock.advance(10)
    assert not dog.barked
    dog.begin()
    clock.advance(5)
    assert dog.barked


@pytest.mark.parametrize("phase", ["first_byte", "total"])
def test_sending_that_takes_too_long_is_cancelled_and_named(
    run: Callable[[Coroutine[Any, Any, Any]], Any], phase: str
) -> None:
    async def main() -> None:
        dog = Watchdog(limits(**{phase: 0.01}))
        with pytest.raises(TimeoutError):
            async with dog.sending():
                await asyncio.Event().wait()
        assert f"timeouts.{phase} = 0.01 s" in dog.error().message
        async with Watchdog(limits()).sending() as scope:
            assert scope.when() is None

    run(main())


class Scope:
    """What `asyncio.timeout_at` returns, as far as a watchdog asks it."""

    def __init__(self, when: float | None) -> None:
        self.when = when
        self.over = False

    def reschedule(self, when: float | None) -> None:
        assert not self.over
        self.when = when

    def expired(self) -> bool:
        return self.over


@pytest.fixture
def scopes(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[Scope]:
    made: list[Scope] = []

    def timeout_at(when: float | None) -> Scope:
        made.append(Scope(when))
        return made[-1]

    monkeypatch.setattr("deltabus.http.watchdog.asyncio.timeout_at", timeout_at)
    return made


def test_an_upload_may_take_as_long_as_it_moves(clock: Clock, scopes: list[Scope]) -> None:
    dog = Watchdog(limits(first_byte=10, between_bytes=3))
    dog.sending()
    [scope] = scopes
    assert scope.when == 1010
    dog.fetching()
    assert scope.when is None, "the source has limits of its own"
    for _ in range(100):
        dog.writing()
        assert scope.when == clock.now + 3
        assert "between_bytes = 3 s" in dog.error().message
        clock.advance(2.9)
    dog.written()
    assert scope.when == clock.now + 10
    assert "first_byte = 10 s" in dog.error().message


@pytest.mark.parametrize("step", ["fetching", "writing", "written"])
def test_the_end_of_all_patience_holds_for_an_upload_that_moves(
    clock: Clock, scopes: list[Scope], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    dog = Watchdog(limits(total=5, between_bytes=30, first_byte=30))
    dog.sending()
    clock.advance(4)
    getattr(dog, step)()
    assert scopes[0].when == 1005
    assert "timeouts.total = 5 s" in dog.error().message
    monkeypatch.setattr("deltabus.http.watchdog.time", SimpleNamespace(time=lambda: 5000.0))
    late = Watchdog(limits(between_bytes=30), deadline=5002.0)
    late.sending()
    getattr(late, step)()
    assert scopes[1].when == clock.now + 2
    assert isinstance(late.error(), DeadlineExceeded)


def test_what_is_over_is_not_given_more_time(clock: Clock, scopes: list[Scope]) -> None:
    dog = Watchdog(limits(between_bytes=3, first_byte=10))
    dog.writing()
    dog.sending()
    scopes[0].over = True
    dog.writing()
    assert scopes[0].when == 1010
    dog.sending()
    dog.sent()
    dog.writing()
    assert scopes[1].when == 1010
