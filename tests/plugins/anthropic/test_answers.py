"""Answers of the Messages API, in the shapes that its documentation shows, become chunks and completions.

Streams: https://platform.claude.com/docs/en/build-with-claude/streaming; errors in them:
https://platform.claude.com/docs/en/api/errors; reasons to stop:
https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltabus.provider import ProviderUnavailable
from deltabus_anthropic.wire import AnswerDecoder, models

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def decoded(cut_every_way: Callable[..., Any]) -> Callable[[str | bytes], Any]:
    def decode(body: str | bytes) -> Any:
        data = (RECORDED / body).read_bytes() if isinstance(body, str) else body
        return cut_every_way(lambda: AnswerDecoder(1_000_000), data)

    return decode


def message(**fields: Any) -> bytes:
    return json.dumps({"type": "message", "id": "m", "model": "c", "content": [], "usage": {}, **fields}).encode()


def test_text_comes_piece_by_piece(decoded: Any) -> None:
    outcome = decoded("text.sse")
    assert [delta.get("content") for delta in outcome.deltas] == ["", "Gr\u00fcezi", ", 世界 🙂!", None]
    assert outcome.whole["id"] == "msg_01Text"
    assert outcome.whole["model"] == "claude-opus-4-6"
    assert outcome.choice["finish_reason"] == "stop"
    assert outcome.choice["native_finish_reason"] == "end_turn"


def test_tokens_from_and_to_the_cache_are_tokens_of_the_prompt(decoded: Any) -> None:
    usage = decoded("tools.sse").whole["usage"]
    assert usage["prompt_tokens"] == 472 + 100 + 1000
    assert usage["completion_tokens"] == 89
    assert usage["total_tokens"] == 1661
    assert usage["prompt_tokens_details"] == {"cached_tokens": 1000}
    assert usage["cache_creation_input_tokens"] == 100
    assert decoded("thinking.sse").whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 40}


def test_calls_of_tools_are_streamed_and_one_without_arguments_has_an_empty_object(decoded: Any) -> None:
    outcome = decoded("tools.sse")
    assert outcome.choice["finish_reason"] == "tool_calls"
    assert outcome.message["content"] == "I will look."
    assert outcome.message["tool_calls"] == [
        {
            "id": "toolu_01A",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"location": "Z\u00fcrich"}'},
        },
        {"id": "toolu_01B", "type": "function", "function": {"name": "now", "arguments": "{}"}},
    ]
    pieces = [call for delta in outcome.deltas for call in delta.get("tool_calls", ())]
    assert [piece["index"] for piece in pieces] == [0, 0, 0, 1, 1]


def test_thoughts_are_streamed_and_their_blocks_are_kept_for_the_next_turn(decoded: Any) -> None:
    outcome = decoded("thinking.sse")
    assert outcome.message["reasoning_content"] == "27 = 3 * 9, so ..."
    assert outcome.message["content"] == "It is 9."
    assert outcome.message["extra_content"]["anthropic"]["blocks"] == [
        {"type": "thinking", "thinking": "27 = 3 * 9, so ...", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"},
        {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"},
    ]


def test_what_a_tool_of_anthropics_did_is_kept_for_the_next_turn(decoded: Any) -> None:
    outcome = decoded("search.sse")
    assert outcome.message["content"] == "It is sunny."
    kept = outcome.message["extra_content"]["anthropic"]
    assert [block["type"] for block in kept["blocks"]] == ["server_tool_use", "web_search_tool_result"]
    assert kept["blocks"][0]["input"] == {"query": "weather NYC"}
    assert kept["blocks"][1]["content"][0]["encrypted_content"] == "Ev0DCioIAxgCIiQ3"
    assert kept["citations"][0]["cited_text"] == "Sunny"
    assert outcome.whole["usage"]["prompt_tokens"] == 10682  # What came last counts.


def test_an_answer_that_is_not_streamed_is_one_completion(decoded: Any) -> None:
    outcome = decoded("message.json")
    assert outcome.choice["finish_reason"] == "tool_calls"
    assert outcome.whole["usage"]["total_tokens"] == 35
    assert outcome.message["content"] == "I will look."
    assert outcome.message["reasoning_content"] == "Hm."
    assert [call["function"]["arguments"] for call in outcome.message["tool_calls"]] == ['{"location":"Zürich"}', "{}"]
    assert outcome.message["extra_content"]["anthropic"]["blocks"][0]["signature"] == "EqQB"


def test_a_refusal_says_why(decoded: Any) -> None:
    outcome = decoded("refusal.json")
    assert outcome.choice["finish_reason"] == "content_filter"
    assert outcome.message["refusal"] == "This may enable harm."


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("a_new_one", "stop"),
    ],
)
def test_a_reason_to_stop_is_one_of_openais(decoded: Any, reason: str, finish: str) -> None:
    choice = decoded(message(content=[{"type": "text", "text": "Hi"}], stop_reason=reason)).choice
    assert choice["finish_reason"] == finish
    assert choice["native_finish_reason"] == reason


def test_an_error_in_the_middle_comes_after_what_was_said(decoded: Any) -> None:
    outcome = decoded("overloaded.sse")
    assert [delta["content"] for delta in outcome.deltas] == ["", "Hel"]
    assert type(outcome.error) is ProviderUnavailable
    assert outcome.error.message == "Overloaded"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("api_error", "provider_unavailable"),
        ("rate_limit_error", "rate_limited"),
        ("timeout_error", "provider_timeout"),
        ("invalid_request_error", "invalid_request"),
        ("authentication_error", "authentication"),
        ("billing_error", "quota_exhausted"),
        ("permission_error", "permission"),
        ("not_found_error", "not_found"),
        ("request_too_large", "payload_too_large"),
    ],
)
def test_an_error_event_is_classified_by_its_type(decoded: Any, name: str, code: str) -> None:
    error = {"type": "error", "error": {"type": name, "message": "no"}}
    assert decoded(f"event: error\ndata: {json.dumps(error)}\n\n".encode()).code == code


@pytest.mark.parametrize("events", range(1, 7))
def test_an_answer_that_breaks_off_anywhere_is_none(decoded: Any, events: int) -> None:
    whole = (RECORDED / "text.sse").read_bytes()
    body = b"".join(event + b"\n\n" for event in whole.split(b"\n\n")[:events])
    assert decoded(body).code == "stream_truncated"


def test_an_answer_that_says_why_it_stopped_is_whole_though_its_last_event_is_missing(decoded: Any) -> None:
    body = (RECORDED / "text.sse").read_bytes().partition(b"event: message_stop")[0]
    assert decoded(body).message["content"] == "Gr\u00fcezi, 世界 🙂!"


def test_events_and_fields_that_are_new_are_passed_over(decoded: Any) -> None:
    whole = (RECORDED / "text.sse").read_bytes()
    new = b'event: surprise\ndata: {"type":"surprise","at":{"all":[1]}}\n\n'
    assert decoded(whole.replace(b"event: ping", new + b"event: ping")).deltas == decoded(whole).deltas


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "stream_truncated"),
        (b"<html>", "provider_protocol"),
        (b"data: {]\n\n", "provider_protocol"),
        (b'data: {"type": 5}\n\n', "provider_protocol"),
        (b'{"hello": 1}', "provider_protocol"),
        (b'{"type": "mess', "stream_truncated"),
        (b'{"type": "message", "content": [{"type": "thinking", "thinking": 5}]}', "provider_protocol"),
        (b'{"type": "surprise"}', "provider_protocol"),
    ],
)
def test_what_is_not_the_api_is_named_as_such(decoded: Any, body: bytes, code: str) -> None:
    assert decoded(body).code == code


def test_a_list_of_models_is_openais() -> None:
    listed = {"data": [{"type": "model", "id": "claude-opus-4-6", "created_at": "2026-02-05T00:00:00Z"}]}
    assert models(listed) == [
        {
            "id": "claude-opus-4-6",
            "object": "model",
            "created": 1770249600,
            "owned_by": "anthropic",
            "type": "model",
            "created_at": "2026-02-05T00:00:00Z",
        }
    ]
    assert models({"data": [{"id": "x", "created_at": "soon"}]})[0]["created"] == 0  # type: ignore[index]
    assert models([]) is None
