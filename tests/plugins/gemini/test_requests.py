"""Chat requests become Gemini's: https://ai.google.dev/api/generate-content."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deltabus.chat import request as chat
from deltabus.provider import InvalidRequest, TaskError, Unsupported
from deltabus_gemini.provider import CAPABILITIES
from deltabus_gemini.wire import path, request

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA, "strict": True}}
PNG = "data:image/png;base64,iVBORw0KGgo="


def sent(messages: Any = (USER,), **body: Any) -> dict[str, Any]:
    """What is sent for a request that the bus has checked."""
    document = request(chat.prepare({"model": "gemini-2.5-flash", "messages": list(messages), **body}, CAPABILITIES))
    assert json.dumps(document)
    return document


def call(id: str, name: str, arguments: str = "{}", **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def test_a_model_is_part_of_the_path() -> None:
    assert path("gemini-2.5-flash") == "models/gemini-2.5-flash"
    assert path("tunedModels/mine") == "tunedModels/mine"


def test_messages_are_turns_and_the_systems_words_stand_apart() -> None:
    document = sent(
        [
            {"role": "system", "content": "Be"},
            {"role": "developer", "content": "kind."},
            USER,
            USER,
            {"role": "assistant", "content": "Hello"},
            USER,
        ]
    )
    assert document == {
        "systemInstruction": {"parts": [{"text": "Be"}, {"text": "kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}, {"text": "hi"}]},
            {"role": "model", "parts": [{"text": "Hello"}]},
            {"role": "user", "parts": [{"text": "hi"}]},
        ],
    }


def test_parameters_are_translated_forwarded_or_left_out() -> None:
    document = sent(
        temperature=0,
        top_p=0.9,
        top_k=5,
        max_tokens=3,
        max_completion_tokens=4,
        n=2,
        seed=7,
        stop=["END"],
        presence_penalty=0.1,
        frequency_penalty=0.2,
        modalities=["text", "image"],
        user="u",
        stream=True,
        logit_bias={"1": 2},
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        cachedContent="cachedContents/x",
        generationConfig={"topP": 0.5, "speechConfig": {"languageCode": "de-CH"}},
    )
    del document["contents"]
    assert document == {
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        "cachedContent": "cachedContents/x",
        "generationConfig": {
            "temperature": 0,
            "topP": 0.5,
            "topK": 5,
            "maxOutputTokens": 4,
            "candidateCount": 2,
            "seed": 7,
            "stopSequences": ["END"],
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "responseModalities": ["TEXT", "IMAGE"],
            "speechConfig": {"languageCode": "de-CH"},
        },
    }


def test_functions_are_declared_with_their_schema_as_it_is_and_other_tools_stay() -> None:
    tools = [TOOL, {"type": "google_search", "googleSearch": {}}, {"type": "function", "function": {"name": "now"}}]
    assert sent(tools=tools, web_search_options={})["tools"] == [
        {"googleSearch": {}},
        {
            "functionDeclarations": [
                {"name": "look", "description": "Looks.", "parametersJsonSchema": SCHEMA},
                {"name": "now"},
            ]
        },
        {"googleSearch": {}},
    ]


REFERENCE = {"type": "function", "function": {"name": "look"}}


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        (REFERENCE, {"mode": "ANY", "allowedFunctionNames": ["look"]}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [REFERENCE]}},
            {"mode": "ANY", "allowedFunctionNames": ["look"]},
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [REFERENCE]}},
            {"mode": "VALIDATED", "allowedFunctionNames": ["look"]},
        ),
    ],
)
def test_the_choice_of_a_tool_is_translated(choice: Any, config: Any) -> None:
    assert sent(tools=[TOOL], tool_choice=choice)["toolConfig"] == {"functionCallingConfig": config}


def test_without_functions_there_is_nothing_to_choose() -> None:
    assert "toolConfig" not in sent(tool_choice="auto")


def test_calls_go_back_with_their_signature_and_results_with_their_function() -> None:
    signed = {"extra_content": {"google": {"thought_signature": "sig"}}}
    calls = [call("fc_1", "look", '{"city": "Z"}', **signed), call("gemini-call-r-0-1", "now")]
    results = [
        {"role": "tool", "tool_call_id": "fc_1", "content": '{"weather": "sunny"}'},
        {"role": "tool", "tool_call_id": "gemini-call-r-0-1", "content": "12:00"},
    ]
    contents = sent([USER, {"role": "assistant", "content": None, "tool_calls": calls}, *results])["contents"]
    assert contents[1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "fc_1", "name": "look", "args": {"city": "Z"}}, "thoughtSignature": "sig"},
                {"functionCall": {"name": "now", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "fc_1", "name": "look", "response": {"weather": "sunny"}}},
                {"functionResponse": {"name": "now", "response": {"output": "12:00"}}},
            ],
        },
    ]


def test_a_picture_in_a_result_stands_beside_it() -> None:
    content = [{"type": "text", "text": "here"}, {"type": "image_url", "image_url": {"url": PNG}}]
    messages = [
        USER,
        {"role": "assistant", "tool_calls": [call("a", "look")]},
        {"role": "tool", "tool_call_id": "a", "content": content},
    ]
    assert sent(messages)["contents"][2]["parts"][0]["functionResponse"] == {
        "id": "a",
        "name": "look",
        "response": {"output": "here"},
        "parts": [{"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}],
    }


def test_what_an_answer_held_besides_goes_back() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1"}}
    google = {"thought_signature": "sig", "parts": [code]}
    message = {"role": "assistant", "content": "9", "extra_content": {"google": google}}
    assert sent([USER, message])["contents"][1]["parts"] == [code, {"text": "9", "thoughtSignature": "sig"}]


def test_pictures_sound_and_files_are_parts() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "image_url", "image_url": {"url": "https://h.example/a.jpg?x=1"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_data": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        {"type": "video", "fileData": {"fileUri": "https://youtu.be/x"}, "videoMetadata": {"fps": 2}},
    ]
    assert sent([{"role": "user", "content": parts}])["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
        {"fileData": {"fileUri": "https://h.example/a.jpg?x=1", "mimeType": "image/jpeg"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
        {"fileData": {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}},
        {"fileData": {"fileUri": "https://youtu.be/x"}, "videoMetadata": {"fps": 2}},
    ]


def test_a_format_is_a_mime_type_and_a_schema() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert sent(response_format=wanted)["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": SCHEMA,
    }
    assert sent(response_format={"type": "json_object"})["generationConfig"] == {"responseMimeType": "application/json"}
    assert "generationConfig" not in sent(response_format={"type": "text"})


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0, "includeThoughts": False}),
        ("gemini-2.5-pro", "low", {"thinkingBudget": 1024, "includeThoughts": True}),
        ("models/gemini-2.5-pro", "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        ("gemini-2.5-pro", "xhigh", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-3-pro-preview", "low", {"thinkingLevel": "low", "includeThoughts": True}),
        ("gemini-3-flash", "none", {"thinkingLevel": "minimal", "includeThoughts": False}),
        ("gemini-4-argon", "xhigh", {"thinkingLevel": "high", "includeThoughts": True}),
    ],
)
def test_reasoning_effort_is_a_budget_or_a_level(model: str, effort: str, config: Any) -> None:
    assert sent(model=model, reasoning_effort=effort)["generationConfig"] == {"thinkingConfig": config}


def user(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    ("body", "error", "param"),
    [
        ({"functions": [{"name": "f"}]}, Unsupported, "request.functions"),
        ({"audio": {"voice": "x"}}, Unsupported, "request.audio"),
        ({"logprobs": True}, Unsupported, "request.logprobs"),
        ({"n": 9}, Unsupported, "request.n"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, Unsupported, "request.messages[0].role"),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "a", "content": "x"}]},
            InvalidRequest,
            "request.messages[1].tool_call_id",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [call("a", "f", "{")]}]},
            InvalidRequest,
            "request.messages[1].tool_calls[0].function.arguments",
        ),
        (
            user({"type": "image_url", "image_url": {"url": "data:image/png"}}),
            InvalidRequest,
            "request.messages[0].content[0].image_url.url",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(body: Any, error: type[TaskError], param: str) -> None:
    with pytest.raises(error) as caught:
        sent(**{"messages": [USER], **body})
    assert caught.value.param == param
