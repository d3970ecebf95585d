"""How servers that call themselves compatible fail, each read in every way it can be cut.

The numbers are the rows of the survey on which the plugin is built.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from dialectwords import DONE, HELLO, STOP, Outcome, Read, chunk, sse, text

from deltabus.provider import ProviderUnavailable, StreamTruncated


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


def test_5_a_server_without_resources_is_worth_another_try(every_way: Read) -> None:
    outcome = every_way(sse(text("par"), chunk(finish="insufficient_system_resource")) + DONE)
    assert outcome.error[0] is ProviderUnavailable
    assert outcome.error[0].retryable
    whole = {"choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "insufficient_system_resource"}]}
    assert every_way(json.dumps(whole).encode()).error[0] is ProviderUnavailable


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


def test_16_an_error_may_come_in_an_array(every_way: Read) -> None:
    error = {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}
    assert every_way(json.dumps([error]).encode()).code == "invalid_request"
    error["error"]["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    assert every_way(json.dumps([error], indent=2).encode()).code == "authentication"
    assert every_way(sse([error])).code == "authentication"


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
