"""Chat requests become Messages requests: https://platform.claude.com/docs/en/api/messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deltabus.chat import request as chat
from deltabus.provider import InvalidRequest, TaskError, Unsupported
from deltabus_anthropic.provider import CAPABILITIES
from deltabus_anthropic.wire import MAX_TOKENS, request

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": True}}
PNG = "data:image/png;base64,iVBORw0KGgo="


def sent(messages: Any = (USER,), **body: Any) -> dict[str, Any]:
    """What is sent for a request that the bus has checked."""
    document = request(chat.prepare({"model": "claude-opus-4-6", "messages": list(messages), **body}, CAPABILITIES))
    assert json.dumps(document)
    return document


def turn(*messages: Any) -> Any:
    """The last turn."""
    return sent(messages)["messages"][-1]


def test_a_request_has_a_limit_as_the_api_requires() -> None:
    text = [{"type": "text", "text": "hi"}]
    assert sent() == {
        "model": "claude-opus-4-6",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": MAX_TOKENS,
    }
    assert sent(max_tokens=5)["max_tokens"] == 5
    assert sent(max_tokens=5, max_completion_tokens=6)["max_tokens"] == 6


def test_the_systems_words_stand_apart() -> None:
    document = sent([{"role": "system", "content": "Be"}, {"role": "developer", "content": "kind."}, USER])
    assert document["system"] == [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}]
    assert [message["role"] for message in document["messages"]] == ["user"]


def test_parameters_are_translated_forwarded_or_left_out() -> None:
    document = sent(
        temperature=0.5,
        top_p=0.9,
        stop="END",
        user="u-1",
        service_tier="default",
        stream=True,
        seed=7,
        n=1,
        logprobs=False,
        stream_options={"include_usage": True},
        frequency_penalty=1,
        top_k=3,
        thinking={"type": "adaptive"},
        cache_control={"type": "ephemeral"},
        mcp_servers=[{"url": "https://x"}],
        metadata={"a": "b"},
        verbosity=None,
    )
    assert {key: document[key] for key in document if key not in ("messages", "model", "max_tokens")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"},
        "service_tier": "standard_only",
        "stream": True,
        "top_k": 3,
        "thinking": {"type": "adaptive"},
        "cache_control": {"type": "ephemeral"},
        "mcp_servers": [{"url": "https://x"}],
    }


def test_tools_are_translated_and_those_of_anthropics_own_are_not() -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}
    document = sent(
        tools=[
            {**TOOL, "cache_control": {"type": "ephemeral"}},
            search,
            {"type": "function", "function": {"name": "now"}},
        ]
    )
    assert document["tools"] == [
        {
            "name": "look",
            "description": "Looks.",
            "strict": True,
            "input_schema": SCHEMA,
            "cache_control": {"type": "ephemeral"},
        },
        search,
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("choice", "translated"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"type": "function", "function": {"name": "look"}}, {"type": "tool", "name": "look"}),
    ],
)
def test_the_choice_of_a_tool_is_translated(choice: Any, translated: Any) -> None:
    assert sent(tools=[TOOL], tool_choice=choice)["tool_choice"] == translated


def test_one_tool_at_a_time_is_part_of_the_choice() -> None:
    assert sent(tools=[TOOL], parallel_tool_calls=False)["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }
    assert "tool_choice" not in sent(parallel_tool_calls=False)


def test_without_tools_there_is_nothing_to_choose() -> None:
    assert "tool_choice" not in sent(tool_choice="auto")


def test_an_answer_that_was_empty_is_no_turn() -> None:
    turns = sent([USER, {"role": "assistant", "content": ""}, USER])["messages"]
    assert [each["role"] for each in turns] == ["user"]


def test_calls_and_their_results_are_blocks_and_all_results_are_in_one_turn() -> None:
    function = {"name": "look", "arguments": '{"city": "Z"}'}
    calls = [{"id": each, "type": "function", "function": function} for each in ("a", "b")]
    results = [{"role": "tool", "tool_call_id": each, "content": f"sunny {each}"} for each in ("a", "b")]
    turns = sent([USER, {"role": "assistant", "content": None, "tool_calls": calls}, *results, USER])["messages"]
    assert [each["role"] for each in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == [
        {"type": "tool_use", "id": each, "name": "look", "input": {"city": "Z"}} for each in ("a", "b")
    ]
    assert turns[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "sunny a"}]},
        {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "sunny b"}]},
        {"type": "text", "text": "hi"},
    ]


def test_a_result_may_be_a_failure_and_hold_a_picture() -> None:
    content = [{"type": "image_url", "image_url": {"url": PNG}}]
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": ""}}
    result = {"role": "tool", "tool_call_id": "a", "content": content, "is_error": True}
    [block] = turn(USER, {"role": "assistant", "content": "", "tool_calls": [call]}, result)["content"]
    assert block["is_error"] is True
    assert block["content"][0]["type"] == "image"


def test_ids_of_other_providers_are_made_to_fit() -> None:
    call = {"id": "call:1/x", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns = sent(
        [
            USER,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call:1/x", "content": "y"},
        ]
    )["messages"]
    assert turns[1]["content"][0]["id"] == turns[2]["content"][0]["tool_use_id"] != "call:1/x"


def test_what_an_answer_held_besides_goes_back_in_front() -> None:
    blocks = [{"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}, {"type": "redacted_thinking", "data": "x"}]
    message = {
        "role": "assistant",
        "content": "9",
        "reasoning_content": "Hm.",
        "extra_content": {"anthropic": {"blocks": blocks}},
    }
    assert turn(USER, message)["content"] == [*blocks, {"type": "text", "text": "9"}]


def test_pictures_and_documents_are_sources() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://h.example/a.png"}},
        {
            "type": "file",
            "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"},
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "file", "file": {"file_data": "data:text/markdown;charset=utf-8,Gr%C3%BCezi"}},
        {
            "type": "document",
            "source": {"type": "url", "url": "https://h.example/a.pdf"},
            "citations": {"enabled": True},
        },
    ]
    assert turn({"role": "user", "content": parts})["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
        {"type": "image", "source": {"type": "url", "url": "https://h.example/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
            "title": "a.pdf",
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Gr\u00fcezi"}},
        parts[-1],
    ]


def test_cache_control_of_a_message_marks_its_last_block() -> None:
    content = turn({**USER, "cache_control": {"type": "ephemeral"}})["content"]
    assert content == [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    [block] = sent(
        [
            {"role": "system", "content": [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]},
            USER,
        ]
    )["system"]
    assert block["cache_control"] == {"type": "ephemeral"}


def test_a_schema_is_the_format_of_the_output() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    document = sent(response_format=wanted, output_config={"effort": "low"})
    assert document["output_config"] == {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}
    assert "output_config" not in sent(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "config"),
    [
        ("claude-opus-4-6", "high", {"type": "adaptive"}, {"effort": "high"}),
        ("claude-opus-5-5", "minimal", {"type": "adaptive"}, {"effort": "low"}),
        ("claude-opus-4-6", "none", None, None),
        ("claude-sonnet-4-5-20250929", "medium", {"type": "enabled", "budget_tokens": 8192}, None),
        ("claude-haiku-4-5", "low", {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-sonnet-4-20250514", "max", {"type": "enabled", "budget_tokens": MAX_TOKENS - 1}, None),
        ("claude-3-7-sonnet-latest", "high", {"type": "enabled", "budget_tokens": MAX_TOKENS - 1}, None),
    ],
)
def test_reasoning_effort_is_thinking_in_the_way_of_the_model(
    model: str, effort: str, thinking: Any, config: Any
) -> None:
    document = sent(model=model, reasoning_effort=effort)
    assert document.get("thinking") == thinking
    assert document.get("output_config") == config


def test_the_producers_own_thinking_wins_and_too_small_a_limit_leaves_no_room_for_it() -> None:
    own = {"type": "enabled", "budget_tokens": 2000}
    assert sent(reasoning_effort="high", thinking=own)["thinking"] == own
    assert "thinking" not in sent(model="claude-sonnet-4-5", reasoning_effort="high", max_tokens=1000)


def call(arguments: str) -> dict[str, Any]:
    made = {"id": "a", "type": "function", "function": {"name": "look", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [made]}


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"response_format": {"type": "json_object"}}, Unsupported, "request.response_format"),
        ({"web_search_options": {"x": 1}}, Unsupported, "request.web_search_options"),
        ({"functions": [{"name": "f"}]}, Unsupported, "request.functions"),
        ({"audio": {"voice": "x"}}, Unsupported, "request.audio"),
        ({"logprobs": True}, Unsupported, "request.logprobs"),
        ({"n": 2}, Unsupported, "request.n"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, Unsupported, "request.tools[0]"),
        ({"messages": [{**USER, "name": "Ann"}]}, Unsupported, "request.messages[0].name"),
        (
            {"messages": [USER, call('{"a":' * 10_000)]},
            InvalidRequest,
            "request.messages[1].tool_calls[0].function.arguments",
        ),
        ({"messages": [USER, call("{")]}, InvalidRequest, "request.messages[1].tool_calls[0].function.arguments"),
        ({"messages": [USER, call("[]")]}, InvalidRequest, "request.messages[1].tool_calls[0].function.arguments"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, Unsupported, "request.messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            InvalidRequest,
            "request.messages[0].content[0].image_url.url",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}
                ]
            },
            Unsupported,
            "request.messages[0].content[0]",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "file", "file": {"file_data": "data:text/plain;base64,#"}}]}
                ]
            },
            InvalidRequest,
            "request.messages[0].content[0].file.file_data",
        ),
        (
            {
                "tools": [TOOL],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "look"}}]},
                },
            },
            Unsupported,
            "request.tool_choice",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(body: Any, error: type[TaskError], param: str) -> None:
    with pytest.raises(error) as caught:
        sent(**{"messages": [USER], **body})
    assert caught.value.param == param
