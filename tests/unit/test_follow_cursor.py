"""Cursors: ids as numbers that compare."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltabus import keys
from deltabus.errors import InvalidRequest
from deltabus.follow import before, position

places = st.tuples(st.integers(1, 2**53 - 2), st.integers(0, 2**53 - 1))


@given(places, places)
def test_ids_compare_as_the_log_has_them(one, other):
    text = [f"{attempt}-{n}" for attempt, n in (one, other)]
    assert (position(text[0]) < position(text[1])) == (one < other)
    assert position(text[0]) < position(keys.SEAL)


@given(places)
def test_the_cursor_before_an_event_is_below_it_and_not_below_what_comes_before(place):
    attempt, n = place
    cursor = position(before(place))
    assert cursor < place
    assert cursor == (attempt, n - 1) if n else cursor[0] == attempt - 1


@pytest.mark.parametrize("text", ["1", "1-", "-1", "a-b", "1-2-3", " 1-2", "1-2\n", "\u0661-\u0662", "1" * 17 + "-0"])
def test_what_is_no_id_is_refused(text):
    with pytest.raises(InvalidRequest) as caught:
        position(text)
    assert caught.value.param == "after"
