"""Answers of Gemini, in the shapes that its documentation shows, become chunks and completions.

Answers: https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse; signatures:
https://ai.google.dev/gemini-api/docs/thought-signatures; errors: https://ai.google.dev/gemini-api/docs/troubleshooting
and https://google.aip.dev/193
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deltabus.http import errors
from deltabus.provider import InvalidRequest, ProviderProtocol, RateLimited
from deltabus_gemini.wire import AnswerDecoder, embedding_requests, embeddings, models

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture
def decoded(cut_every_way: Callable[..., Any]) -> Callable[..., Any]:
    def decode(body: str | bytes, candidates: Any = 1) -> Any:
        data = (RECORDED / body).read_bytes() if isinstance(body, str) else body
        return cut_every_way(lambda: AnswerDecoder(1_000_000, candidates), data)

    return decode


def candidate(text: str = "", **fields: Any) -> dict[str, Any]:
    parts = [{"text": text}] if text else []
    return {"index": 0, "content": {"role": "model", "parts": parts}, **fields}


def stream(*candidates: dict[str, Any]) -> bytes:
    documents = ({"candidates": [each], "modelVersion": "g", "responseId": "r"} for each in candidates)
    return b"".join(f"data: {json.dumps(each)}\r\n\r\n".encode() for each in documents)


def test_text_and_thoughts_come_piece_by_piece(decoded: Any) -> None:
    outcome = decoded("text.sse")
    assert outcome.deltas == [
        {"role": "assistant", "reasoning_content": "**Thinking**\n\n"},
        {"content": "Grüezi"},
        {"content": ", 世界 🙂!"},
        {},
    ]
    assert outcome.message["content"] == "Grüezi, 世界 🙂!"
    assert outcome.choice["finish_reason"] == "stop"
    assert outcome.choice["native_finish_reason"] == "STOP"
    assert outcome.whole["id"] == "resp-text"
    assert outcome.whole["model"] == "gemini-2.5-flash"


def test_thoughts_are_tokens_of_the_answer(decoded: Any) -> None:
    usage = decoded("text.sse").whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (8, 41, 49)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 4}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 32}


def test_calls_of_functions_get_an_index_an_id_and_keep_their_signature(decoded: Any) -> None:
    outcome = decoded("tools.sse")
    assert outcome.choice["finish_reason"] == "tool_calls"
    first, second, third = outcome.message["tool_calls"]
    assert first["id"] == "fc_1"
    assert first["function"] == {"name": "look", "arguments": '{"city":"Zürich"}'}
    assert first["extra_content"] == {"google": {"thought_signature": "CiQBx+signature=="}}
    assert second["function"] == {"name": "now", "arguments": "{}"}
    assert second["id"] == "gemini-call-resp-tools-0-1"
    assert third["id"] == "fc_3"
    assert [call["index"] for delta in outcome.deltas for call in delta.get("tool_calls", ())] == [0, 1, 2]


def test_a_signature_that_comes_by_itself_is_kept(decoded: Any) -> None:
    outcome = decoded("signature.sse")
    assert outcome.message["content"] == "9"
    assert outcome.message["extra_content"] == {"google": {"thought_signature": "EjQKMgEM"}}


def test_other_parts_are_kept_and_pictures_shown(decoded: Any) -> None:
    outcome = decoded("parts.json")
    assert outcome.message["content"] == "It is 42."
    assert outcome.message["images"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    ]
    google = outcome.message["extra_content"]["google"]
    assert [next(iter(part)) for part in google["parts"]] == ["executableCode", "codeExecutionResult"]
    assert google["grounding_metadata"] == {"webSearchQueries": ["6 * 7"]}
    assert outcome.whole["usage"]["prompt_tokens"] == 15


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("OTHER", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("LANGUAGE", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("IMAGE_SAFETY", "content_filter"),
        ("IMAGE_PROHIBITED_CONTENT", "content_filter"),
        ("IMAGE_RECITATION", "content_filter"),
        ("A_NEW_ONE", "stop"),
    ],
)
def test_a_reason_to_stop_is_one_of_openais(decoded: Any, reason: str, finish: str) -> None:
    choice = decoded(stream(candidate("Hi"), candidate(finishReason=reason))).choice
    assert choice["finish_reason"] == finish
    assert choice["native_finish_reason"] == reason


@pytest.mark.parametrize(
    "reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "NO_IMAGE"]
)
def test_an_answer_that_the_model_failed_to_give_is_an_error_worth_another_attempt(decoded: Any, reason: str) -> None:
    outcome = decoded(stream(candidate(finishReason=reason, finishMessage="Malformed function call: print(x)")))
    assert type(outcome.error) is ProviderProtocol
    assert outcome.error.info.retryable
    assert outcome.error.message == f"Gemini gave no answer ({reason}) Malformed function call: print(x)"


def test_a_blocked_prompt_is_an_error_that_says_why(decoded: Any) -> None:
    outcome = decoded("blocked.json")
    assert type(outcome.error) is InvalidRequest
    assert outcome.error.message == "Gemini blocked the prompt (PROHIBITED_CONTENT) The prompt was blocked."
    body = b"data: " + (RECORDED / "blocked.json").read_bytes().strip() + b"\n\n"
    assert decoded(body).code == "invalid_request"


def test_a_finish_reason_in_every_piece_ends_nothing(decoded: Any) -> None:
    """As the first models of the API sent it."""
    outcome = decoded(stream(candidate("a", finishReason="STOP"), candidate("b", finishReason="STOP")))
    assert outcome.message["content"] == "ab"


def test_several_candidates_are_several_choices(decoded: Any) -> None:
    ends = [candidate("b", index=1, finishReason="MAX_TOKENS"), candidate("a", finishReason="STOP")]
    outcome = decoded(stream(candidate("a"), candidate("b", index=1), *ends), 2)
    assert [choice["message"]["content"] for choice in outcome.whole["choices"]] == ["aa", "bb"]
    assert [choice["finish_reason"] for choice in outcome.whole["choices"]] == ["stop", "length"]
    assert decoded(stream(candidate("a"), candidate("b", index=1), ends[1]), 2).code == "stream_truncated"


@pytest.mark.parametrize("events", [1, 2])
def test_an_answer_that_breaks_off_is_none(decoded: Any, events: int) -> None:
    whole = (RECORDED / "text.sse").read_bytes()
    assert decoded(b"".join(event + b"\n\n" for event in whole.split(b"\n\n")[:events])).code == "stream_truncated"


@pytest.mark.parametrize("wrapped", [False, True], ids=["object", "array"])
def test_an_exhausted_quota_says_when_to_come_back(wrapped: bool) -> None:
    """Where the request was to be streamed, the error is in an array."""
    body = (RECORDED / "quota.json").read_bytes()
    error = errors.from_answer(429, {}, b"[" + body + b"]" if wrapped else body)
    assert type(error) is RateLimited
    assert error.retry_after == 27.5


def test_an_error_in_the_middle_comes_after_what_was_said(decoded: Any) -> None:
    error = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
    outcome = decoded(stream(candidate("Hel")) + f"data: {json.dumps(error)}\n\n".encode())
    assert outcome.deltas == [{"role": "assistant", "content": "Hel"}]
    assert outcome.code == "provider_unavailable"


def test_a_bad_key_is_told_from_a_bad_request() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    document = {
        "error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": details}
    }
    assert errors.from_answer(400, {}, json.dumps(document).encode()).code == "authentication"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "stream_truncated"),
        (b"<html>", "provider_protocol"),
        (b"data: {]\n\n", "provider_protocol"),
        (b'data: {"candidates": 5}\n\n', "provider_protocol"),
        (b'{"hello": 1}', "provider_protocol"),
        (b'{"candidates": [', "stream_truncated"),
        (b'{"candidates": [{"content": {"parts": [{"functionCall": 5}]}}]}', "provider_protocol"),
    ],
)
def test_what_is_not_the_api_is_named_as_such(decoded: Any, body: bytes, code: str) -> None:
    assert decoded(body).code == code


def test_embeddings_are_openais() -> None:
    body = {"model": "gemini-embedding-001", "input": ["a", "b"], "dimensions": 2, "taskType": "CLUSTERING"}
    part = {"model": "models/gemini-embedding-001", "outputDimensionality": 2, "taskType": "CLUSTERING"}
    assert embedding_requests(body) == {
        "requests": [{**part, "content": {"parts": [{"text": text}]}} for text in ("a", "b")]
    }
    answer = {"embeddings": [{"values": [1, 0.5]}, {"values": [0.25, -1]}]}
    made = embeddings(body, answer)
    assert made["object"] == "list"
    assert made["data"][1] == {"object": "embedding", "index": 1, "embedding": [0.25, -1.0]}
    packed = embeddings({**body, "encoding_format": "base64"}, answer)["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (1.0, 0.5)


@pytest.mark.parametrize("given", [None, [], 5, [[1, 2]], ["a", 1]])
def test_inputs_of_embeddings_are_texts(given: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        embedding_requests({"model": "m", "input": given})
    assert caught.value.param == "request.input"


@pytest.mark.parametrize(
    "answer", [{}, [], {"embeddings": [5]}, {"embeddings": [{"values": ["x"]}]}, {"embeddings": None}]
)
def test_what_holds_no_embeddings_is_named_as_such(answer: Any) -> None:
    with pytest.raises(ProviderProtocol):
        embeddings({"model": "m"}, answer)


def test_a_list_of_models_is_openais() -> None:
    listed = {"models": [{"name": "models/gemini-2.5-flash", "displayName": "Gemini 2.5 Flash"}]}
    assert models(listed) == [
        {
            "id": "gemini-2.5-flash",
            "object": "model",
            "created": 0,
            "owned_by": "google",
            "name": "models/gemini-2.5-flash",
            "displayName": "Gemini 2.5 Flash",
        }
    ]
    assert models({"data": []}) is None
