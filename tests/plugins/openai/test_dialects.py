"""What servers that call themselves compatible really send: one test a dialect, each read in every way it can be cut.

The numbers are the rows of the survey on which the plugin is built.
"""

from __future__ import annotations

import json

import pytest
from dialectwords import DONE, HELLO, STOP, TWO, Read, call, calls, chunk, sse, text

from deltabus.http.body import merge
from deltabus.provider import StreamTruncated
from deltabus_openai import OpenAIProvider


def test_a_plain_stream_is_passed_on_byte_by_byte(every_way: Read) -> None:
    outcome = every_way(HELLO)
    assert outcome.code == "ok"
    assert outcome.text == "Hello"
    assert outcome.chunks == tuple(json.dumps(part).encode() for part in (text("Hel"), text("lo"), STOP))


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_6_reasoning_goes_by_two_names(every_way: Read, name: str) -> None:
    outcome = every_way(sse(chunk({name: "Let me "}), chunk({name: "see"}), text("42"), STOP) + DONE)
    assert outcome.message[name] == "Let me see"
    assert outcome.text == "42"


def test_9_usage_on_every_chunk_is_passed_on_and_the_last_one_wins(every_way: Read) -> None:
    usage = [{"prompt_tokens": 3, "completion_tokens": n, "total_tokens": 3 + n} for n in range(3)]
    outcome = every_way(
        sse(text("a") | {"usage": usage[0]}, text("b") | {"usage": usage[1]}, STOP | {"usage": usage[2]})
    )
    assert outcome.completion["usage"] == usage[2]


def test_10_no_key_of_our_own_is_sent() -> None:
    body = {"model": "m", "messages": [], "stream": True, "unheard_of": 1}
    assert merge(body) == body


def test_14_tool_calls_without_an_index_get_one(every_way: Read) -> None:
    first, second = (call(name, arguments, id=id_, type="function") for id_, name, arguments in TWO)
    together = every_way(sse(chunk({"tool_calls": [first, second]}), chunk(finish="tool_calls")) + DONE)
    apart = every_way(sse(chunk({"tool_calls": [first]}), chunk({"tool_calls": [second]}), STOP) + DONE)
    assert calls(together) == calls(apart) == TWO
    assert [part["index"] for part in together.data[0]["choices"][0]["delta"]["tool_calls"]] == [0, 1]
    assert [item["choices"][0]["delta"]["tool_calls"][0]["index"] for item in apart.data[:2]] == [0, 1]


def test_14_a_new_id_at_the_same_index_is_a_new_call(every_way: Read) -> None:
    outcome = every_way(
        sse(
            chunk({"tool_calls": [call("now", "", index=0, id="a")]}),
            chunk({"tool_calls": [call(None, "{}", index=0, id="a")]}),
            chunk({"tool_calls": [call("add", "", index=0, id="b")]}),
            chunk({"tool_calls": [call(None, '{"x"', index=0)]}),
            chunk({"tool_calls": [call(None, ":1}", index=0, id="")]}),
            STOP,
        )
        + DONE
    )
    assert calls(outcome) == TWO
    indexes = [item["choices"][0]["delta"]["tool_calls"][0]["index"] for item in outcome.data[:5]]
    assert indexes == [0, 0, 1, 1, 1]


def test_15_gemini_leaves_indexes_out_and_signs_its_thoughts(every_way: Read) -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    part = call("now", "{}", id="a", type="function", extra_content=signature)
    body = {"choices": [{"delta": {"role": "assistant", "tool_calls": [part]}, "finish_reason": "stop"}], "model": "g"}
    outcome = every_way(sse(body) + DONE)
    [repaired] = outcome.data[0]["choices"]
    assert repaired["index"] == 0
    assert repaired["delta"]["tool_calls"][0] == {**part, "index": 0}
    assert outcome.message["tool_calls"][0]["extra_content"] == signature


def test_17_the_same_tool_index_twice_in_a_chunk_is_one_call(every_way: Read) -> None:
    parts = [call("add", '{"x"', index=0, id="b"), call(None, ":1}", index=0)]
    assert calls(every_way(sse(chunk({"tool_calls": parts}), STOP) + DONE)) == [TWO[1]]


def test_18_a_role_on_every_delta_is_said_once(every_way: Read) -> None:
    outcome = every_way(sse(*[chunk({"role": "assistant", "content": part}) for part in "abc"], STOP) + DONE)
    assert outcome.message["role"] == "assistant"
    assert outcome.text == "abc"


def test_19_localai_leaves_most_fields_out(every_way: Read) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    bare = [
        {"object": "chat.completion.chunk", "choices": [{"delta": {"content": part}}], "usage": usage} for part in "ab"
    ]
    outcome = every_way(sse(*bare) + DONE)
    assert outcome.code == "ok"
    assert outcome.text == "ab"
    ended = {"choices": [{"index": 0, "finish_reason": "stop", "delta": {}}]}
    assert every_way(sse(*bare, ended)).text == "ab"


AZURE_FIRST = {
    "choices": [],
    "created": 0,
    "id": "",
    "model": "",
    "object": "",
    "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False}}}],
}


def test_20_azures_first_chunk_says_nothing_and_keeps_its_metadata(every_way: Read) -> None:
    outcome = every_way(sse(AZURE_FIRST) + HELLO)
    assert outcome.text == "Hello"
    assert outcome.completion["id"] == "chatcmpl-1"
    assert outcome.completion["model"] == "m"
    assert outcome.completion["prompt_filter_results"] == AZURE_FIRST["prompt_filter_results"]


def test_21_a_choice_without_a_delta_gets_an_empty_one(every_way: Read) -> None:
    note = {"index": 0, "finish_reason": None, "content_filter_offsets": {"check_offset": 44}}
    outcome = every_way(sse(text("Hello"), chunk() | {"choices": [note]}, STOP) + DONE)
    assert outcome.text == "Hello"
    assert outcome.data[1]["choices"] == [{**note, "delta": {}}]


def test_22_mistrals_first_chunk_lacks_fields_and_later_roles_are_null(every_way: Read) -> None:
    first = {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}
    outcome = every_way(sse(first, chunk({"role": None, "content": "Hello"}), STOP) + DONE)
    assert outcome.message["role"] == "assistant"
    assert outcome.text == "Hello"
    assert outcome.chunks[0] == json.dumps(first).encode()


def test_23_content_that_is_a_list_is_text_and_thinking(every_way: Read) -> None:
    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": part}]} for part in ("Let me ", "see")]
    mixed = [{"type": "text", "text": "4"}, {"type": "reference", "reference_ids": [1]}]
    outcome = every_way(
        sse(*[chunk({"content": [part]}) for part in thinking], chunk({"content": mixed}), text("2"), STOP)
    )
    assert outcome.text == "42"
    assert outcome.message["reasoning_content"] == "Let me see"
    assert [item["choices"][0]["delta"].get("content") for item in outcome.data[:4]] == [None, None, "4", "2"]
    assert outcome.data[2]["choices"][0]["delta"]["content_parts"] == mixed[1:]


def test_23_content_that_is_a_list_in_a_completion_is_too(every_way: Read) -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "42"}]
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
    message = every_way(json.dumps(whole).encode()).message
    assert message == {"role": "assistant", "content": "42", "reasoning_content": "hm"}


def test_24_and_26_known_hosts_bring_their_limits() -> None:
    groq = OpenAIProvider("g", {"base_url": "https://api.groq.com/openai/v1"}).capabilities
    assert (groq.logprobs, groq.max_n, groq.message_names) == (False, 1, False)
    mistral = OpenAIProvider("m", {"base_url": "https://api.mistral.ai"}).capabilities
    assert mistral.tool_call_id_pattern == "[A-Za-z0-9]{9}"


def test_25_groq_puts_usage_in_a_field_of_its_own(every_way: Read) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    outcome = every_way(
        sse(
            chunk({"role": "assistant", "content": "", "tool_calls": []}) | {"x_groq": {"id": "req_1"}},
            text("Hello"),
            STOP | {"x_groq": {"id": "req_1", "usage": usage}},
        )
        + DONE
    )
    assert outcome.completion["usage"] == usage
    assert outcome.text == "Hello"
    assert "tool_calls" not in outcome.message
    assert outcome.data[2]["x_groq"]["usage"] == usage


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("model_length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
    ],
)
def test_27_other_words_for_the_end_are_translated_and_kept(every_way: Read, word: str, reason: str) -> None:
    outcome = every_way(sse(text("a"), chunk(finish=word)))
    assert outcome.code == "ok"
    [choice] = outcome.data[1]["choices"]
    assert choice["finish_reason"] == reason
    assert choice["native_finish_reason"] == word
    assert outcome.completion["choices"][0]["finish_reason"] == reason
    whole = {"choices": [{"message": {"content": "a"}, "finish_reason": word}]}
    assert every_way(json.dumps(whole).encode()).completion["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "function_call", "content_filter", "brand_new"])
def test_27_openais_own_words_and_unknown_ones_stay(every_way: Read, reason: str) -> None:
    last = chunk(finish=reason)
    assert every_way(sse(text("a"), last)).chunks[1] == json.dumps(last).encode()


def test_27_an_empty_finish_reason_is_not_the_end(every_way: Read) -> None:
    going_on = sse(chunk({"content": "a"}, ""), chunk({"content": "b"}, ""))
    assert every_way(going_on).error[0] is StreamTruncated
    outcome = every_way(going_on + DONE)
    assert outcome.text == "ab"
    assert outcome.data[0]["choices"][0]["finish_reason"] is None


def test_27_an_aborted_answer_is_no_answer(every_way: Read) -> None:
    """vLLM ends a stream that its engine gave up with `abort` and `[DONE]` (vllm-project/vllm#57082)."""
    outcome = every_way(sse(text("par"), chunk(finish="abort")) + DONE)
    assert outcome.error[0] is StreamTruncated
    assert outcome.text == "par"
    assert outcome.data[1]["choices"][0]["finish_reason"] == "abort"
