"""Whose headers win, and which are refused."""

from __future__ import annotations

import pytest

from deltabus.http import headers
from deltabus.provider import InvalidRequest


def test_configured_headers_win_in_whatever_case() -> None:
    assert headers.merge({"x-team": "a", "X-Other": "b"}, {"X-Team": "c"}) == {"X-Other": "b", "X-Team": "c"}


@pytest.mark.parametrize("name", ["Authorization", "api-key", "X-API-Key", "Cookie"])
def test_a_producer_brings_no_credentials(name: str) -> None:
    with pytest.raises(InvalidRequest, match="credentials") as caught:
        headers.merge({name: "secret"}, {})
    assert caught.value.param == f"headers.{name}"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Connection", "", "a b", "x:y", "é"])
def test_a_producer_cannot_frame_the_message(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        headers.merge({name: "1"}, {})
    assert caught.value.param == f"headers.{name}"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0", "\u20ac", "\x7f"])
def test_a_value_cannot_begin_another_line(value: str) -> None:
    with pytest.raises(InvalidRequest):
        headers.merge({"X-Team": value}, {})


@pytest.mark.parametrize("name", ["Authorization", "x-api-key", "X-Auth-Token", "Cookie", "x-client-secret"])
def test_headers_that_hold_secrets_are_known_by_their_names(name: str) -> None:
    assert headers.is_credential(name)
    assert not headers.is_credential("X-Team")
