"""The stream grammar check finds what is wrong with a list of events, and nothing where nothing is."""

from __future__ import annotations

import pytest

from deltabus import keys
from deltabus.errors import ErrorInfo
from deltabus.events import Cancelled, Completed, Delta, Failed, Progress, Retrying, Snapshot, Started
from deltabus.testing.grammar import GrammarError, check_events, violations


def chunk(content: str, index: int = 0) -> dict:
    return {"choices": [{"index": index, "delta": {"content": content}}]}


def completion(*contents: str) -> dict:
    return {"choices": [{"index": index, "message": {"content": content}} for index, content in enumerate(contents)]}


def started(id: str, task: str = "t") -> Started:
    return Started(task=task, id=id, at=1.0)


def delta(id: str, *contents: str, task: str = "t") -> Delta:
    return Delta(task=task, id=id, chunks=tuple(map(chunk, contents or ("x",))))


def snapshot(id: str, content: str) -> Snapshot:
    return Snapshot(task="t", id=id, chunks=(chunk(content),))


def progress(id: str, done: int, total: int | None = None) -> Progress:
    return Progress(task="t", id=id, at=1.0, done=done, total=total)


def retrying(id: str) -> Retrying:
    return Retrying(task="t", id=id, at=1.0, reason="rate_limited")


def completed(*contents: str, id: str = keys.SEAL) -> Completed:
    return Completed(task="t", id=id, at=2.0, result=completion(*contents))


FAILED = Failed(task="t", id=keys.SEAL, at=2.0, error=ErrorInfo(code="internal", message="x"))
CANCELLED = Cancelled(task="t", id=keys.SEAL, at=2.0)

GOOD = {
    "one attempt": [started("1-0"), delta("1-1", "a", "b"), delta("1-2", "c"), completed("abc")],
    "a retry voids what was streamed": [
        started("1-0"),
        delta("1-1", "a"),
        retrying("1-2"),
        started("2-0"),
        delta("2-1", "b"),
        completed("b"),
    ],
    "a worker that was lost": [started("1-0"), delta("1-1"), started("2-0"), completed("")],
    "never started": [CANCELLED],
    "failed while it waited for its retry": [started("1-0"), retrying("1-1"), FAILED],
    "a log that was trimmed": [snapshot("2-9", "ab"), delta("2-10", "c"), completed("abc")],
    "a snapshot seen live": [
        started("1-0"),
        delta("1-1", "a"),
        snapshot("1-2", "a"),
        delta("1-3", "b"),
        completed("ab"),
    ],
    "cut off while the log was trimmed": [started("1-0"), delta("1-1", "a"), snapshot("1-9", "abc"), completed("abc")],
    "cut off while attempts went by": [started("1-0"), snapshot("4-9", "abc"), completed("abc")],
    "begun anew": [started("3-0"), FAILED],
    "several choices": [
        started("1-0"),
        Delta(task="t", id="1-1", chunks=(chunk("a"), chunk("b", 1), chunk("c", 1))),
        completed("a", "bc"),
    ],
    "a file": [
        started("1-0"),
        progress("1-1", 0, 9),
        progress("1-2", 9, 9),
        Completed(task="t", id=keys.SEAL, at=2.0, result=[1]),
    ],
    "streamed without content": [started("1-0"), Delta(task="t", id="1-1", chunks=({"choices": []},)), completed("")],
    "not streamed": [started("1-0"), completed("abc")],
}


@pytest.mark.parametrize("events", GOOD.values(), ids=GOOD)
def test_good_streams_pass(events):
    check_events(events)


BAD = {
    "no end": ([started("1-0"), delta("1-1")], "the stream ends without a terminal event"),
    "nothing at all": ([], "the stream ends without a terminal event"),
    "two ends": ([started("1-0"), FAILED, CANCELLED], f"event 2 (cancelled {keys.SEAL}): comes after the end"),
    "a delta after the end": ([CANCELLED, delta("1-1")], "event 1 (delta 1-1): comes after the end"),
    "a duplicate": (
        [started("1-0"), delta("1-1"), delta("1-1"), FAILED],
        "event 2 (delta 1-1): does not come after 1-1",
    ),
    "out of order": (
        [started("1-0"), delta("1-1"), delta("1-2"), delta("1-1"), FAILED],
        "event 3 (delta 1-1): does not come after 1-2: it is out of order",
    ),
    "a gap": (
        [started("1-0"), delta("1-2"), FAILED],
        "event 1 (delta 1-2): does not follow on 1-0: events are missing",
    ),
    "no start": ([delta("1-1"), FAILED], "event 0 (delta 1-1): begins an attempt, which only `started` does"),
    "no second start": (
        [started("1-0"), delta("2-1"), FAILED],
        "event 1 (delta 2-1): begins an attempt, which only `started` does",
    ),
    "a fenced attempt goes on": (
        [started("1-0"), started("2-0"), delta("1-1"), FAILED],
        "event 2 (delta 1-1): does not come after 2-0",
    ),
    "a skipped attempt": (
        [started("1-0"), started("3-0"), FAILED],
        "event 1 (started 3-0): does not follow on attempt 1",
    ),
    "a start in the middle": (
        [started("1-0"), started("1-1"), FAILED],
        "event 1 (started 1-1): `started`, and nothing",
    ),
    "a delta as a start": ([delta("1-0"), FAILED], "event 0 (delta 1-0): `started`, and nothing else, has n = 0"),
    "goes on after retrying": (
        [started("1-0"), retrying("1-1"), delta("1-2"), FAILED],
        "event 2 (delta 1-2): its attempt was over",
    ),
    "completes after retrying": ([started("1-0"), retrying("1-1"), completed("")], "no attempt was under way"),
    "another task": ([started("1-0"), delta("1-1", task="u"), FAILED], "event 1 (delta 1-1): is of task u, the others"),
    "an end without the seal": ([started("1-0"), completed("", id="1-1")], f"a terminal event has the id {keys.SEAL}"),
    "no id": ([started("1-0"), delta(""), FAILED], "event 1 (delta without id): has no id of the form"),
    "attempt 0": ([started("0-0"), FAILED], "event 0 (started 0-0): has no id of the form <attempt>-<n>, counted from"),
    "a delta with the seal's id": ([started("1-0"), delta(keys.SEAL), FAILED], "has no id of the form <attempt>-<n>"),
    "no chunks": ([started("1-0"), Delta(task="t", id="1-1", chunks=()), FAILED], "event 1 (delta 1-1): has no chunks"),
    "lost text": (
        [started("1-0"), delta("1-1", "ab"), completed("abc")],
        "choice 0 streamed 2 characters of content that are not the 3 of the result",
    ),
    "doubled text after a retry": (
        [started("1-0"), delta("1-1", "a"), started("2-0"), delta("2-1", "a"), completed("aa")],
        "choice 0 streamed 1 characters",
    ),
    "a choice that was not streamed": ([started("1-0"), delta("1-1", "a"), completed("a", "b")], "choice 1 streamed 0"),
    "progress goes back": (
        [started("1-0"), progress("1-1", 5), progress("1-2", 4), FAILED],
        "goes back from 5 to 4 done",
    ),
    "progress past its total": ([started("1-0"), progress("1-1", 5, 4), FAILED], "is past its total: 5 of 4 done"),
}


@pytest.mark.parametrize(("events", "told"), BAD.values(), ids=BAD)
def test_each_violation_is_found_and_named(events, told):
    found = violations(events)
    assert len(found) == 1, found
    assert told in found[0]


def test_the_error_tells_all_violations_at_once():
    with pytest.raises(GrammarError) as caught:
        check_events([delta("1-1"), delta("1-3")])
    assert len(caught.value.violations) == 3
    assert str(caught.value).count("\n") == 2


def test_no_answer_is_in_a_violation():
    told = violations([started("1-0"), delta("1-1", "the secret answer"), completed("another")])
    assert "answer" not in told[0]


def test_a_stream_may_be_left_early_where_that_is_said():
    check_events([started("1-0"), delta("1-1")], complete=False)


def test_a_stream_from_a_cursor_goes_on_right_after_it():
    check_events([delta("1-3"), completed("abc")], after="1-2")
    check_events([started("2-0"), delta("2-1", "b"), completed("b")], after="1-2")
    check_events([snapshot("1-9", "abc"), completed("abc")], after="1-2")
    check_events([], after=keys.SEAL)
    assert "does not follow on 1-2" in violations([delta("1-4"), FAILED], after="1-2")[0]
    assert "does not come after 1-2" in violations([delta("1-2"), FAILED], after="1-2")[0]


@pytest.mark.parametrize(
    "choices", [7, "x", [7], [{"index": [0], "delta": {"content": "x"}}], [{"delta": 7}], [{"delta": {"content": [1]}}]]
)
def test_chunks_of_any_shape_can_be_read(choices):
    events = [started("1-0"), Delta(task="t", id="1-1", chunks=({"choices": choices},))]
    end = Completed(task="t", id=keys.SEAL, at=2.0, result={"choices": choices})
    assert violations(events, complete=False) == []
    violations([*events, end])


@pytest.mark.parametrize("id", ["²-1", "1-" + "9" * 5000])
def test_an_id_that_is_no_number_is_told(id):
    assert "has no id of the form" in violations([delta(id)], complete=False)[0]
