"""The bus in front of LiteLLM: streaming, tools, usage, and each kind of refusal."""

from __future__ import annotations

import json

import pytest

from deltabus import TaskFailed, events

TEXT = "Hello from a server that nobody here wrote: naïve, 日本語, 🙂."
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
CALLS = [("call_weather", "get_weather", {"city": "Paris"}), ("call_time", "get_time", {"zone": "CET"})]
#: Seconds that a task may take here.
DEADLINE = 60


def failure(task) -> events.Failed:
    with pytest.raises(TaskFailed):
        task.result(timeout=DEADLINE)
    last = list(task.events())[-1]
    assert isinstance(last, events.Failed)
    return last


def called(completion) -> list[tuple[str, str, dict[str, str]]]:
    calls = completion["choices"][0]["message"]["tool_calls"]
    return [(call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.mark.parametrize("provider", ["litellm", "litellm-v1"])
def test_an_answer_streams_in_pieces_and_ends_as_a_completion_with_usage(bus, provider):
    task = bus.chat(
        messages="hi", model="text", provider=provider, stream_options={"include_usage": True}, timeout=DEADLINE
    )

    assert "".join(task.text()) == TEXT
    completion = task.result(timeout=DEADLINE)
    assert completion["object"] == "chat.completion"
    assert completion["choices"][0]["message"]["content"] == TEXT
    assert completion["choices"][0]["finish_reason"] == "stop"
    usage = completion["usage"]
    assert usage["completion_tokens"] > 0
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    happened = list(task.events())
    assert isinstance(happened[0], events.Started)
    chunks = [chunk for event in happened if isinstance(event, events.Delta) for chunk in event.chunks]
    assert len(chunks) > 10
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_an_answer_that_is_not_streamed_is_the_servers_own_object(bus):
    completion = bus.chat(messages="hi", model="text", provider="litellm", stream=False).result(timeout=DEADLINE)

    assert completion["choices"][0]["message"] == {"role": "assistant", "content": TEXT}
    assert completion["usage"] == {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}


@pytest.mark.parametrize("stream", [True, False])
def test_parallel_tool_calls_arrive_whole(bus, stream):
    task = bus.chat(
        messages="weather and time?",
        model="tools",
        provider="litellm",
        stream=stream,
        tools=TOOLS,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )

    completion = task.result(timeout=DEADLINE)
    assert called(completion) == CALLS
    assert completion["choices"][0]["finish_reason"] == "tool_calls"
    assert completion["usage"]["total_tokens"] == 18


def test_a_model_that_the_server_does_not_have_is_the_requests_fault(bus):
    last = failure(bus.chat(messages="hi", model="no-such-model", provider="litellm"))

    assert last.error.code in {"invalid_request", "not_found"}
    assert "no-such-model" in last.error.message
    assert (last.error.status, last.error.provider, last.error.retryable) == (400, "litellm", False)


def test_a_wrong_key_is_named_as_such_and_never_shown(bus):
    last = failure(bus.chat(messages="hi", model="text", provider="litellm-wrong-key"))

    assert last.error.code == "authentication"
    assert "sk-wrong" not in last.error.message


def test_an_error_in_the_middle_of_a_stream_keeps_what_came_before_it(bus):
    task = bus.chat(messages="hi", model="cut-off", provider="litellm")
    last = failure(task)

    assert last.error.code == "provider_unavailable"
    assert last.partial["choices"][0]["message"]["content"] == "Two words"


def test_being_asked_to_slow_down_is_told_apart_from_a_refusal(bus):
    last = failure(bus.chat(messages="hi", model="rate-limited", provider="litellm"))

    assert (last.error.code, last.error.status, last.error.retryable) == ("rate_limited", 429, True)
