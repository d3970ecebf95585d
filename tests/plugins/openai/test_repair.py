"""Tool calls get indexes of their own, whatever the server makes of index and id."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from deltabus_openai import repair


def fragment(index: Any = None, id: Any = None, name: str | None = None, arguments: str = "") -> dict[str, Any]:
    made: dict[str, Any] = {"function": {"arguments": arguments}}
    if name is not None:
        made["function"]["name"] = name
    if index is not None:
        made["index"] = index
    if id is not None:
        made["id"] = id
    return made


def placed(*fragments: dict[str, Any]) -> list[tuple[int, Any]]:
    """Index and id of each fragment after the repair."""
    calls = repair.ToolCalls()
    for item in fragments:
        before = json.dumps(item)
        assert calls.place(item) == (json.dumps(item) != before), "what is said of the change is true"
    return [(item["index"], item.get("id")) for item in fragments]


@pytest.mark.parametrize("continued", [None, "", "a"])
def test_what_openai_sends_stays_as_it_is(continued: str | None) -> None:
    sent = [
        fragment(0, "a", "now"),
        fragment(0, continued, arguments="{}"),
        fragment(1, "b", "add"),
        fragment(1, arguments="{}"),
        fragment(0, arguments=" "),
    ]
    before = copy.deepcopy(sent)
    placed(*sent)
    assert sent == before


def test_indexes_with_gaps_and_out_of_order_stay() -> None:
    assert placed(fragment(3, "a", "now"), fragment(1, "b", "add"), fragment(3), fragment(1)) == [
        (3, "a"),
        (1, "b"),
        (3, None),
        (1, None),
    ]


def test_calls_that_share_an_index_are_told_apart_by_id() -> None:
    sent = [fragment(0, "a", "now"), fragment(0, "b", "now"), fragment(0), fragment(0, "a"), fragment(0)]
    assert placed(*sent) == [(0, "a"), (1, "b"), (1, None), (0, "a"), (0, None)]


def test_an_index_that_was_given_away_is_not_given_twice() -> None:
    assert placed(fragment(0, "a", "now"), fragment(0, "b", "now"), fragment(1, "c", "now"), fragment(1)) == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
        (2, None),
    ]


def test_a_made_up_id_on_each_fragment_means_the_same_call() -> None:
    """As Poolside sends them (poolsideai/pool#9)."""
    assert placed(fragment(0, "a", "now"), fragment(0, "x"), fragment(0, "y"), fragment(1, "b", "add")) == [
        (0, "a"),
        (0, None),
        (0, None),
        (1, "b"),
    ]


def test_a_name_as_id_does_not_merge_calls_at_indexes_of_their_own() -> None:
    assert placed(fragment(0, "now", "now"), fragment(1, "now", "now"), fragment(1)) == [
        (0, "now"),
        (1, "now"),
        (1, None),
    ]


@pytest.mark.parametrize("index", [None, -1, "0", 1.0, True])
def test_without_a_usable_index_the_id_decides_then_the_name_then_the_order(index: Any) -> None:
    sent = [
        fragment(index, "a", "now"),
        fragment(index),
        fragment(index, "b", "add"),
        fragment(index, "a"),
        fragment(index),
        fragment(index, None, "sub"),
        fragment(index),
    ]
    assert [place for place, _ in placed(*sent)] == [0, 0, 1, 0, 0, 2, 2]


def test_an_id_that_comes_late_is_the_calls() -> None:
    assert placed(fragment(0, None, "now"), fragment(0, "a"), fragment(0, "b", "add")) == [
        (0, None),
        (0, "a"),
        (1, "b"),
    ]


def test_an_id_that_is_no_text_is_none() -> None:
    assert placed(fragment(0, 7, "now"), fragment(0, 8)) == [(0, 7), (0, 8)]


def test_choices_number_their_calls_apart() -> None:
    calls: dict[int, repair.ToolCalls] = {}
    data: dict[str, Any] = {
        "choices": [
            {"index": index, "delta": {"tool_calls": [fragment(None, id_, "now")]}} for index, id_ in enumerate("ab")
        ]
    }
    assert repair.chunk(data, calls)
    assert [choice["delta"]["tool_calls"][0]["index"] for choice in data["choices"]] == [0, 0]


@pytest.mark.parametrize("odd", [None, [], {}, "x", [None], ["x"], 7])
def test_tool_calls_of_another_form_are_left_alone(odd: Any) -> None:
    data = {"choices": [{"index": 0, "delta": {"tool_calls": odd}}]}
    before = copy.deepcopy(data)
    assert not repair.chunk(data, {})
    assert data == before


def test_content_of_another_kind_becomes_text() -> None:
    data: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": 42}}]}
    assert repair.chunk(data, {})
    assert data["choices"][0]["delta"]["content"] == "42"


def test_an_odd_part_of_content_is_kept() -> None:
    delta: dict[str, Any] = {
        "content": ["a", {"type": "text", "text": 1}, 7, {"type": "thinking", "thinking": ["b", 7]}]
    }
    assert repair.chunk({"choices": [{"index": 0, "delta": delta}]}, {})
    assert delta == {"content": "a", "reasoning_content": "b", "content_parts": [{"type": "text", "text": 1}, 7]}
