"""The shows, scaled down: the same faults and the same review as `make shows`, with fewer streams and short leases."""

from __future__ import annotations

import asyncio

import pytest

from deltabus.events import Completed, Delta, Started
from rehearse.report import Rehearsal
from rehearse.report import table as rehearsed
from shows.acts import ACTS
from shows.review import NEVER, Figures, doubled, gaps, is_right, stale, table, violations
from shows.stage import Stream

#: Leases as short as a machine with a busy neighbour keeps them.
FAST = {"lease": 2.0, "heartbeat_interval": 0.5}

#: Streams, and how each show is cut down.
SMALL = {
    "crash": (30, {"words": 20, "interval": 0.1, "stalls": 10}),
    "freeze": (10, {"words": 40, "interval": 0.1, "stalls": 30, "seconds": 0.0}),
    "restart": (30, {"words": 30, "interval": 0.1}),
    "rolling": (30, {"words": 8, "interval": 0.1, "share": 10, "longer": 7, "drain_timeout": 4.0}),
}


@pytest.mark.parametrize("name", ACTS)
def test_a_show_goes_right_on_a_small_stage_too(name: str) -> None:
    act, (tasks, smaller) = ACTS[name], SMALL[name]
    figures: Figures = asyncio.run(act.show(tasks, **smaller, **FAST))
    # How long it took is for the full size to tell.
    wrong = violations(figures, {figure: limit for figure, limit in act.limits.items() if not figure.endswith(", s")})
    print(table(name, figures, wrong))  # noqa: T201 # shown where the test fails
    assert not wrong


def test_a_rehearsal_in_short_loses_nothing_where_old_workers_leave_first() -> None:
    tasks, smaller = SMALL["rolling"]
    figures: Figures = asyncio.run(ACTS["rolling"].show(tasks, processes=2, surge=False, **smaller, **FAST))
    rehearsal = Rehearsal.of(figures)
    wrong = violations(figures, ACTS["rolling"].limits)
    print(rehearsed(rehearsal, wrong))  # noqa: T201 # shown where the test fails
    assert not wrong
    assert (rehearsal.replaced_workers, rehearsal.lost, rehearsal.doubled) == (2, 0, 0)
    assert rehearsal.tasks >= tasks
    assert rehearsal.attempts_rerun == rehearsal.handed_back
    assert rehearsal.longest_gap > 0 < rehearsal.time


def test_a_rehearsal_that_loses_something_says_so() -> None:
    figures = dict.fromkeys(NEVER, 0.0) | {"streams": 9, "attempts": 11, "handed back": 2, "workers replaced": 4}
    figures |= {"longest gap of a subscriber, s": 1.25, "replaced all within, s": 60.0}
    assert "lost                     0" in rehearsed(Rehearsal.of(figures), violations(figures, {}))
    figures |= {"not completed": 1.0, "wrong texts": 1.0, "stale": 1.0}
    shown = rehearsed(Rehearsal.of(figures), violations(figures, {}))
    assert (
        "attempts rerun           2\nhanded back              2\nlost                     1\ndoubled                  1"
        in shown
    )
    assert "! not completed: 1, allowed are 0" in shown


def test_a_review_sees_what_is_wrong() -> None:
    right = ["1-0", "1-1", "2-0", "2-1", "9007199254740991-0"]
    assert gaps(right) == doubled(right) == stale(right) == 0
    assert gaps(["1-0", "1-2", "9007199254740991-0"]) == 1
    assert gaps(["1-1", "9007199254740991-0"]) == 1
    assert gaps(["1-0", "1-1"]) == 1
    assert doubled(["1-0", "1-1", "1-1"]) == 1
    assert stale(["1-0", "2-0", "1-1", "2-1"]) == 1
    figures = dict.fromkeys(NEVER, 0.0) | {"gaps": 2.0, "run again": 1.0}
    assert len(violations(figures, {"run again": 0})) == 2
    assert "! gaps: 2" in table("crash", figures, violations(figures, {}))


def test_a_text_that_is_not_the_streams_own_is_wrong() -> None:
    def told(text: str, result: str) -> Stream:
        stream = Stream(None, "a", 2)  # type: ignore[arg-type] # it is not followed
        chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}
        message = {"choices": [{"message": {"content": result}}]}
        stream.events = [
            Started(task="t", id="1-0", at=1.0),
            Delta(task="t", id="1-1", chunks=(chunk,)),
            Completed(task="t", id="9007199254740991-0", at=2.0, result=message),
        ]
        return stream

    assert is_right(told("a a", "a a"))
    assert not is_right(told("a b", "a b"))
    assert not is_right(told("a", "a a"))
