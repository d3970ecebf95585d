"""The text of an answer is told once and whole, whatever way its events come."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltabus import keys
from deltabus.errors import TaskRestarted
from deltabus.events import AnyEvent, Cancelled, Completed, Delta, Progress, Retrying, Snapshot, Started
from deltabus.telling import Telling


def started(attempt: int = 1) -> Started:
    return Started(task="t", id=f"{attempt}-0", at=1.0)


def chunks(*texts: str) -> tuple[dict[str, object], ...]:
    return tuple({"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts)


def delta(*texts: str) -> Delta:
    return Delta(task="t", id="1-1", chunks=chunks(*texts))


def snapshot(*texts: str) -> Snapshot:
    return Snapshot(task="t", id="1-9", chunks=chunks(*texts))


def completed(content: object) -> Completed:
    message = {"role": "assistant", "content": content}
    return Completed(task="t", id=keys.SEAL, at=1.0, result={"choices": [{"index": 0, "message": message}]})


def told(*events: AnyEvent) -> list[str]:
    telling = Telling("t")
    return [piece for event in events if (piece := telling.feed(event))]


def test_each_delta_is_told_at_once():
    assert told(started(), delta("a", "b"), delta("c"), completed("abc")) == ["ab", "c"]


def test_what_has_no_text_tells_nothing():
    other = Delta(task="t", chunks=({"choices": []}, {"choices": [{"index": 1, "delta": {"content": "x"}}]}, {}))
    assert told(started(), other, Progress(task="t", at=1.0, done=1), Cancelled(task="t", at=1.0)) == []


@given(st.lists(st.text(min_size=1, max_size=5), max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_a_snapshot_adds_only_what_is_new(texts, at, seen):
    """A subscriber has seen some deltas, missed others, and is given a snapshot that holds them all."""
    at = min(at, len(texts))
    seen = min(seen, at)
    whole = "".join(texts)
    events = [started(), *map(delta, texts[:seen]), snapshot(*texts[:at]), *map(delta, texts[at:]), completed(whole)]
    assert "".join(told(*events)) == whole
    assert "".join(told(snapshot(*texts[:at]), *map(delta, texts[at:]), completed(whole))) == whole


@given(st.text(min_size=1), st.integers(0, 100), st.lists(st.integers(0, 100), max_size=4))
def test_an_attempt_that_says_the_same_again_goes_on_where_the_first_ended(whole, cut, cuts):
    places = sorted({min(place, len(whole)) for place in cuts} | {0, len(whole)})
    again = [delta(whole[a:b]) for a, b in pairwise(places)]
    retrying = Retrying(task="t", at=1.0, reason="r")
    assert "".join(told(started(), delta(whole[:cut]), retrying, started(2), *again, completed(whole))) == whole


@pytest.mark.parametrize(
    "events",
    [
        (delta("Hello"), started(2), delta("Good day")),
        (delta("Hello"), started(2), delta("Hel"), delta("p")),
        (delta("Hello"), started(2), snapshot("Help")),
        (delta("Hello"), started(2), completed("Good day")),
        (delta("Hello"), started(2), delta("Hell"), completed("Hell")),
        (delta("Hello"), started(2), completed(None)),
    ],
)
def test_what_contradicts_what_was_told_is_an_error(events):
    with pytest.raises(TaskRestarted, match="t runs again"):
        told(started(), *events)


@pytest.mark.parametrize("content", ["whole", "", None, [{"type": "text"}]])
def test_an_answer_that_did_not_stream_is_told_at_its_end(content):
    assert told(started(), completed(content)) == ([content] if content == "whole" else [])


@pytest.mark.parametrize("result", [None, [], {}, {"choices": []}, {"choices": [{}]}, {"id": "file-1"}, "text", 1])
def test_a_result_that_is_no_completion_has_no_text(result):
    assert told(Completed(task="t", at=1.0, result=result)) == []


def test_a_result_that_differs_from_its_own_stream_changes_nothing():
    assert told(started(), delta("a "), completed("a")) == ["a "]
