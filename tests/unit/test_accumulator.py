"""Deltas add up to the completion that the server would have sent at once."""

from __future__ import annotations

import base64
import sys
from typing import Any

import pytest

from deltabus.chat.accumulator import Accumulator, text


def chunk(delta: Any = None, index: int | None = 0, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {} if delta is None else delta, "finish_reason": None, **fields}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1694268190,
        "model": "gpt-4o-mini",
        "choices": [{key: value for key, value in choice.items() if key != "index" or value is not None}],
    }


def completion(*deltas: Any) -> dict[str, Any]:
    return Accumulator(each if "choices" in each else chunk(each) for each in deltas).completion()


def choice(*deltas: Any) -> dict[str, Any]:
    [only] = completion(*deltas)["choices"]
    return only


def message(*deltas: Any) -> dict[str, Any]:
    return choice(*deltas)["message"]


def calls(*deltas: Any) -> list[tuple[str, str, str]]:
    """Id, name and arguments of the tool calls in the answer."""
    found = message(*({"tool_calls": each} if isinstance(each, list) else each for each in deltas))["tool_calls"]
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in found]


def call(index: int | None = None, id: str | None = None, name: str | None = None, arguments: str | None = None):
    """A delta of a tool call with the fields that are given."""
    function = {"name": name, "arguments": arguments}
    entry = {"index": index, "id": id, "type": None if id is None else "function", "function": function}
    function_given = {key: value for key, value in function.items() if value is not None}
    return {key: value for key, value in (entry | {"function": function_given}).items() if value is not None}


def test_the_documented_stream_becomes_the_documented_completion():
    whole = Accumulator(
        [
            chunk({"role": "assistant", "content": "", "refusal": None}, logprobs=None),
            chunk({"content": "Hello"}, logprobs=None),
            chunk({"content": " there"}, logprobs=None),
            chunk(logprobs=None, finish_reason="stop"),
            {**chunk(), "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}},
        ]
    ).completion()
    assert whole == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1694268190,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }


def test_nothing_that_did_not_come_is_made_up():
    assert Accumulator().completion() == {"object": "chat.completion", "choices": []}
    assert Accumulator().snapshot() == []


def test_an_unfinished_stream_gives_what_there_is_of_it():
    half = choice({"role": "assistant", "content": "Hel"})
    assert (half["message"]["content"], half["finish_reason"]) == ("Hel", None)


def test_choices_are_kept_apart_by_index_and_sorted():
    chunks = [chunk({"content": word}, index) for index, word in ((2, "c"), (0, "a"), (1, "b"), (0, "A"), (2, "C"))]
    whole = Accumulator(chunks).completion()
    assert [(each["index"], each["message"]["content"]) for each in whole["choices"]] == [
        (0, "aA"),
        (1, "b"),
        (2, "cC"),
    ]


def test_two_choices_in_one_chunk_are_told_apart_by_place_where_they_have_no_index():
    both = {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}}]}
    assert [each["message"]["content"] for each in completion(both, both)["choices"]] == ["aa", "bb"]


@pytest.mark.parametrize(
    ("deltas", "content"),
    [
        (({"content": ""}, {}), ""),
        (({"content": None}, {}), None),
        (({"role": "assistant"}, {}), None),
        (({"content": ""}, {"refusal": "I will not"}), None),
        (({"content": ""}, {"tool_calls": [call(0, "a", "f", "{}")]}), None),
        (({"content": ""}, {"function_call": {"name": "f", "arguments": "{}"}}), None),
        (({"content": "Let me look"}, {"tool_calls": [call(0, "a", "f", "{}")]}), "Let me look"),
    ],
)
def test_content_is_null_only_where_something_else_is_the_answer(deltas: tuple[Any, ...], content: str | None):
    assert message(*deltas)["content"] == content


def test_a_role_is_set_once_however_often_it_comes():
    deltas = (
        {"role": "", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": None},
        {"role": "assistant"},
    )
    assert message(*deltas)["role"] == "assistant"


def test_refusals_add_up():
    assert message({"refusal": None}, {"refusal": "I "}, {"refusal": "will not"})["refusal"] == "I will not"


# Tool calls.


def test_arguments_of_several_calls_may_interleave():
    assert calls(
        [call(1, "b", "g", "")],
        [call(0, "a", "f", "")],
        [call(0, arguments="{"), call(1, arguments="[")],
        [call(1, arguments="]"), call(0, arguments="}")],
    ) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_gaps_between_indexes_leave_nothing_behind():
    assert calls([call(3, "b", "g", "")], [call(7, "a", "f", "{")], [call(7, arguments="}")]) == [
        ("b", "g", ""),
        ("a", "f", "{}"),
    ]


def test_the_same_index_twice_in_one_chunk_is_one_call():
    assert calls([call(0, "a", "f"), call(0, arguments="{"), call(0, arguments="}")]) == [("a", "f", "{}")]


def test_the_same_index_with_a_new_id_is_a_new_call():
    assert calls([call(0, "a", "f", "1")], [call(0, "b", "f", "2")], [call(0, arguments="3")]) == [
        ("a", "f", "1"),
        ("b", "f", "23"),
    ]


def test_an_earlier_call_at_an_index_is_found_again_by_its_id():
    assert calls([call(0, "a", "f")], [call(0, "b", "g")], [call(0, "a", arguments="1")], [call(0, arguments="2")]) == [
        ("a", "f", "12"),
        ("b", "g", ""),
    ]


def test_without_an_index_the_id_says_which_call_is_meant():
    deltas = (
        [call(id="a", name="f", arguments="1")],
        [call(id="b", name="f", arguments="2")],
        [call(id="a", arguments="3")],
    )
    assert calls(*deltas) == [("a", "f", "13"), ("b", "f", "2")]


def test_with_neither_index_nor_id_a_name_begins_a_call():
    deltas = [call(name="f", arguments="1"), call(name="f", arguments="2")], [call(arguments="3")]
    assert calls(*deltas) == [("", "f", "1"), ("", "f", "23")]


def test_an_id_may_come_late():
    assert calls([call(0, name="f")], [call(0, "a", arguments="1")], [call(0, "a", arguments="2")]) == [
        ("a", "f", "12")
    ]


def test_repeated_ids_types_and_names_are_not_doubled():
    assert calls([call(0, "a", "get_weather", "{")], [call(0, "a", "get_weather", "}")]) == [("a", "get_weather", "{}")]


def test_a_name_may_come_in_pieces():
    assert calls([call(0, "a", "get_")], [call(0, name="weather")], [call(0, name="get_weather")]) == [
        ("a", "get_weather", "")
    ]


def test_arguments_that_come_as_an_object_become_a_string_of_json():
    entry = {"id": "a", "function": {"name": "f", "arguments": {"city": "Löbau"}}}
    assert calls([entry]) == [("a", "f", '{"city":"Löbau"}')]


def test_a_type_is_function_unless_the_server_says_otherwise():
    assert (
        message({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]})["tool_calls"][0]["type"]
        == "function"
    )


def test_custom_tool_calls_add_up():
    start = {"index": 0, "id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT"}}
    more = {"index": 0, "custom": {"input": " 1"}}
    [whole] = message({"tool_calls": [start]}, {"tool_calls": [more]})["tool_calls"]
    assert whole == {"id": "a", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}


def test_the_deprecated_function_call_adds_up():
    deltas = ({"name": "f", "arguments": ""}, {"name": "f", "arguments": "{"}, {"arguments": "}"})
    answer = message(*({"function_call": each} for each in deltas))
    assert answer["function_call"] == {"name": "f", "arguments": "{}"}


# What else an answer holds.


def test_log_probabilities_add_up_for_content_and_refusal():
    token = [{"token": name, "logprob": -0.1, "bytes": None, "top_logprobs": []} for name in "abc"]
    whole = choice(
        chunk({"content": "a"}, logprobs={"content": token[:1], "refusal": None}),
        chunk({"content": "b"}, logprobs=None),
        chunk({"content": "c"}, logprobs={"content": token[1:], "refusal": token[:1]}),
    )
    assert whole["logprobs"] == {"content": token, "refusal": token[:1]}


def test_the_last_usage_counts_and_a_later_chunk_does_not_erase_it():
    usages = ({"total_tokens": 1}, None, {"total_tokens": 5}, {}, None)
    assert completion(*({**chunk(), "usage": each} for each in usages))["usage"] == {"total_tokens": 5}


def test_audio_adds_up_also_where_each_piece_is_padded():
    sound = [b"\x00\x01", b"\x02\x03\x04\x05", b"\x06"]
    deltas = [{"audio": {"id": "audio_1"}}, {"audio": {"transcript": "He"}}, {"audio": {"transcript": "llo"}}]
    deltas += [{"audio": {"data": base64.b64encode(each).decode()}} for each in sound]
    assert message(*deltas, {"audio": {"expires_at": 99}})["audio"] == {
        "id": "audio_1",
        "transcript": "Hello",
        "data": base64.b64encode(b"".join(sound)).decode(),
        "expires_at": 99,
    }


def test_audio_that_is_no_base64_is_left_as_it_came():
    assert message({"audio": {"data": "a=b"}}, {"audio": {"data": "!=é"}})["audio"]["data"] == "a=b!=é"


def test_annotations_add_up():
    notes = [{"type": "url_citation", "url_citation": {"url": f"https://{name}.example"}} for name in "ab"]
    assert message({"annotations": notes[:1]}, {"annotations": notes[1:]})["annotations"] == notes


def test_unknown_fields_of_a_delta_are_kept_as_increments():
    whole = message(
        {"tool_plan": "First ", "extra_content": {"google": {"thought_signature": "sig"}}, "images": [{"n": 1}]},
        {"tool_plan": "this", "extra_content": {"google": {"thought": True}}, "images": [{"n": 2}], "channel": "final"},
        {"tool_plan": ", then that", "channel": "final", "nothing": None},
    )
    assert whole["tool_plan"] == "First this, then that"
    assert whole["extra_content"] == {"google": {"thought_signature": "sig", "thought": True}}
    assert whole["images"] == [{"n": 1}, {"n": 2}]
    assert whole["channel"] == "final"
    assert "nothing" not in whole


def test_unknown_fields_elsewhere_say_what_holds_for_the_whole():
    def said(fingerprint: str, citations: list[str], matched: Any, tokens: list[int]) -> dict[str, Any]:
        told = chunk({"content": "x"}, stop_reason=matched, token_ids=tokens, content_filter_results={fingerprint: {}})
        return {**told, "system_fingerprint": fingerprint, "citations": citations}

    whole = completion(said("fp_1", ["a"], None, [1]), said("fp_2", ["a", "b"], 7, [2, 3]), said("", [], None, []))
    assert (whole["system_fingerprint"], whole["citations"]) == ("fp_2", ["a", "b"])
    assert whole["choices"][0]["stop_reason"] == 7
    assert whole["choices"][0]["token_ids"] == [1, 2, 3]
    assert whole["choices"][0]["content_filter_results"] == {"fp_1": {}, "fp_2": {}, "": {}}


def test_padding_is_dropped():
    whole = completion({**chunk({"content": "a", "obfuscation": "x"}), "obfuscation": "xyz"})
    assert "obfuscation" not in str(whole)


def test_half_a_surrogate_pair_does_not_make_the_answer_unwritable():
    assert message({"content": "a\ud83d"}, {"content": "b"})["content"] == "a?b"


def test_nesting_without_end_is_kept_as_it_came():
    objects: dict[str, Any] = {"text": "x"}
    lists: dict[str, Any] = {"text": "x"}
    for _ in range(5000):
        objects, lists = {"inner": objects}, {"reasoning_details": [lists]}
    accumulator = Accumulator([chunk({"objects": objects, **lists})])
    for answer in (accumulator, Accumulator(accumulator.snapshot())):
        kept = answer.completion()["choices"][0]["message"]
        assert kept["objects"].keys() == {"inner"}
        assert kept["reasoning_details"][0].keys() == {"reasoning_details"}


def test_what_makes_no_sense_is_passed_over():
    nonsense = [
        {"function": {"name": 1, "arguments": None}, "index": 0, "type": 1},
        {"index": True, "id": 5, "function": "f"},
        None,
    ]
    answer = message({"tool_calls": nonsense}, {"tool_calls": {}}, {"role": 1, "refusal": 1, "function_call": "f"})
    assert answer["tool_calls"] == [{"id": "", "type": "function", "function": {"name": "", "arguments": ""}}]
    assert answer.keys() == {"role", "content", "refusal", "tool_calls"}
    blocks = ["x", {"type": "reasoning.text", "text": "a"}, {"type": "new", "text": "b"}, {"type": "reasoning.text"}]
    assert message({"reasoning_details": blocks})["reasoning_details"] == blocks


# Snapshots.


def test_a_snapshot_continues_the_same_calls():
    before = Accumulator(
        chunk({"tool_calls": each})
        for each in ([call(0, "a", "f")], [call(0, "b", "g")], [call(id="c", name="h")], [call(0, "a", arguments="1")])
    )
    after = Accumulator(before.snapshot())
    for each in (before, after):
        each.add(chunk({"tool_calls": [call(arguments="2")]}))
        each.add(chunk({"tool_calls": [call(1, arguments="3")]}))
        each.add(chunk({"tool_calls": [call(0, arguments="4")]}))
    assert after.completion() == before.completion()
    found = [
        (each["id"], each["function"]["arguments"])
        for each in after.completion()["choices"][0]["message"]["tool_calls"]
    ]
    assert found == [("a", "124"), ("b", ""), ("c", "3")]


def test_a_snapshot_is_what_a_subscriber_takes_for_chunks():
    accumulator = Accumulator([chunk({"role": "assistant", "content": "Hi"}), chunk(finish_reason="end_turn")])
    first, last = accumulator.snapshot()
    assert first["object"] == last["object"] == "chat.completion.chunk"
    assert first["id"] == last["id"] == "chatcmpl-1"
    assert text(first) == "Hi"
    assert last["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "end_turn"}]


def test_a_stream_costs_little_more_memory_than_its_text():
    accumulator = Accumulator([chunk({"content": ""})])
    for _ in range(1000):
        accumulator.add(chunk({"content": "word "}))
    content = accumulator._choices[0].content
    assert content is not None
    assert sys.getsizeof(content) < 1.25 * len("word ") * 1000


# Text.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (chunk({"content": "a"}), "a"),
        (chunk({"content": "a"}, None), "a"),
        (chunk({"content": "a"}, 1), ""),
        (chunk({"content": None}), ""),
        (chunk({"reasoning_content": "hm"}), ""),
        (chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}), ""),
        (chunk({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "ab"),
        ({"choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}]}, "a"),
        ({"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]}, "a"),
        ({"choices": []}, ""),
        ({"choices": None}, ""),
        ({"choices": [None, 1, {"index": 0}, {"index": 0, "delta": "x"}]}, ""),
        ({}, ""),
    ],
)
def test_text_is_what_a_chunk_adds_to_the_content_of_choice_0(data: dict[str, Any], expected: str):
    assert text(data) == expected
