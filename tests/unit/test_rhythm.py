"""Timers of one period, and of twice that, fire together; soon enough, and not twice in a row."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltabus import rhythm


def at(patch: pytest.MonkeyPatch, now: float) -> None:
    patch.setattr(rhythm, "time", SimpleNamespace(monotonic=lambda: now))


moments = st.floats(0, 1e7)
periods = st.floats(0.001, 2.5)


@given(moments, periods)
def test_a_timer_is_neither_late_nor_at_once_again(now: float, period: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        at(patch, now)
        assert 0.09 * period < rhythm.pause(period) < 1.11 * period


@given(moments, st.integers(1, 2))
def test_whenever_it_begins_it_fires_with_the_others(now: float, periods: int) -> None:
    period = rhythm.period(lease=10.0)
    with pytest.MonkeyPatch.context() as patch:
        at(patch, now)
        fires = now + rhythm.pause(periods * period)
        at(patch, fires + 0.001)
        assert rhythm.pause(period) == pytest.approx(period - 0.001, abs=1e-6)


@pytest.mark.parametrize(("lease", "period"), [(10.0, 2.5), (3600.0, 2.5), (3.0, 0.75)])
def test_it_is_several_times_in_a_lease_and_never_seldom(lease: float, period: float) -> None:
    assert rhythm.period(lease) == period
