"""OpenAI's shapes: what is common to plugins that translate."""

from __future__ import annotations

from typing import Any

import pytest

from deltabus.chat import request as chat
from deltabus.http import shapes
from deltabus.provider import ProviderProtocol, Unsupported


def test_every_parameter_that_the_bus_checks_is_known() -> None:
    assert set(chat._PARAMETERS) <= shapes.PARAMETERS


def test_what_is_not_openais_is_what_an_api_gets_as_it_is() -> None:
    body = {"model": "m", "messages": [], "top_k": 3, "seed": 1, "thinking": None, "new": {"a": None}}
    assert shapes.native(body, "model", "temperature") == {"model": "m", "top_k": 3, "new": {"a": None}}


def test_messages_of_one_side_are_one_turn() -> None:
    roles = {"system": "system", "user": "user", "tool": "user", "assistant": "model"}
    names = ["user", "system", "tool", "assistant", "user"]
    messages = [{"role": role} for role in names]
    system, turns = shapes.turns(messages, roles, "parts", lambda message, where: [{message["role"]: where}])
    assert system == [{"system": "request.messages[1]"}]
    assert turns == [
        {"role": "user", "parts": [{"user": "request.messages[0]"}, {"tool": "request.messages[2]"}]},
        {"role": "model", "parts": [{"assistant": "request.messages[3]"}]},
        {"role": "user", "parts": [{"user": "request.messages[4]"}]},
    ]
    with pytest.raises(Unsupported, match="it knows system, user, tool, assistant"):
        shapes.turns([{"role": "function"}], roles, "parts", lambda *_: [])


def test_chunks_add_up_to_a_completion() -> None:
    head = shapes.head("", "m")
    assert head["id"].startswith("chatcmpl-")
    call = [shapes.tool_call(0, "", id="c", name="f")]
    chunks = [
        shapes.chunk(head, {"role": "assistant", "content": "a", "tool_calls": call}),
        shapes.chunk(head, {"content": "b", "tool_calls": [shapes.tool_call(0, {"x": 1})]}, "tool_calls"),
    ]
    [choice] = shapes.completion(chunks).data["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "refusal": None,
        "role": "assistant",
        "content": "ab",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
    }
    with pytest.raises(ProviderProtocol):
        shapes.completion([])


@pytest.mark.parametrize("listed", [None, [], {}, {"data": 5}])
def test_what_is_no_list_of_models_is_none(listed: Any) -> None:
    assert shapes.models(listed, "data", "acme", id=lambda item: item["id"]) is None


def test_models_keep_what_the_api_says_of_them() -> None:
    listed = {"data": [{"id": "a", "created": "soon", "size": 7}, 5]}
    assert shapes.models(listed, "data", "acme", id=lambda item: item["id"], created=lambda _: 9) == [
        {"id": "a", "created": 9, "size": 7, "object": "model", "owned_by": "acme"}
    ]
