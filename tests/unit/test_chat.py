"""A request is checked before it costs a call; what is wrong is named with its path and its fix."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from deltabus.chat.request import prepare
from deltabus.errors import InvalidRequest, TaskError, Unsupported
from deltabus.provider import Capabilities

ANY = Capabilities()
LAX = Capabilities(strict_ranges=False)
MESSAGES = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def request(**fields: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": MESSAGES, **fields}


def refused(body: Any, capabilities: Capabilities = ANY) -> TaskError:
    with pytest.raises(TaskError) as caught:
        prepare(body, capabilities)
    assert type(caught.value) in (InvalidRequest, Unsupported)
    assert f"`{caught.value.param}`" in caught.value.message
    return caught.value


def test_a_good_request_passes_as_it_is_and_is_not_changed():
    body = request(
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        temperature=0.2,
        top_p=1,
        n=2,
        seed=-5,
        stop=["a", "b"],
        max_tokens=5,
        max_completion_tokens=5,
        frequency_penalty=-2,
        presence_penalty=2.0,
        logit_bias={"50256": -100},
        logprobs=True,
        top_logprobs=20,
        user="u",
        tools=[WEATHER, {"type": "custom", "custom": {"name": "sql", "format": {"type": "text"}}}],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": None}},
        reasoning_effort="low",
        verbosity="low",
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        prediction={"type": "content", "content": "x"},
        store=True,
        metadata={"ticket": "42"},
        service_tier="flex",
        web_search_options={},
        prompt_cache_key="k",
        safety_identifier="s",
        brand_new={"deep": [{"er": None}]},
    )
    before = copy.deepcopy(body)
    prepared = prepare(body, ANY)
    assert prepared == before
    assert body == before
    assert prepared is not body


def test_null_means_not_set_for_every_optional_parameter():
    names = (
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    )
    body = request(**dict.fromkeys(names))
    assert prepare(body, ANY) == body


def test_a_model_may_be_left_out_and_nothing_is_added():
    assert prepare({"messages": MESSAGES, "stream": True}, ANY) == {"messages": MESSAGES, "stream": True}


@pytest.mark.parametrize("model", ["", None, 4, ["gpt-4o"]])
def test_a_model_that_is_given_is_a_name(model: Any):
    assert refused(request(model=model)).param == "request.model"


@pytest.mark.parametrize("body", [None, [], "hi", 1])
def test_a_request_is_an_object(body: Any):
    assert refused(body).param == "request"


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty", "temperature", "top_p"])
@pytest.mark.parametrize("value", [True, "1", [1], {}, float("nan"), float("inf")])
def test_a_number_is_a_finite_number_also_where_ranges_are_relaxed(name: str, value: Any):
    for capabilities in (ANY, LAX):
        error = refused(request(**{name: value}), capabilities)
        assert error.param == f"request.{name}"
        assert "number" in error.message


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n", "seed", "top_logprobs"])
@pytest.mark.parametrize("value", [True, "1", 1.0, [1]])
def test_an_integer_is_a_whole_number_also_where_ranges_are_relaxed(name: str, value: Any):
    for capabilities in (ANY, LAX):
        error = refused(request(**{"logprobs": True, name: value}), capabilities)
        assert error.param == f"request.{name}"
        assert "an integer, not a" in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", -2.1),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -3),
        ("presence_penalty", 3),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", 10**400),
        ("top_p", -1),
        ("top_p", 1.1),
        ("max_tokens", 0),
        ("max_completion_tokens", -1),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("top_logprobs", -1),
        ("top_logprobs", 21),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("metadata", {str(each): "x" for each in range(17)}),
    ],
)
def test_ranges_are_the_apis_unless_the_provider_relaxes_them(name: str, value: Any):
    body = request(**{"logprobs": True, name: value})
    assert refused(body).param == f"request.{name}"
    assert prepare(body, LAX) == body


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("logit_bias", {"50256": 101}, "logit_bias.50256"),
        ("metadata", {"k" * 65: "x"}, "metadata.*"),
        ("metadata", {"ticket": "x" * 513}, "metadata.ticket"),
        ("metadata", {"a sentence, not a key": "x" * 513}, "metadata.*"),
        ("tools", [{"type": "function", "function": {"name": "get.weather"}}], "tools[0].function.name"),
        ("tools", [{"type": "function", "function": {"name": "f" * 65}}], "tools[0].function.name"),
    ],
)
def test_limits_inside_parameters_are_relaxed_too(name: str, value: Any, path: str):
    body = request(**{name: value})
    assert refused(body).param == f"request.{path}"
    assert prepare(body, LAX) == body


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("logprobs", 1, "logprobs"),
        ("stream", "true", "stream"),
        ("store", 0, "store"),
        ("parallel_tool_calls", "no", "parallel_tool_calls"),
        ("logit_bias", [], "logit_bias"),
        ("logit_bias", {"1": "2"}, "logit_bias.1"),
        ("logit_bias", {"1": True}, "logit_bias.1"),
        ("metadata", "x", "metadata"),
        ("metadata", {"ticket": 42}, "metadata.ticket"),
        ("stop", 1, "stop"),
        ("stop", "", "stop"),
        ("stop", ["a", ""], "stop[1]"),
        ("stop", ["a", None], "stop[1]"),
        ("user", 1, "user"),
        ("modalities", "text", "modalities"),
        ("modalities", [1], "modalities[0]"),
        ("reasoning_effort", {}, "reasoning_effort"),
        ("audio", "wav", "audio"),
        ("response_format", "json_object", "response_format"),
        ("response_format", {}, "response_format.type"),
        ("response_format", {"type": "json_objekt"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
        ("response_format", {"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name"),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "response_format.json_schema.name",
        ),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x"}},
            "response_format.json_schema.schema",
        ),
        ("tools", {}, "tools"),
        ("tools", ["f"], "tools[0]"),
        ("tools", [{"function": {"name": "f"}}], "tools[0].type"),
        ("tools", [{"type": "functoin"}], "tools[0].type"),
        ("tools", [{"type": "function"}], "tools[0].function"),
        ("tools", [WEATHER, {"type": "function", "function": {}}], "tools[1].function.name"),
        ("tools", [{"type": "function", "function": {"name": ""}}], "tools[0].function.name"),
        (
            "tools",
            [{"type": "function", "function": {"name": "f", "parameters": "{}"}}],
            "tools[0].function.parameters",
        ),
        ("tools", [{"type": "custom", "custom": {}}], "tools[0].custom.name"),
        ("functions", [], "functions"),
        ("functions", [{"name": 1}], "functions[0].name"),
        ("function_call", "required", "function_call"),
        ("function_call", 1, "function_call"),
        ("stream_options", {"include_usage": True}, "stream_options"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(name: str, value: Any, path: str):
    assert refused(request(**{name: value})).param == f"request.{path}"


def test_stream_options_are_checked():
    body = request(stream=True, stream_options={"include_usage": "yes"})
    assert refused(body).param == "request.stream_options.include_usage"


def test_new_types_of_tools_and_formats_are_forwarded():
    body = request(
        tools=[{"type": "builtin_function", "function": {"name": "$web_search"}}, {"type": "web_search", "x": 1}],
        tool_choice={"type": "web_search"},
        response_format={"type": "grammar", "grammar": "root ::= x"},
    )
    assert prepare(body, ANY) == body


def test_a_misspelt_word_gets_the_right_one_suggested():
    assert "did you mean `json_object`?" in refused(request(response_format={"type": "JSON_Objects"})).message
    assert "did you mean `required`?" in refused(request(tools=[WEATHER], tool_choice="require")).message


# Choosing tools.


@pytest.mark.parametrize(
    "choice",
    [
        "none",
        "auto",
        "required",
        {"type": "function", "function": {"name": "get_weather"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "auto",
                "tools": [{"type": "function", "function": {"name": "get_weather"}}, {"type": "mcp", "label": "x"}],
            },
        },
    ],
)
def test_a_tool_can_be_chosen_in_every_documented_way(choice: Any):
    body = request(tools=[WEATHER], tool_choice=choice)
    assert prepare(body, ANY) == body


@pytest.mark.parametrize(
    ("choice", "path"),
    [
        ("any", ""),
        (1, ""),
        ({}, ".type"),
        ({"type": "function"}, ".function"),
        ({"type": "function", "function": {}}, ".function.name"),
        ({"type": "function", "function": {"name": "get_wether"}}, ".function.name"),
        ({"type": "custom", "custom": {"name": "get_weather"}}, ".custom.name"),
        ({"type": "allowed_tools"}, ".allowed_tools"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "any", "tools": []}}, ".allowed_tools.mode"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}, ".allowed_tools.tools"),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "x"}}]},
            },
            ".allowed_tools.tools[0].function.name",
        ),
    ],
)
def test_a_choice_of_tools_names_what_is_there(choice: Any, path: str):
    assert refused(request(tools=[WEATHER], tool_choice=choice)).param == f"request.tool_choice{path}"


def test_a_choice_needs_tools_to_choose_from():
    assert refused(request(tool_choice="required")).param == "request.tool_choice"
    named = {"type": "function", "function": {"name": "f"}}
    assert refused(request(tool_choice=named)).param == "request.tool_choice.function.name"
    assert prepare(request(tool_choice="auto"), ANY)["tool_choice"] == "auto"


def test_a_tool_that_is_not_there_gets_the_nearest_one_suggested():
    named = {"type": "function", "function": {"name": "get_wether"}}
    assert "did you mean `get_weather`?" in refused(request(tools=[WEATHER], tool_choice=named)).message


def test_deprecated_functions_are_forwarded_and_checked():
    body = request(functions=[{"name": "f", "parameters": {}}], function_call={"name": "f"})
    assert prepare(body, ANY) == body
    assert refused({**body, "function_call": {"name": "g"}}).param == "request.function_call.name"
    assert refused({**body, "function_call": {}}).param == "request.function_call.name"


# What depends on others, or on the provider.


@pytest.mark.parametrize("logprobs", [False, None])
def test_top_logprobs_need_logprobs(logprobs: bool | None):
    error = refused(request(logprobs=logprobs, top_logprobs=2))
    assert error.param == "request.top_logprobs"
    assert "`logprobs`: true" in error.message


@pytest.mark.parametrize("n", [0, -1])
def test_at_least_one_choice_is_asked_for_whatever_the_provider_relaxes(n: int):
    for capabilities in (ANY, LAX):
        assert isinstance(refused(request(n=n), capabilities), InvalidRequest)


@pytest.mark.parametrize(
    ("fields", "capabilities", "path"),
    [
        ({"stream": True}, Capabilities(streaming=False), "stream"),
        ({"tools": [WEATHER]}, Capabilities(tools=False), "tools"),
        ({"functions": [{"name": "f"}]}, Capabilities(tools=False), "functions"),
        ({"logprobs": True}, Capabilities(logprobs=False), "logprobs"),
        ({"n": 2}, Capabilities(max_n=1), "n"),
        ({"n": 129}, ANY, "n"),
        (
            {"messages": [{"role": "user", "content": "x", "name": "Ann"}]},
            Capabilities(message_names=False),
            "messages[0].name",
        ),
    ],
)
def test_what_the_provider_cannot_do_is_unsupported(fields: dict[str, Any], capabilities: Capabilities, path: str):
    error = refused(request(**fields), capabilities)
    assert isinstance(error, Unsupported)
    assert error.param == f"request.{path}"


def test_what_is_not_used_needs_no_support():
    none = Capabilities(streaming=False, tools=False, logprobs=False, max_n=1, message_names=False)
    body = request(stream=False, tools=[], logprobs=False, n=1)
    assert prepare(body, none) == body


def test_a_provider_without_a_limit_on_choices_decides_itself():
    assert prepare(request(n=1000), Capabilities(max_n=None))["n"] == 1000


# What nobody sends by accident.


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [nested(100_000), "\ud800", {"\udfff": 1}, object(), {(1, 2): 3}],
    ids=["deep", "half", "key", "type", "pair"],
)
def test_what_cannot_be_written_as_json_is_refused(value: Any):
    assert refused(request(extra=value)).param == "request"


def test_errors_do_not_quote_content():
    secret = "Tell me about my illness"
    bodies = [
        {"messages": secret},
        {"messages": [secret]},
        {"messages": [{"role": secret, "content": "x"}]},
        {"messages": [{"role": "user", "content": {"text": secret}}]},
        {"messages": [{"role": "user", "content": [{"type": secret, "text": 1}, {"type": "text", "text": None}]}]},
        request(stop=[secret, ""]),
        request(metadata={secret: 1}),
        request(logit_bias={secret: secret}),
        request(tool_choice=secret),
        request(tools=[{"type": "function", "function": {"name": secret}}]),
        request(response_format={"type": "json_schema", "json_schema": {"name": secret, "schema": {}}}),
        request(user=[secret]),
    ]
    for body in bodies:
        error = refused(body)
        assert "illness" not in error.message
        assert "illness" not in (error.param or "")
