"""However a stream is cut into chunks, and whatever it holds, it adds up to the same completion."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deltabus.chat.accumulator import Accumulator, text

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
WORD = st.text("abcdefghij_", min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | WORD, inner, max_size=3),
    max_leaves=8,
)


def identical(one: Any, other: Any) -> bool:
    """Equal as JSON, where true is not 1."""
    return msgspec.json.encode(one, order="deterministic") == msgspec.json.encode(other, order="deterministic")


def through_json(chunks: list[dict[str, Any]]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(chunks))


# An answer as it should come out, and a stream that says it.


@st.composite
def tool_calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    ids = draw(st.lists(WORD, max_size=3, unique=True))
    return [{"id": each, "type": "function", "function": {"name": draw(WORD), "arguments": draw(TEXT)}} for each in ids]


@st.composite
def answers(draw: st.DrawFn) -> dict[str, Any]:
    completion: dict[str, Any] = {
        "object": "chat.completion",
        "id": draw(WORD),
        "created": draw(st.integers(1, 2**40)),
        "model": draw(WORD),
        "choices": [],
    }
    for index in range(draw(st.integers(1, 3))):
        message: dict[str, Any] = {"role": "assistant", "content": draw(st.none() | TEXT.filter(bool)), "refusal": None}
        for channel in draw(st.sets(st.sampled_from(("refusal", "reasoning", "reasoning_content", "tool_plan")))):
            message[channel] = draw(TEXT.filter(bool))
        if "reasoning" in message and "reasoning_content" in message:
            message["reasoning"] = message["reasoning_content"]
        calls = draw(tool_calls())
        if calls:
            message["tool_calls"] = calls
        if draw(st.booleans()):
            message["function_call"] = {"name": draw(WORD), "arguments": draw(TEXT)}
        if draw(st.booleans()):
            message["audio"] = {"id": draw(WORD), "data": draw(WORD), "transcript": draw(TEXT), "expires_at": 9}
        if draw(st.booleans()):
            message["annotations"] = draw(st.lists(st.dictionaries(WORD, TEXT, max_size=2), min_size=1, max_size=3))
        logprobs = None
        if draw(st.booleans()):
            tokens = st.lists(st.fixed_dictionaries({"token": TEXT, "logprob": st.just(-0.5)}), min_size=1, max_size=3)
            logprobs = {"content": draw(tokens), "refusal": draw(st.none() | tokens)}
        reason = draw(st.sampled_from(("stop", "length", "tool_calls", "content_filter")))
        completion["choices"].append(
            {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
        )
    if draw(st.booleans()):
        completion["usage"] = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return completion


def pieces(draw: st.DrawFn, whole: Any) -> list[Any]:
    """A string or a list in slices."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    return [whole[start:end] for start, end in pairwise([0, *cuts, len(whole)])]


def threads(draw: st.DrawFn, choice: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """What is said about a choice, in sequences whose inner order matters, as fields of chunks' choices."""
    message = choice["message"]
    found: list[list[dict[str, Any]]] = [[{"delta": {"role": "assistant"}}] * draw(st.integers(0, 3))]
    both = "reasoning" in message and "reasoning_content" in message
    for channel in ("content", "refusal", "reasoning", "reasoning_content", "tool_plan"):
        if message.get(channel) is not None and not (both and channel == "reasoning"):
            names = ("reasoning", "reasoning_content") if both and channel == "reasoning_content" else (channel,)
            found.append([{"delta": dict.fromkeys(names, piece)} for piece in pieces(draw, message[channel])])
    for index, call in enumerate(message.get("tool_calls", ())):
        name = {"index": index, **call, "function": {"name": call["function"]["name"], "arguments": ""}}
        repeated = draw(st.sampled_from(({}, {"id": call["id"]}, {"id": call["id"], "type": "function"})))
        found.append([{"delta": {"tool_calls": [name]}}])
        found[-1] += [
            {"delta": {"tool_calls": [{"index": index, **repeated, "function": {"arguments": piece}}]}}
            for piece in pieces(draw, call["function"]["arguments"])
        ]
    if "function_call" in message:
        found.append([{"delta": {"function_call": {"name": message["function_call"]["name"], "arguments": ""}}}])
        arguments = pieces(draw, message["function_call"]["arguments"])
        found[-1] += [{"delta": {"function_call": {"arguments": piece}}} for piece in arguments]
    if "audio" in message:
        audio = message["audio"]
        found.append([{"delta": {"audio": {"id": audio["id"], "transcript": ""}}}])
        found.append([{"delta": {"audio": {"transcript": piece}}} for piece in pieces(draw, audio["transcript"])])
        found.append([{"delta": {"audio": {"data": piece}}} for piece in pieces(draw, audio["data"])])
        found.append([{"delta": {"audio": {"expires_at": 9}}}])
    if "annotations" in message:
        found.append([{"delta": {"annotations": piece}} for piece in pieces(draw, message["annotations"])])
    for kind, tokens in (choice["logprobs"] or {}).items():
        if tokens is not None:
            found.append([{"logprobs": {kind: piece, "other": None}} for piece in pieces(draw, tokens)])
    found.append([{"finish_reason": choice["finish_reason"], "delta": {}}])
    return [[{"index": choice["index"], **each} for each in thread] for thread in found]


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A completion, and chunks that add up to it: split, repeated, interleaved and grouped in any way."""
    completion = draw(answers())
    waiting = [thread for choice in completion["choices"] for thread in threads(draw, choice) if thread]
    identity = {key: completion[key] for key in ("id", "created", "model")}
    chunks: list[dict[str, Any]] = []
    while waiting:
        if not chunks or draw(st.booleans()):
            chunks.append({**identity, "object": "chat.completion.chunk", "choices": [], "usage": None})
        place = draw(st.integers(0, len(waiting) - 1))
        said = waiting[place].pop(0)
        waiting = [thread for thread in waiting if thread]
        choices = chunks[-1]["choices"]
        if choices and choices[-1]["index"] == said["index"] and draw(st.booleans()) and joined(choices[-1], said):
            continue
        choices.append(copy.deepcopy(said))
    if "usage" in completion:
        chunks.append({**identity, "choices": [], "usage": completion["usage"]})
    return completion, chunks


def joined(choice: dict[str, Any], said: dict[str, Any]) -> bool:
    """Say it in the same choice of the same chunk, if there is room."""
    ours, theirs = choice.setdefault("delta", {}), said.get("delta", {})
    if "tool_calls" in ours and "tool_calls" in theirs:
        ours["tool_calls"] += copy.deepcopy(theirs["tool_calls"])
        return True
    if (choice.keys() & said.keys()) - {"index", "delta"} or ours.keys() & theirs.keys():
        return False
    choice |= {key: value for key, value in said.items() if key != "delta"}
    ours |= copy.deepcopy(theirs)
    return True


@given(streams())
@settings(max_examples=50)
def test_a_stream_adds_up_to_its_answer_however_it_is_cut(stream: tuple[dict[str, Any], list[dict[str, Any]]]):
    completion, chunks = stream
    assert Accumulator(chunks).completion() == completion


@given(streams())
@settings(max_examples=50)
def test_the_text_that_streams_is_the_content_of_choice_0(stream: tuple[dict[str, Any], list[dict[str, Any]]]):
    completion, chunks = stream
    assert "".join(map(text, chunks)) == (completion["choices"][0]["message"]["content"] or "")


@given(streams(), st.data())
@settings(max_examples=50)
def test_a_snapshot_stands_for_all_that_came_before_it(stream: tuple[dict, list[dict]], data: st.DataObject):
    completion, chunks = stream
    cut = data.draw(st.integers(0, len(chunks)))
    before = Accumulator(chunks[:cut])
    snapshot = through_json(before.snapshot())
    assert len(snapshot) <= 2
    after = Accumulator(snapshot)
    assert after.completion() == before.completion()
    for chunk in chunks[cut:]:
        after.add(chunk)
    assert after.completion() == completion


# Streams that no documentation describes.

FIELDS = {
    "role": st.sampled_from(["assistant", "", None, 1]),
    "content": TEXT
    | JSON
    | st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["text", "thinking", "x"]),
                "text": TEXT,
                "thinking": TEXT | st.lists(st.fixed_dictionaries({"text": TEXT}), max_size=2),
            }
        ),
        max_size=2,
    ),
    "reasoning": st.sampled_from(["a", "b", "", None]) | JSON,
    "reasoning_content": st.sampled_from(["a", "b", "", None]) | JSON,
    "refusal": TEXT | JSON,
    "function_call": st.dictionaries(st.sampled_from(["name", "arguments", "x"]), TEXT | JSON, max_size=3) | JSON,
    "tool_calls": st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "index": st.integers(-1, 2) | st.none() | JSON,
                "id": st.sampled_from(["p", "q", "", None]) | JSON,
                "type": st.sampled_from(["function", "custom", None, 2]),
                "function": st.dictionaries(st.sampled_from(["name", "arguments", "x"]), WORD | JSON, max_size=3)
                | JSON,
                "custom": st.dictionaries(st.sampled_from(["name", "input"]), WORD | JSON, max_size=2) | JSON,
                "extra_content": JSON,
            },
        )
        | JSON,
        max_size=3,
    )
    | JSON,
    "reasoning_details": st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["reasoning.text", "reasoning.summary", "reasoning.encrypted"])},
            optional={
                "index": st.sampled_from([0, 1, None]),
                "id": st.sampled_from(["p", "q", None]),
                "text": TEXT | JSON,
                "summary": TEXT,
                "signature": WORD | st.none(),
                "reasoning_details": JSON,
            },
        )
        | JSON,
        max_size=3,
    )
    | JSON,
    "x": TEXT | JSON,
    "signature": TEXT | JSON,
    "audio": st.dictionaries(st.sampled_from(["id", "data", "transcript"]), TEXT | JSON, max_size=3) | JSON,
    "obfuscation": TEXT,
}
DELTA = st.fixed_dictionaries({}, optional=FIELDS) | JSON
CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(-1, 1) | JSON,
        "delta": DELTA,
        "message": DELTA,
        "finish_reason": st.sampled_from([None, "", "stop", "eos", "length", "tool_calls", "error", "NEW", 1]),
        "native_finish_reason": st.sampled_from([None, "STOP"]),
        "logprobs": st.dictionaries(
            st.sampled_from(["content", "refusal", "x"]), st.lists(JSON, max_size=2) | JSON, max_size=2
        )
        | JSON,
        "token_ids": st.lists(st.integers(0, 9), max_size=2) | JSON,
        "content_filter_results": JSON,
        "usage": JSON,
    },
)
CHUNK = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["i", "j", "", None, 1]),
        "object": JSON,
        "created": st.sampled_from([0, 1, 2, None, ""]),
        "model": WORD | JSON,
        "choices": st.lists(CHOICE | JSON, max_size=3) | JSON,
        "usage": st.dictionaries(WORD, st.integers(), max_size=2) | JSON,
        "x_groq": st.fixed_dictionaries({"usage": JSON}) | JSON,
        "citations": JSON,
        "obfuscation": JSON,
    },
)  # fmt: skip
STREAM = st.lists(CHUNK | st.dictionaries(TEXT, JSON, max_size=3), max_size=6)


@given(STREAM, STREAM)
@settings(max_examples=100)
def test_whatever_comes_is_no_error_and_snapshots_stand_for_it(before: list[dict], after: list[dict]):
    untouched = through_json([*before, *after])
    one = Accumulator(before)
    other = Accumulator(through_json(one.snapshot()))
    assert identical(other.completion(), one.completion())
    for chunk in after:
        assert isinstance(text(chunk), str)
        one.add(chunk)
        other.add(chunk)
    assert identical(other.completion(), one.completion())
    assert identical(one.completion(), one.completion())
    assert identical([*before, *after], untouched)
