"""What the echo provider says, and how a script makes it say something else."""

from __future__ import annotations

import json

import pytest
from echoing import HELLO, deltas, read, request

from deltabus.provider import (
    Chunk,
)
from deltabus.testing.chunks import stream_text
from deltabus_echo.answer import CREATED, PASSAGE


def test_a_stream_is_these_bytes(stream):
    head = b'{"id":"chatcmpl-t1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":'
    assert [item.raw for item in stream()] == [
        head + b'[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}' % (delta, reason)
        for delta, reason in [
            (b'{"role":"assistant","content":""}', b"null"),
            (b'{"content":"hello"}', b"null"),
            (b'{"content":" big"}', b"null"),
            (b'{"content":" bus"}', b"null"),
            (b"{}", b'"stop"'),
        ]
    ]


def test_the_same_request_gives_the_same_bytes(stream, whole):
    fields = {"n": 2, "logprobs": True, "stream_options": {"include_usage": True}, "echo": {"words": 30}}
    assert [item.raw for item in stream(**fields)] == [item.raw for item in stream(**fields)]
    assert whole(**fields) == whole(**fields)


def test_a_whole_answer_says_the_same(whole):
    message = {"role": "assistant", "content": "hello big bus", "refusal": None}
    assert whole() == {
        "id": "chatcmpl-t1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }


@pytest.mark.parametrize(
    "text", ["one", "a  b", " a\n\nb ", "\ta", "日本語 です", 'q"uo\\te', "\u2028", " ", "a\x00b", "😀 😀"]
)
def test_every_character_comes_back(stream, whole, text):
    messages = [{"role": "user", "content": text}]
    items = stream(messages=messages)
    assert stream_text(items) == text
    assert all(json.loads(item.raw) == item.data for item in items)
    assert whole(messages=messages)["choices"][0]["message"]["content"] == text


def test_the_last_user_message_comes_back(stream):
    messages = [*HELLO, {"role": "user", "content": "last"}, {"role": "assistant", "content": "no"}]
    assert stream_text(stream(messages=messages)) == "last"


def test_without_a_user_the_last_message_comes_back(stream):
    assert stream_text(stream(messages=[{"role": "system", "content": "rules"}])) == "rules"


def test_the_texts_of_parts_come_back(stream):
    parts = [{"type": "text", "text": "a "}, {"type": "image_url", "image_url": {"url": "u"}}, {"text": "b"}]
    assert stream_text(stream(messages=[{"role": "user", "content": parts}])) == "a b"


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": None}], [{"role": "user"}]])
def test_nothing_to_say_is_said_in_full(run, messages):
    items, error = run(read(request(messages=messages)))
    assert error is None
    assert deltas(items) == [{"role": "assistant", "content": ""}, {}]


def test_words_come_from_the_passage_over_and_over(stream):
    count = len(PASSAGE.split())
    text = stream_text(stream(echo={"words": 2 * count}))
    assert text == f"{PASSAGE} {PASSAGE}"
    assert len(stream(echo={"words": 7})) == 7 + 2


def test_words_of_a_text_are_repeated_as_often_as_asked(stream):
    assert stream_text(stream(echo={"text": "a b", "words": 5})) == "a b a b a"
    assert stream_text(stream(echo={"text": "a b c", "words": 2})) == "a b"
    assert stream_text(stream(echo={"text": "as  it is"})) == "as  it is"


def test_chunks_can_hold_several_words(stream):
    items = stream(echo={"text": "a b c d e", "chunk_words": 2})
    assert [delta.get("content") for delta in deltas(items)] == ["", "a b", " c d", " e", None]


def test_the_limit_of_tokens_cuts_the_answer(stream, whole):
    for name in ("max_tokens", "max_completion_tokens"):
        items = stream(**{name: 2})
        assert stream_text(items) == "hello big"
        assert items[-1].data["choices"][0]["finish_reason"] == "length"
    assert whole(max_tokens=2)["choices"][0]["finish_reason"] == "length"
    assert whole(max_tokens=3)["choices"][0]["finish_reason"] == "stop"


def test_usage_comes_last_where_it_is_asked_for_and_only_there(stream):
    items = stream(stream_options={"include_usage": True}, n=2)
    assert [item.data["usage"] for item in items[:-1]] == [None] * (len(items) - 1)
    assert items[-1].data["choices"] == []
    assert items[-1].data["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    assert all("usage" not in item.data for item in stream())


def test_a_script_overrides_usage_and_finish_reason(whole):
    answer = whole(echo={"usage": {"prompt_tokens": 100, "cached": 1}, "finish_reason": "content_filter"})
    assert answer["usage"] == {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103, "cached": 1}
    assert answer["choices"][0]["finish_reason"] == "content_filter"


def test_several_choices_say_the_same_side_by_side(stream, whole):
    items = stream(n=3)
    assert [item.data["choices"][0]["index"] for item in items[:6]] == [0, 1, 2, 0, 1, 2]
    assert [choice["index"] for choice in whole(n=3)["choices"]] == [0, 1, 2]


def test_log_probabilities_stand_beside_the_words(stream, whole):
    items = stream(logprobs=True, top_logprobs=2)
    entry = {"token": "hello", "logprob": 0.0, "bytes": list(b"hello")}
    assert items[1].data["choices"][0]["logprobs"] == {"content": [{**entry, "top_logprobs": [entry]}], "refusal": None}
    tokens = whole(logprobs=True)["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == "hello big bus"
    assert tokens[0]["top_logprobs"] == []


def test_reasoning_comes_before_the_content(stream, whole):
    script = {"reasoning": "let me see", "text": "yes"}
    said = [next(iter(delta)) for delta in deltas(stream(echo=script))[1:-1]]
    assert said == ["reasoning_content"] * 3 + ["content"]
    assert whole(echo=script)["choices"][0]["message"]["reasoning_content"] == "let me see"


def called(items: list[Chunk]) -> list[dict]:
    """The calls that the deltas add up to."""
    calls: dict[int, dict] = {}
    for delta in deltas(items):
        for part in delta.get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"arguments": ""})
            call["arguments"] += part["function"]["arguments"]
            call |= {key: part[key] for key in ("id", "type") if key in part}
            call |= {"name": part["function"]["name"]} if "name" in part["function"] else {}
    return [calls[index] for index in sorted(calls)]


def test_tool_calls_of_a_script_are_streamed_in_pieces(stream, whole):
    calls = [{"name": "f", "arguments": {"city": "Paris"}}, {"name": "g", "arguments": "not json", "id": "call_x"}]
    items = stream(echo={"tool_calls": calls})
    assert called(items) == [
        {"id": "call_0", "type": "function", "name": "f", "arguments": '{"city":"Paris"}'},
        {"id": "call_x", "type": "function", "name": "g", "arguments": "not json"},
    ]
    assert items[-1].data["choices"][0]["finish_reason"] == "tool_calls"
    message = whole(echo={"tool_calls": calls})["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f", "g"]
    assert stream_text(stream(echo={"tool_calls": calls, "text": "and words"})) == "and words"


def tool(name: str, **schema) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = tool(
    "weather",
    type="object",
    required=["city", "days", "unit", "at", "tags", "exact", "kind", "free"],
    properties={
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 2},
        "unit": {"enum": ["C", "F"]},
        "at": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"}}},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "exact": {"type": "boolean"},
        "kind": {"const": "now"},
        "left out": {"type": "string"},
    },
)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_is_demanded_is_made_with_arguments_that_fit(stream, choice):
    tools = [WEATHER, tool("other")] if choice == "required" else [tool("other"), WEATHER]
    (call,) = called(stream(tools=tools, tool_choice=choice))
    assert call["name"] == "weather"
    assert json.loads(call["arguments"]) == {
        "city": "hello big bus",
        "days": 2,
        "unit": "C",
        "at": {"lat": 0},
        "tags": ["hello big bus"],
        "exact": False,
        "kind": "now",
        "free": None,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": "auto"},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"tools": [], "tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "absent"}}},
    ],
)
def test_a_call_that_is_not_demanded_is_not_made(stream, fields):
    assert stream_text(stream(**fields)) == "hello big bus"


def test_a_tool_without_parameters_is_called_without_arguments(stream):
    (call,) = called(stream(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="required"))
    assert (call["name"], call["arguments"]) == ("f", "{}")
