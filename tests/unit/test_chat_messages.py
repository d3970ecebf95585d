"""Messages are checked part by part; parts of the Responses API and foreign tool-call ids are translated."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from deltabus.chat.request import prepare
from deltabus.errors import InvalidRequest, TaskError, Unsupported
from deltabus.provider import Capabilities

ANY = Capabilities()
MISTRAL = Capabilities(tool_call_id_pattern="[A-Za-z0-9]{9}")


def messages(*given: Any, capabilities: Capabilities = ANY) -> list[Any]:
    body = {"messages": list(given)}
    before = copy.deepcopy(body)
    prepared = prepare(body, capabilities)["messages"]
    assert body == before
    return prepared


def parts(*given: Any, capabilities: Capabilities = ANY) -> list[Any]:
    [message] = messages({"role": "user", "content": list(given)}, capabilities=capabilities)
    return message["content"]


def refused(*given: Any, capabilities: Capabilities = ANY) -> TaskError:
    with pytest.raises(TaskError) as caught:
        messages(*given, capabilities=capabilities)
    assert type(caught.value) in (InvalidRequest, Unsupported)
    assert f"`{caught.value.param}`" in caught.value.message
    return caught.value


def call(id: str = "call_1", **fields: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **fields}


GOOD = [
    {"role": "developer", "content": "Be brief"},
    {"role": "system", "content": [{"type": "text", "text": "Be kind"}]},
    {"role": "user", "content": "", "name": "Ann"},
    {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}],
    },
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]},
    {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
    {
        "role": "user",
        "content": [{"type": "file", "file": {"file_data": "data:text/plain;base64,AA", "filename": "a"}}],
    },
    {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "https://x.example"}}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [call()],
        "refusal": None,
        "audio": None,
        "function_call": None,
    },
    {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "sql", "input": "x"}}]},
    {"role": "assistant", "tool_calls": [{"id": "", "function": {"name": "f", "arguments": ""}}]},
    {"role": "assistant", "tool_calls": [{"id": "c", "type": "brand_new", "x": 1}]},
    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"role": "assistant", "content": None, "refusal": "no"},
    {"role": "assistant", "audio": {"id": "audio_1"}},
    {"role": "assistant", "content": None, "reasoning_content": "hm"},
    {"role": "assistant", "content": "a", "prefix": True, "tool_calls": None},
    {"role": "tool", "tool_call_id": "call_1", "content": "4"},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "4"}]},
    {"role": "function", "name": "f", "content": None},
    {"role": "function", "name": "f", "content": "4"},
]


@pytest.mark.parametrize("message", GOOD)
def test_every_documented_message_passes_untouched(message: dict[str, Any]):
    [prepared] = messages(message)
    assert prepared is message


@pytest.mark.parametrize(
    ("message", "path"),
    [
        (None, ""),
        ("Hello", ""),
        ({}, ".role"),
        ({"role": None, "content": "x"}, ".role"),
        ({"role": ["user"], "content": "x"}, ".role"),
        ({"role": "usr", "content": "x"}, ".role"),
        ({"role": "user"}, ".content"),
        ({"role": "user", "content": None}, ".content"),
        ({"role": "user", "content": 1}, ".content"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, ".content"),
        ({"role": "user", "content": []}, ".content"),
        ({"role": "user", "content": ["x"]}, ".content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, ".content[0].type"),
        ({"role": "user", "content": [{"type": "texts"}]}, ".content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": 1}]}, ".content[1].text"),
        ({"role": "user", "content": [{"type": "image_url"}]}, ".content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": ""}]}, ".content[0].image_url"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ".content[0].image_url.url"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u", "detail": 1}}]},
            ".content[0].image_url.detail",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, ".content[0].input_audio"),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]},
            ".content[0].input_audio.format",
        ),
        ({"role": "user", "content": [{"type": "file", "file": "file-1"}]}, ".content[0].file"),
        ({"role": "user", "content": [{"type": "file", "file": {"filename": "a"}}]}, ".content[0].file"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": 1}}]}, ".content[0].file.file_id"),
        ({"role": "user", "content": [{"type": "file", "file": {"file_id": ""}}]}, ".content[0].file.file_id"),
        ({"role": "user", "content": [{"type": "input_text"}]}, ".content[0].text"),
        ({"role": "user", "content": [{"type": "input_image"}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": {}}]}, ".content[0].image_url.url"),
        ({"role": "user", "content": [{"type": "input_file", "filename": "a"}]}, ".content[0]"),
        ({"role": "user", "content": "x", "name": 1}, ".name"),
        ({"role": "assistant"}, ".content"),
        ({"role": "assistant", "content": None}, ".content"),
        ({"role": "assistant", "content": None, "tool_calls": []}, ".content"),
        ({"role": "assistant", "content": "x", "refusal": 1}, ".refusal"),
        ({"role": "assistant", "content": "x", "reasoning": {}}, ".reasoning"),
        ({"role": "assistant", "content": "x", "audio": {}}, ".audio.id"),
        ({"role": "assistant", "tool_calls": {}}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": ["x"]}, ".tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{"type": "function"}]}, ".tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [call(type="funtion")]}, ".tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [call(function=None)]}, ".tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [call(function={"arguments": ""})]}, ".tool_calls[0].function.name"),
        (
            {"role": "assistant", "tool_calls": [call(function={"name": "f", "arguments": {}})]},
            ".tool_calls[0].function.arguments",
        ),
        ({"role": "assistant", "function_call": {"name": "f"}}, ".function_call.arguments"),
        ({"role": "tool", "content": "x"}, ".tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": None}, ".tool_call_id"),
        ({"role": "tool", "tool_call_id": "a"}, ".content"),
        ({"role": "tool", "tool_call_id": "a", "content": None}, ".content"),
        ({"role": "function", "content": "x"}, ".name"),
        ({"role": "function", "name": "f", "content": 1}, ".content"),
    ],
)
def test_what_is_wrong_with_a_message_is_named_by_its_path(message: Any, path: str):
    assert refused({"role": "user", "content": "x"}, message).param == f"request.messages[1]{path}"


@pytest.mark.parametrize("value", [None, [], {}, "Hello"])
def test_messages_are_a_list_of_at_least_one(value: Any):
    with pytest.raises(InvalidRequest) as caught:
        prepare({"messages": value}, ANY)
    assert caught.value.param == "request.messages"
    with pytest.raises(InvalidRequest, match="required"):
        prepare({}, ANY)


@pytest.mark.parametrize(("role", "meant"), [("User", "user"), ("asistant", "assistant"), ("tools", "tool")])
def test_a_wrong_role_gets_the_right_ones_listed_and_the_nearest_suggested(role: str, meant: str):
    message = refused({"role": role, "content": "x"}).message
    assert "developer, system, user, assistant, tool, function" in message
    assert f"not `{role}`; did you mean `{meant}`?" in message


# Parts of the Responses API.


def test_an_image_message_as_opi_writes_it_becomes_one_that_chat_completions_knows():
    opi = {"type": "input_image", "file_id": "file-10"}, {"type": "input_text", "text": "What is this?"}
    assert parts(*opi) == [
        {"type": "file", "file": {"file_id": "file-10"}},
        {"type": "text", "text": "What is this?"},
    ]


@pytest.mark.parametrize(
    ("part", "translated"),
    [
        ({"type": "output_text", "text": "x", "annotations": []}, {"type": "text", "text": "x", "annotations": []}),
        (
            {"type": "input_image", "image_url": "https://x.example/a.png", "detail": "low", "file_id": None},
            {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}},
        ),
        (
            {"type": "input_image", "image_url": {"url": "data:,"}, "cache": 1},
            {"type": "image_url", "image_url": {"url": "data:,"}, "cache": 1},
        ),
        ({"type": "input_image", "file_id": "f", "detail": "low"}, {"type": "file", "file": {"file_id": "f"}}),
        ({"type": "image_url", "image_url": "data:,"}, {"type": "image_url", "image_url": {"url": "data:,"}}),
        ({"type": "input_file", "file_id": "f", "file_url": None}, {"type": "file", "file": {"file_id": "f"}}),
        (
            {"type": "input_file", "file_data": "data:,", "filename": "a.txt"},
            {"type": "file", "file": {"file_data": "data:,", "filename": "a.txt"}},
        ),
    ],
)
def test_parts_of_the_responses_api_are_translated(part: dict[str, Any], translated: dict[str, Any]):
    assert parts(part) == [translated]


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ({"type": "input_image", "file_id": "f"}, "file_id"),
        ({"type": "input_file", "file_id": "f"}, "file_id"),
        ({"type": "file", "file": {"file_id": "f"}}, "file.file_id"),
    ],
)
def test_file_ids_are_unsupported_where_the_provider_takes_none(part: dict[str, Any], path: str):
    error = refused({"role": "user", "content": [part]}, capabilities=Capabilities(file_ids=False))
    assert isinstance(error, Unsupported)
    assert error.param == f"request.messages[0].content[0].{path}"
    assert "data URL" in error.message


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ({"type": "file", "file": {"file_data": "data:,"}}, "file.file_data"),
        ({"type": "input_file", "file_data": "data:,"}, "file_data"),
        ({"type": "file", "file": {"file_id": "f"}}, "file.file_id"),
        ({"type": "input_file", "file_id": "f"}, "file_id"),
    ],
)
def test_files_are_unsupported_where_the_provider_takes_none_in_messages(part: dict[str, Any], path: str):
    error = refused({"role": "user", "content": [part]}, capabilities=Capabilities(file_ids=False, file_parts=False))
    assert isinstance(error, Unsupported)
    assert error.param == f"request.messages[0].content[0].{path}"
    assert "`file_parts` of its capabilities is false" in error.message


def test_files_that_were_uploaded_are_no_matter_of_what_files_messages_may_hold():
    part = {"type": "file", "file": {"file_id": "f"}}
    assert parts(part, capabilities=Capabilities(file_parts=False)) == [part]


def test_a_file_url_is_unsupported():
    error = refused({"role": "user", "content": [{"type": "input_file", "file_url": "https://x.example"}]})
    assert isinstance(error, Unsupported)
    assert error.param == "request.messages[0].content[0].file_url"


def test_only_what_is_translated_is_copied():
    kept = {"type": "text", "text": "x"}
    [message] = messages({"role": "user", "content": [{"type": "input_text", "text": "x"}, kept], "extra": 1})
    assert message["content"] == [kept, kept]
    assert message["content"][1] is kept
    assert message["extra"] == 1


# Tool-call ids.

CONVERSATION = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": None, "tool_calls": [call("call_a"), call("abcDEF123"), call("call_b")]},
    {"role": "tool", "tool_call_id": "call_b", "content": "2"},
    {"role": "tool", "tool_call_id": "abcDEF123", "content": "3"},
    {"role": "tool", "tool_call_id": "call_a", "content": "1"},
]


def ids(prepared: list[Any]) -> list[str]:
    made = [each["id"] for message in prepared for each in message.get("tool_calls", ())]
    return made + [message["tool_call_id"] for message in prepared if message["role"] == "tool"]


def test_tool_call_ids_stay_where_any_are_taken():
    assert ids(messages(*CONVERSATION)) == ["call_a", "abcDEF123", "call_b", "call_b", "abcDEF123", "call_a"]


def test_tool_call_ids_that_do_not_fit_are_replaced_alike_everywhere():
    a, kept, b, *answered = ids(messages(*CONVERSATION, capabilities=MISTRAL))
    assert kept == "abcDEF123"
    assert answered == [b, kept, a]
    assert len({a, b, kept}) == 3
    assert all(re.fullmatch("[A-Za-z0-9]{9}", each) for each in (a, b))


def test_replaced_ids_are_the_same_in_every_later_request():
    again = messages(*CONVERSATION, {"role": "user", "content": "more"}, capabilities=MISTRAL)
    assert ids(again) == ids(messages(*CONVERSATION, capabilities=MISTRAL))


def test_a_replacement_never_takes_an_id_that_is_in_use():
    [first] = messages({"role": "assistant", "tool_calls": [call("call_a")]}, capabilities=MISTRAL)
    taken = first["tool_calls"][0]["id"]
    both = {"role": "assistant", "tool_calls": [call("call_a"), call(taken)]}
    other, kept = ids(messages(both, capabilities=MISTRAL))
    assert kept == taken
    assert other != taken


def test_a_pattern_that_no_made_up_id_can_meet_is_unsupported():
    capabilities = Capabilities(tool_call_id_pattern="id-[0-9]+")
    error = refused(*CONVERSATION, capabilities=capabilities)
    assert isinstance(error, Unsupported)
    assert error.param == "request.messages[1].tool_calls[0].id"
    assert "id-[0-9]+" in error.message
    assert messages({"role": "tool", "tool_call_id": "id-7", "content": "x"}, capabilities=capabilities)
