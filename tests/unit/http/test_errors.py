"""Statuses, headers and bodies become errors of the closed set."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from deltabus.http import errors


def answer(status: int, body: Any = None, **headers: str) -> Any:
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return errors.from_answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def error(message: str = "text", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **fields}}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (401, "authentication"),
        (402, "quota_exhausted"),
        (403, "permission"),
        (404, "not_found"),
        (405, "not_found"),
        (408, "provider_timeout"),
        (409, "provider_unavailable"),
        (410, "not_found"),
        (413, "payload_too_large"),
        (415, "invalid_request"),
        (422, "invalid_request"),
        (424, "provider_unavailable"),
        (429, "rate_limited"),
        (498, "rate_limited"),
        (499, "provider_unavailable"),
        (500, "provider_unavailable"),
        (501, "unsupported"),
        (502, "provider_unavailable"),
        (503, "provider_unavailable"),
        (504, "provider_unavailable"),
        (529, "provider_unavailable"),
    ],
)
@pytest.mark.parametrize("body", [None, error(), error(type="server_error"), b"<html>no</html>"])
def test_a_status_has_a_class(status: int, code: str, body: Any) -> None:
    made = answer(status, body)
    assert made.code == code
    assert made.status == status
    assert made.message


@pytest.mark.parametrize(
    ("status", "fields", "code"),
    [
        (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, "quota_exhausted"),
        (429, {"code": "rate_limit_exceeded", "type": "tokens"}, "rate_limited"),
        (429, {"type": "exceeded_current_quota_error"}, "quota_exhausted"),
        (400, {"code": "context_length_exceeded", "type": "invalid_request_error"}, "invalid_request"),
        (400, {"code": "model_not_found"}, "not_found"),
        (404, {"code": "DeploymentNotFound"}, "not_found"),
        (401, {"code": "invalid_api_key", "type": "invalid_request_error"}, "authentication"),
        (403, {"code": "unsupported_country_region_territory"}, "permission"),
        (403, {"code": "insufficient_quota"}, "quota_exhausted"),
        (400, {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, "invalid_request"),
        (400, {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}, "authentication"),
        (503, {"type": "slow_down"}, "rate_limited"),
        (500, {"type": "invalid_request_error"}, "provider_unavailable"),
    ],
)
def test_a_name_that_means_one_thing_outweighs_the_status(status: int, fields: dict[str, Any], code: str) -> None:
    assert answer(status, error(**fields)).code == code


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (error("Too  long\n"), "Too long"),
        ([error("in an array")], "in an array"),
        ({"error": "as text"}, "as text"),
        ({"error": "kind", "message": "beside it"}, "beside it"),
        ({"object": "error", "message": "flat", "code": 400}, "flat"),
        ({"message": "flat"}, "flat"),
        ({"detail": "FastAPI"}, "FastAPI"),
        (
            {"detail": [{"loc": ["body", "messages", 0], "msg": "Field required", "input": "PROMPT"}]},
            "body.messages.0: Field required",
        ),
        ({"errors": [{"message": "listed"}]}, "listed"),
        ({"errors": ["listed"]}, "listed"),
        ({"error": {"message": {"detail": "nested"}}}, "nested"),
        ({"error": {"message": "", "code": "only_a_code"}}, "only_a_code"),
        ({"error": {"message": None}}, "the provider reported an error without a text (HTTP 400)"),
        (
            {"error": {"message": "Provider returned error", "metadata": {"raw": "the cause", "provider_name": "X"}}},
            "Provider returned error (X: the cause)",
        ),
        (b"upstream connect error\x00\n or disconnect", "upstream connect error or disconnect"),
        (b"<html><head><title>t</title></head><body><h1>502 Bad Gateway</h1></body></html>", "502 Bad Gateway"),
        (b"", "the provider reported an error without a text (HTTP 400)"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("[" * 5000, "[" * errors.MAX_EXCERPT),
    ],
)
def test_the_message_is_found_wherever_it_is(body: Any, message: str) -> None:
    assert answer(400, body.encode() if isinstance(body, str) else body).message == message


def test_a_long_message_is_cut() -> None:
    assert len(answer(400, error("x" * 10_000)).message) == errors.MAX_MESSAGE
    assert len(answer(400, b"x" * 10_000).message) == errors.MAX_EXCERPT


@pytest.mark.parametrize(
    ("param", "path"),
    [("messages", "request.messages"), ("messages.[0].role", "request.messages[0].role"), ("", None), (7, None)],
)
def test_the_field_is_named_as_a_path_of_the_request(param: Any, path: str | None) -> None:
    assert answer(400, error(param=param)).param == path


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "1500", "retry_after": "7"}, 1.5),
        ({"retry_after_ms": "soon", "retry_after": "7"}, 7.0),
        ({"retry_after": "600"}, 600.0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "tomorrow"}, None),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert answer(429, error(), **headers).retry_after == seconds


def test_the_time_to_wait_may_be_a_date() -> None:
    seconds = answer(503, error(), retry_after=formatdate(time.time() + 3600, usegmt=True)).retry_after
    assert 3500 < seconds <= 3600


def test_google_says_the_time_to_wait_in_the_body() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27.5s"}]
    assert answer(429, error(details=details)).retry_after == 27.5
    assert answer(429, error(details=details), retry_after="3").retry_after == 3


@pytest.mark.parametrize(("word", "verdict"), [("true", True), ("False", False), ("", None), ("maybe", None)])
def test_the_providers_word_on_retries_is_kept(word: str, verdict: bool | None) -> None:
    made = answer(400, error(), x_should_retry=word)
    assert made.should_retry is verdict
    assert made.info.retryable is (verdict or False)


def test_a_redirect_is_not_followed_and_shows_no_credential() -> None:
    made = answer(301, location="https://user:secret@elsewhere.example/v1?key=secret")
    assert made.code == "provider_protocol"
    assert not made.info.retryable
    assert "elsewhere.example/v1" in made.message
    assert "base_url" in made.message
    assert "secret" not in made.message


@pytest.mark.parametrize(
    "document",
    [
        {"choices": []},
        {"choices": [], "error": None},
        {"choices": [], "error": {}},
        {"choices": [], "error": ""},
        {"choices": [], "message": "m", "detail": "d"},
        {"data": [], "message": "m"},
        {"usage": {}},
        {},
        [],
        [1],
        None,
        7,
        "error",
    ],
)
def test_what_reports_no_error_is_none(document: Any) -> None:
    assert errors.find(document) is None


@pytest.mark.parametrize("name", ["x-request-id", "request-id", "apim-request-id", "x-ms-request-id"])
def test_the_id_of_the_request_goes_by_many_names(name: str) -> None:
    assert errors.request_id({name: " abc "}) == "abc"
    assert errors.request_id({name: ""}) is None


@pytest.mark.parametrize(
    "shown",
    [
        "my-own-key-1",
        "sk-proj-abcdefghijklmnop",
        "sk-abcd********wxyz",
        "****************wxyz",
        "Bearer abc.def-ghi",
        "bearer  abc",
        "AIzaSyA1234567890abcdef",
        "gsk_abcdefghijkl",
        "xai-abcdefghijkl",
    ],
)
def test_what_is_or_looks_like_a_key_is_taken_out(shown: str) -> None:
    text = errors.redact(f"Incorrect API key provided: {shown}. See platform", ("my-own-key-1",))
    assert text == "Incorrect API key provided: [redacted]. See platform"


@pytest.mark.parametrize("text", ["ask-me-anything else", "risk-free", "use **bold** text", "task-list", "sk-8"])
def test_ordinary_words_stay(text: str) -> None:
    assert errors.redact(text, ()) == text


def test_an_error_that_is_nested_without_end_has_no_text_but_is_one() -> None:
    nested: Any = "text"
    for _ in range(900):
        nested = [nested]
    for shape in ({"error": nested}, {"error": {"message": nested}}, {"detail": [{"loc": nested, "msg": nested}]}):
        found = errors.find(shape)
        assert found is not None
        assert errors.from_body(found).message
    assert errors.find(nested) is None
