"""What servers that call themselves compatible really send: one test a dialect, each read in every way it can be cut.

The numbers are the rows of the survey on which the plugin is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from deltabus.http.body import merge
from deltabus.provider import ProviderUnavailable, StreamTruncated
from deltabus_openai import OpenAIProvider

Outcome = Any
Read = Callable[[bytes], Outcome]

DONE = b"data: [DONE]\n\n"


def chunk(delta: Any = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1763777777,
        "model": "m",
        "choices": [{"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}],
        **fields,
    }


def text(content: str) -> dict[str, Any]:
    return chunk({"content": content})


def sse(*documents: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(document).encode() for document in documents)


STOP = chunk(finish="stop")
HELLO = sse(text("Hel"), text("lo"), STOP) + DONE


def test_a_plain_stream_is_passed_on_byte_by_byte(every_way: Read) -> None:
    outcome = every_way(HELLO)
    assert outcome.code == "ok"
    assert outcome.text == "Hello"
    assert outcome.chunks == tuple(json.dumps(part).encode() for part in (text("Hel"), text("lo"), STOP))


def test_1_comments_are_not_progress(every_way: Read) -> None:
    comment = b": OPENROUTER PROCESSING\n\n"
    outcome = every_way(comment * 3 + sse(text("Hello")) + comment + sse(STOP) + comment + DONE)
    assert outcome.text == "Hello"
    assert len(outcome.chunks) == 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (429, "rate_limited"),
        ("429", "rate_limited"),
        ("insufficient_quota", "quota_exhausted"),
        (502, "provider_unavailable"),
        ("server_error", "provider_unavailable"),
        (402, "quota_exhausted"),
        (408, "provider_timeout"),
        (400, "invalid_request"),
    ],
)
def test_2_an_error_in_the_stream_fails_and_keeps_what_came_before(every_way: Read, code: Any, expected: str) -> None:
    error = {"code": code, "message": "Provider disconnected"}
    outcome = every_way(sse(text("par"), text("tial"), chunk({"content": ""}, "error", error=error)))
    assert outcome.code == expected
    assert outcome.error[1] == "Provider disconnected"
    assert outcome.text == "partial"


def test_2_the_error_may_stand_in_the_choice(every_way: Read) -> None:
    last = chunk(finish="error")
    last["choices"][0]["error"] = {"code": 429, "message": "Too many"}
    assert every_way(sse(text("a"), last)).code == "rate_limited"
    assert every_way(sse(text("a"), chunk(finish="error"))).error[0] is ProviderUnavailable


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 429, "message": "Rate limited"}, "choices": [{"message": {"content": "a"}}]},
        {"error": {"code": 429, "message": "Rate limited", "metadata": {"provider_name": "X"}}},
        {"error": {"code": 429, "message": "Rate limited"}, "user_id": "u"},
        {"error": {"code": "429", "message": "Rate limited"}, "choices": []},
    ],
)
def test_3_a_body_with_status_200_may_hold_an_error(every_way: Read, body: Any) -> None:
    outcome = every_way(json.dumps(body).encode())
    assert outcome.code == "rate_limited"
    assert outcome.error[1] == "Rate limited"


def test_3_a_null_error_is_none(every_way: Read) -> None:
    assert every_way(sse(text("a") | {"error": None}, STOP | {"error": None}) + DONE).text == "a"


def test_4_blank_lines_and_keep_alives_come_before_the_answer(every_way: Read) -> None:
    completion = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
    assert every_way(b"\n\n\r\n \n" + json.dumps(completion, indent=1).encode() + b"\n").text == "Hi"
    assert every_way(b"\n: keep-alive\n\n\n\n: keep-alive\n\n" + HELLO).text == "Hello"


def test_5_a_server_without_resources_is_worth_another_try(every_way: Read) -> None:
    outcome = every_way(sse(text("par"), chunk(finish="insufficient_system_resource")) + DONE)
    assert outcome.error[0] is ProviderUnavailable
    assert outcome.error[0].retryable
    whole = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "insufficient_system_resource"}]}
    assert every_way(json.dumps(whole).encode()).error[0] is ProviderUnavailable


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_6_reasoning_goes_by_two_names(every_way: Read, name: str) -> None:
    outcome = every_way(sse(chunk({name: "Let me "}), chunk({name: "see"}), text("42"), STOP) + DONE)
    assert outcome.message[name] == "Let me see"
    assert outcome.text == "42"


@pytest.mark.parametrize(
    "frame",
    [
        {"error": {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}},
        {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400},
        {"object": "error", "message": "too long", "type": "BadRequestError"},
        {"message": "too long", "type": "invalid_request_error"},
    ],
)
def test_7_vllm_reports_errors_in_two_shapes_and_ends_as_if_all_were_well(every_way: Read, frame: Any) -> None:
    outcome = every_way(sse(text("a"), frame) + DONE)
    assert outcome.code == "invalid_request"
    assert outcome.error[1] == "too long"
    assert every_way(json.dumps(frame).encode()).code == "invalid_request"


@pytest.mark.parametrize("before", [b"", b": ping\n\n", sse(chunk() | {"choices": []})])
def test_8_a_stream_of_nothing_but_its_end_is_an_error(every_way: Read, before: bytes) -> None:
    assert every_way(before + DONE).code == "provider_protocol"


def test_9_usage_on_every_chunk_is_passed_on_and_the_last_one_wins(every_way: Read) -> None:
    usage = [{"prompt_tokens": 3, "completion_tokens": n, "total_tokens": 3 + n} for n in range(3)]
    outcome = every_way(
        sse(text("a") | {"usage": usage[0]}, text("b") | {"usage": usage[1]}, STOP | {"usage": usage[2]})
    )
    assert outcome.completion["usage"] == usage[2]


def test_10_no_key_of_our_own_is_sent() -> None:
    body = {"model": "m", "messages": [], "stream": True, "unheard_of": 1}
    assert merge(body) == body


def test_11_llama_cpp_reports_an_error_in_a_field_of_that_name(every_way: Read) -> None:
    field = b'error: {"code":400,"message":"the request exceeds the context","type":"invalid_request_error"}\n\n'
    outcome = every_way(sse(text("a")) + field + DONE)
    assert outcome.code == "invalid_request"
    assert outcome.error[1] == "the request exceeds the context"
    assert outcome.text == "a"
    assert every_way(b'error:{"error":{"code":500,"message":"slot"}}\n\n').error == (ProviderUnavailable, "slot")
    assert every_way(b"error: out of memory\n\n" + DONE).error == (ProviderUnavailable, "out of memory")


def test_11_an_event_of_type_error_is_one(every_way: Read) -> None:
    event = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    assert every_way(sse(text("a")) + event).error == (ProviderUnavailable, "Overloaded")


def test_12_null_is_not_text_and_the_end_needs_no_blank_line(every_way: Read) -> None:
    outcome = every_way(sse(chunk({"role": "assistant", "content": None}), text("Hello")) + b"data: [DONE]")
    assert outcome.code == "ok"
    assert outcome.text == "Hello"


def test_12_a_last_chunk_needs_no_blank_line(every_way: Read) -> None:
    assert every_way(sse(text("Hello"), STOP).rstrip()).text == "Hello"
    assert every_way(sse(text("Hello"), STOP)[:-1]).text == "Hello"


@pytest.mark.parametrize("between", [b"", b" ", b"\ndata: ", b"\ndata:", b"data: ", b"\x1e"])
def test_13_two_documents_in_one_event_are_two_chunks(every_way: Read, between: bytes) -> None:
    first, second = json.dumps(text("Hel")).encode(), json.dumps(text("lo")).encode()
    outcome = every_way(b"data: " + first + between + second + b"\n\n" + sse(STOP) + DONE)
    assert outcome.code == "ok"
    assert outcome.text == "Hello"
    assert len(outcome.chunks) == 3


def test_13_a_server_that_forgets_blank_lines_is_understood(every_way: Read) -> None:
    assert every_way(HELLO.replace(b"\n\n", b"\n")).text == "Hello"


def call(name: str | None = None, arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**fields, "function": function}


def calls(outcome: Outcome) -> list[tuple[str | None, str, str]]:
    return [
        (item.get("id"), item["function"]["name"], item["function"]["arguments"])
        for item in outcome.message["tool_calls"]
    ]


TWO = [("a", "now", "{}"), ("b", "add", '{"x":1}')]


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


def test_16_an_error_may_come_in_an_array(every_way: Read) -> None:
    error = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}
    assert every_way(json.dumps([error]).encode()).code == "invalid_request"
    error["error"]["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    assert every_way(json.dumps([error], indent=2).encode()).code == "authentication"
    assert every_way(sse([error])).code == "authentication"


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


def test_28_a_body_that_just_ends_is_truncated(every_way: Read) -> None:
    assert every_way(sse(text("Hel"), text("lo"))).error[0] is StreamTruncated


def test_28_every_beginning_of_an_answer_is_truncated(in_pieces: Callable[[list[bytes]], Outcome]) -> None:
    complete = HELLO.index(sse(STOP)) + len(sse(STOP)) - 2
    for place in range(complete):
        assert in_pieces([HELLO[:place]]).error[0] is StreamTruncated, HELLO[:place]
    for place in range(complete, len(HELLO)):
        assert in_pieces([HELLO[:place]]).code == "ok", HELLO[:place]


def test_28_every_beginning_of_a_completion_is_truncated(in_pieces: Callable[[list[bytes]], Outcome]) -> None:
    whole = {"id": "1", "n": [-1.5e3, True, None, '\u00e9\\"\U0001f600'], "choices": [{"message": {"content": "a"}}]}
    body = json.dumps(whole, ensure_ascii=False).encode()
    for place in range(len(body)):
        assert in_pieces([body[:place]]).error[0] is StreamTruncated, body[:place]
    assert in_pieces([body]).code == "ok"


def test_28_one_finished_choice_of_two_is_not_an_answer(every_way: Read) -> None:
    other = text("b")
    other["choices"][0]["index"] = 1
    assert every_way(sse(text("a"), other, STOP)).error[0] is StreamTruncated


def test_29_either_end_is_enough(every_way: Read) -> None:
    assert every_way(sse(text("Hello")) + DONE).text == "Hello"
    assert every_way(sse(text("Hello"), STOP)).text == "Hello"


def test_29_a_usage_chunk_follows_the_end(every_way: Read) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    outcome = every_way(sse(text("Hello"), STOP, chunk(usage=usage) | {"choices": []}) + DONE)
    assert outcome.completion["usage"] == usage


def test_29_what_follows_the_end_does_not_count(every_way: Read) -> None:
    assert every_way(HELLO + sse({"error": {"message": "late"}}) + b"<html>").text == "Hello"


def test_30_the_space_after_the_colon_is_optional(every_way: Read) -> None:
    outcome = every_way(HELLO.replace(b"data: ", b"data:"))
    assert outcome == every_way(HELLO)


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"])
def test_31_lines_end_in_three_ways(every_way: Read, end: bytes) -> None:
    body = b": ping - 2026-10-18 12:00:00\n\n" + HELLO
    assert every_way(body.replace(b"\n", end)).chunks == every_way(HELLO).chunks


def test_32_a_byte_order_mark_is_stripped(every_way: Read) -> None:
    assert every_way(b"\xef\xbb\xbf" + HELLO) == every_way(HELLO)
    completion = json.dumps({"choices": [{"message": {"content": "Hi"}}]}).encode()
    assert every_way(b"\xef\xbb\xbf" + completion).text == "Hi"
    assert every_way(b"\xef\xbb\xbf\n" + completion).text == "Hi"


def test_33_the_body_says_what_it_is(every_way: Read) -> None:
    completion = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
    assert json.loads(every_way(json.dumps(completion).encode()).completions[0]) == completion
    assert every_way(HELLO).completions == ()


def test_33_a_whole_completion_in_one_event_is_a_chunk_with_all_of_it(every_way: Read) -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "tool_calls": [{"id": "a", "type": "function"} | call("now", "{}")],
    }
    completion = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    outcome = every_way(sse(completion) + DONE)
    [data] = outcome.data
    assert data["object"] == "chat.completion.chunk"
    assert "message" not in data["choices"][0]
    assert outcome.text == "Hi"
    assert calls(outcome) == [TWO[0]]


def test_33_a_line_of_json_for_each_chunk_is_understood(every_way: Read) -> None:
    body = b"\n".join(json.dumps(part).encode() for part in (text("Hel"), text("lo"), STOP))
    assert every_way(body).text == "Hello"


def test_33_a_web_page_is_neither(every_way: Read) -> None:
    for page in (b"<!DOCTYPE html><html>", b"\n <html><body>Sign in</body></html>"):
        outcome = every_way(page)
        assert outcome.code == "provider_protocol"
        assert "base_url" in outcome.error[1]


def test_34_line_separators_of_unicode_are_text(every_way: Read) -> None:
    content = "a\u2028b\u2029c\u0085d\x0be\x0cf \U0001f600 \u00e9"
    body = b"data: " + json.dumps(text(content), ensure_ascii=False).encode() + b"\n\n" + sse(STOP)
    outcome = every_way(body)
    assert outcome.text == content
    assert outcome.chunks[0] == json.dumps(text(content), ensure_ascii=False).encode()


@pytest.mark.parametrize("heartbeat", [b"data:\n\n", b"data: \n\n", b"data\n\n", b"data:\ndata:\n\n", b"data:  \n\n"])
def test_35_an_event_of_empty_data_is_a_heartbeat(every_way: Read, heartbeat: bytes) -> None:
    outcome = every_way(heartbeat + sse(text("Hello")) + heartbeat + sse(STOP) + heartbeat + DONE)
    assert outcome == every_way(sse(text("Hello"), STOP) + DONE)


@pytest.mark.parametrize("ping", [b'event: ping\ndata: {"type": "ping"}\n\n', b"data: {}\n\n", b"data: null\n\n"])
def test_35_a_ping_in_json_is_one_too(every_way: Read, ping: bytes) -> None:
    assert every_way(ping + sse(text("Hello")) + ping + sse(STOP)) == every_way(sse(text("Hello"), STOP))
