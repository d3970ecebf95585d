"""A request is what the producer sent, and what the settings add; no more, no less."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deltabus.http.body import encode, merge
from deltabus.provider import InvalidRequest


def test_a_request_is_sent_as_it_came_key_by_key() -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "h\u00e9\u2028"}],
        "stream": True,
        "x_new": [1, None],
    }
    assert encode(merge(body)) == json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def test_defaults_fill_in_and_forced_parameters_replace() -> None:
    body = {"model": "m", "messages": [], "temperature": 0, "user": "u", "top_p": None}
    sent = merge(body, defaults={"temperature": 1, "seed": 7, "top_p": 1}, forced={"user": "bus", "store": False})
    assert sent == {**body, "seed": 7, "user": "bus", "store": False}
    assert body == {"model": "m", "messages": [], "temperature": 0, "user": "u", "top_p": None}


@pytest.mark.parametrize("given", [{}, {"model": None}, {"model": ""}, {"model": "default"}])
def test_the_configured_model_stands_in_where_none_is_named(given: dict[str, Any]) -> None:
    assert merge({"messages": [], **given}, model="m")["model"] == "m"


def test_a_request_without_any_model_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="names no model") as caught:
        merge({"messages": []})
    assert caught.value.param == "request.model"


def test_a_server_that_has_a_default_of_its_own_may_be_asked_for_it() -> None:
    assert merge({"model": "default", "messages": []})["model"] == "default"


def test_stream_options_are_a_default_for_streams_only() -> None:
    defaults = {"stream_options": {"include_usage": True}}
    assert "stream_options" not in merge({"model": "m", "stream": False}, defaults=defaults)
    assert "stream_options" not in merge({"model": "m"}, defaults=defaults)
    assert merge({"model": "m", "stream": True}, defaults=defaults)["stream_options"]
    assert merge({"model": "m", "stream_options": {}}, defaults=defaults)["stream_options"] == {}


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        encode({"model": "m", "messages": [object()]})
