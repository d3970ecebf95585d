"""Streams as servers other than OpenAI's send them, numbered as the wire tests number their dialects."""

from __future__ import annotations

from typing import Any

import pytest

from deltabus.chat.accumulator import Accumulator


def delta(fields: Any, **others: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, **others}]}


def whole(*chunks: dict[str, Any]) -> dict[str, Any]:
    return Accumulator(chunks).completion()


def choice(*chunks: dict[str, Any]) -> dict[str, Any]:
    [only] = whole(*chunks)["choices"]
    return only


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_6_reasoning_keeps_the_name_under_which_it_came(name: str):
    message = choice(delta({name: "Let ", "content": None}), delta({name: "me"}), delta({name: "", "content": "4"}))[
        "message"
    ]
    assert message == {"role": "assistant", "content": "4", "refusal": None, name: "Let me"}


def test_6_reasoning_under_both_names_is_not_doubled():
    message = choice(*(delta({"reasoning": each, "reasoning_content": each}) for each in ("ha", "ha")))["message"]
    assert (message["reasoning"], message["reasoning_content"]) == ("haha", "haha")


def test_6_reasoning_that_changes_its_name_stays_one_text():
    message = choice(delta({"reasoning": "Let "}), delta({"reasoning_content": "me"}))["message"]
    assert (message["reasoning"], message["reasoning_content"]) == ("Let me", "Let me")


def test_6_blocks_of_reasoning_are_put_together_where_they_follow_each_other():
    def said(type: str, **fields: Any) -> dict[str, Any]:
        return delta({"reasoning_details": [{"type": f"reasoning.{type}", "index": 0, "format": "f", **fields}]})

    message = choice(
        said("summary", summary="Let "),
        said("summary", summary="me"),
        said("encrypted", data="xxx", id="rs_1"),
        said("encrypted", data="yyy", id="rs_2"),
        said("text", text="I ", signature=None),
        said("text", text="see", signature=None),
        said("text", signature="sig"),
    )["message"]
    rest = {"index": 0, "format": "f"}
    assert message["reasoning_details"] == [
        {"type": "reasoning.summary", "summary": "Let me", **rest},
        {"type": "reasoning.encrypted", "data": "xxx", "id": "rs_1", **rest},
        {"type": "reasoning.encrypted", "data": "yyy", "id": "rs_2", **rest},
        {"type": "reasoning.text", "text": "I see", "signature": "sig", **rest},
    ]


def test_9_cumulative_usage_is_not_summed():
    assert whole(*({"usage": {"total_tokens": each}, "choices": []} for each in (1, 2, 3)))["usage"] == {
        "total_tokens": 3
    }


def test_12_null_content_is_not_the_word_null():
    assert choice(delta({"role": "assistant", "content": None}), delta({"content": "a"}))["message"]["content"] == "a"


def test_14_calls_that_all_have_the_index_0_are_told_apart_by_id():
    entries = [{"index": 0, "id": each, "function": {"name": "f", "arguments": "{}"}} for each in ("call_1", "call_2")]
    for chunks in ([delta({"tool_calls": entries})], [delta({"tool_calls": [each]}) for each in entries]):
        assert [each["id"] for each in choice(*chunks)["message"]["tool_calls"]] == ["call_1", "call_2"]


def test_15_calls_without_an_index_keep_what_came_with_them():
    signed = {"google": {"thought_signature": "CpwB"}}
    entry = {
        "id": "function-call-1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
        "extra_content": signed,
    }
    other = {"id": "function-call-2", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = choice(delta({"tool_calls": [entry]}), delta({"tool_calls": [other]}), delta({}, finish_reason="stop"))
    assert answer["message"]["tool_calls"] == [entry, other]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (("tool_calls", "stop"), "tool_calls"),
        (("length", "stop"), "length"),
        (("stop", "stop", "length"), "length"),
        (("stop", "content_filter", "stop"), "content_filter"),
    ],
)
def test_15_a_stop_does_not_replace_a_reason_that_says_more(said: tuple[str, ...], meant: str):
    assert choice(*(delta({}, finish_reason=each) for each in said))["finish_reason"] == meant


def test_17_the_same_index_twice_in_one_chunk_is_merged():
    entries = [{"index": 0, "id": "a", "function": {"name": "f"}}, {"index": 0, "function": {"arguments": "{"}}]
    more = [{"index": 0, "function": {"arguments": "}"}}]
    [call] = choice(delta({"tool_calls": entries}), delta({"tool_calls": more}))["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": "{}"}


def test_18_a_role_on_every_delta_is_one_role():
    assert choice(*(delta({"role": "assistant", "content": each}) for each in "abc"))["message"]["role"] == "assistant"


def test_19_neither_id_nor_created_nor_reason_is_needed():
    chunks = [{**delta({"content": each}), "usage": {"total_tokens": 0}} for each in "ab"]
    assert whole(*chunks) == {
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "refusal": None},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
        "usage": {"total_tokens": 0},
    }


def test_20_azures_first_chunk_leaves_its_results_but_no_empty_identity():
    filtered = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}]
    first = {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": filtered}
    second = {
        "id": "chatcmpl-1",
        "created": 7,
        "model": "gpt-4o",
        "prompt_filter_results": [],
        **delta({"content": "a"}),
    }
    answer = whole(first, second)
    assert (answer["id"], answer["created"], answer["model"]) == ("chatcmpl-1", 7, "gpt-4o")
    assert answer["object"] == "chat.completion"
    assert answer["prompt_filter_results"] == filtered


def test_21_a_choice_without_a_delta_adds_what_it_says_of_the_choice():
    note = {"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 44}}]}
    answer = choice(delta({"content": "a"}), note, delta({"content": "b"}))
    assert answer["message"]["content"] == "ab"
    assert answer["content_filter_offsets"] == {"check_offset": 44}


def test_22_a_first_chunk_may_lack_fields_and_a_role_may_turn_null():
    first = {"id": "1", "model": "m", **delta({"role": "assistant"})}
    second = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 5,
        "model": "m",
        **delta({"role": None, "content": "a"}),
    }
    answer = whole(first, second)
    assert answer["created"] == 5
    assert answer["choices"][0]["message"]["role"] == "assistant"


def test_23_a_content_that_is_a_list_is_taken_apart():
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm "}, {"type": "text", "text": "ok"}]}
    reference = {"type": "reference", "reference_ids": [1]}
    message = choice(
        delta({"role": "assistant", "content": ""}),
        delta({"content": [thinking]}),
        delta({"content": [{"type": "thinking", "thinking": "!"}, {"type": "text", "text": "4"}, reference, "2"]}),
        delta({"content": "."}),
    )["message"]
    assert message["content"] == "42."
    assert message["reasoning_content"] == "hm ok!"
    assert message["content_parts"] == [reference]


def test_25_usage_is_found_where_groq_and_moonshot_put_it():
    groq = {"x_groq": {"id": "req_1", "usage": {"total_tokens": 3}}, **delta({"tool_calls": []}, finish_reason="stop")}
    answer = whole({"x_groq": {"id": "req_1"}, **delta({"content": "a"})}, groq)
    assert answer["usage"] == {"total_tokens": 3}
    assert "tool_calls" not in answer["choices"][0]["message"]
    assert whole(delta({"content": "a"}), delta({}, usage={"total_tokens": 4}))["usage"] == {"total_tokens": 4}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("STOP", "stop"),
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("abort", "length"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("error", None),
    ],
)
def test_27_other_words_for_the_end_are_translated_and_kept(said: str, meant: str | None):
    answer = choice(delta({"content": "a"}), delta({}, finish_reason=said))
    assert (answer["finish_reason"], answer["native_finish_reason"]) == (meant, said)


@pytest.mark.parametrize("said", ["stop", "length", "tool_calls", "function_call", "content_filter", "brand_new"])
def test_27_the_apis_own_words_and_unknown_ones_stay(said: str):
    answer = choice(delta({"content": "a"}), delta({}, finish_reason=said))
    assert answer["finish_reason"] == said
    assert "native_finish_reason" not in answer


def test_27_an_empty_reason_beside_text_is_not_the_end():
    assert choice(*(delta({"content": each}, finish_reason="") for each in "ab"))["finish_reason"] is None


def test_27_a_servers_own_native_reason_is_not_replaced():
    answer = choice(delta({}, finish_reason="end_turn", native_finish_reason="STOP"))
    assert (answer["finish_reason"], answer["native_finish_reason"]) == ("stop", "STOP")


def test_a_message_beside_deltas_is_not_added_to_them():
    chunks = [delta({"content": "a"}, message={"content": "a"}), delta({"content": "b"}, message={"content": "ab"})]
    assert choice(*chunks)["message"]["content"] == "ab"


def test_a_message_in_place_of_deltas_is_the_answer():
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "a", "tool_calls": [call], "refusal": None}
    once = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    assert choice(once)["message"] == message
    assert choice(delta({"content": "a"}), once)["message"]["content"] == "a"
