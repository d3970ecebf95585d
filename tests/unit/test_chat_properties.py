"""Whatever a producer sends, a request is accepted or refused with an error of ours, and never changed."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deltabus.chat.request import prepare
from deltabus.errors import InvalidRequest, Unsupported
from deltabus.provider import Capabilities

TEXT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
TYPES = ["text", "image_url", "input_audio", "file", "refusal", "input_text", "input_image", "input_file", "new"]
FILE = dict.fromkeys(("file_id", "file_data", "filename", "file_url", "url", "detail", "data", "format"), TEXT | JSON)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(TYPES) | JSON},
    optional={
        **FILE,
        "text": TEXT | JSON,
        "refusal": TEXT | JSON,
        "image_url": TEXT | st.fixed_dictionaries({}, optional=FILE) | JSON,
        "file": st.fixed_dictionaries({}, optional=FILE) | JSON,
        "input_audio": st.fixed_dictionaries({}, optional=FILE) | JSON,
    },
)
FUNCTION = st.fixed_dictionaries({}, optional={"name": st.sampled_from("fg") | JSON, "arguments": TEXT | JSON})
CALL = st.fixed_dictionaries(
    {"id": TEXT | JSON},
    optional={
        "type": st.sampled_from(["function", "custom", "new"]) | JSON,
        "function": FUNCTION | JSON,
        "custom": FUNCTION,
    },
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["developer", "system", "user", "assistant", "tool", "function"]) | JSON},
    optional={
        "content": TEXT | st.lists(PART | JSON, max_size=3) | JSON,
        "name": TEXT | JSON,
        "tool_call_id": TEXT | JSON,
        "tool_calls": st.lists(CALL | JSON, max_size=3) | JSON,
        "function_call": FUNCTION | JSON,
        "refusal": TEXT | JSON,
        "audio": JSON,
        "extra": JSON,
    },
)
TOOL = st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom", "new"]) | JSON},
    optional={"function": FUNCTION | JSON, "custom": FUNCTION | JSON},
)
CHOICE = st.sampled_from(["none", "auto", "required"]) | st.fixed_dictionaries(
    {"type": st.sampled_from(["function", "custom", "allowed_tools"]) | JSON},
    optional={
        "function": FUNCTION | JSON,
        "custom": FUNCTION | JSON,
        "allowed_tools": st.fixed_dictionaries(
            {"mode": st.just("auto") | JSON, "tools": st.lists(TOOL | JSON, max_size=2) | JSON}
        )
        | JSON,
    },
)
REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=3) | st.lists(MESSAGE | JSON, max_size=3) | JSON},
    optional={
        **dict.fromkeys(
            ("model", "temperature", "n", "stop", "logprobs", "top_logprobs", "stream", "stream_options", "metadata"),
            JSON,
        ),
        "logit_bias": st.dictionaries(TEXT, st.integers(-200, 200) | JSON, max_size=2) | JSON,
        "tools": st.lists(TOOL | JSON, max_size=3) | JSON,
        "tool_choice": CHOICE | JSON,
        "functions": st.lists(FUNCTION | JSON, max_size=2) | JSON,
        "function_call": FUNCTION | JSON,
        "response_format": st.fixed_dictionaries({"type": st.just("json_schema"), "json_schema": JSON}) | JSON,
        "extra": JSON,
    },
)
CAPABILITIES = st.builds(
    Capabilities,
    streaming=st.booleans(),
    tools=st.booleans(),
    logprobs=st.booleans(),
    max_n=st.none() | st.integers(1, 9),
    message_names=st.booleans(),
    file_ids=st.booleans(),
    file_parts=st.booleans(),
    strict_ranges=st.booleans(),
    tool_call_id_pattern=st.sampled_from([None, "[A-Za-z0-9]{9}", "id-.*"]),
)


@given(REQUEST | JSON, CAPABILITIES)
@settings(max_examples=100)
def test_any_request_is_prepared_or_refused_and_never_changed(request: Any, capabilities: Capabilities):
    before = repr(request)
    prepared = refusal = None
    try:
        prepared = prepare(request, capabilities)
    except (InvalidRequest, Unsupported) as exc:
        refusal = exc
    assert repr(request) == before
    if refusal is not None:
        assert refusal.param is not None
        assert refusal.param.startswith("request")
        assert f"`{refusal.param}`" in refusal.message
    else:
        assert msgspec.json.encode(prepared)
        assert prepared["messages"]
        assert all(prepared[key] is value for key, value in request.items() if key != "messages")
        assert repr(prepare(prepared, capabilities)) == repr(prepared)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=12, unique=True))
def test_tool_call_ids_are_replaced_one_to_one(ids: list[str]):
    calls = [{"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}} for each in ids]
    answers = [{"role": "tool", "tool_call_id": each, "content": "x"} for each in reversed(ids)]
    body = {"messages": [{"role": "assistant", "content": "x", "tool_calls": calls}, *answers]}
    asked, *answered = prepare(body, Capabilities(tool_call_id_pattern="[A-Za-z0-9]{9}"))["messages"]
    new = [each["id"] for each in asked["tool_calls"]]
    assert len(set(new)) == len(ids)
    assert [each["tool_call_id"] for each in answered] == new[::-1]
