"""Whether what a provider yields for one request is an answer: the chunks of a stream, or a completion.

These are the rules for a plugin's output; what a server may send is the plugin's business to repair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from deltabus.chat.choice import DROPPED
from deltabus.provider import Chunk, Completion

#: Delta fields that hold a part of the answer.
_SUBSTANCE = ("content", "refusal", "tool_calls", "function_call", "reasoning_content", "reasoning", "audio")


def stream_violations(items: Sequence[object]) -> list[str]:
    """What is wrong with a complete stream, as sentences; none where all is well."""
    found: list[str] = []
    finished: dict[int, bool] = {}
    substance = False
    before: Chunk | None = None
    for place, item in enumerate(items):
        if not isinstance(item, Chunk):
            found.append(f"item {place} is not a Chunk but a {type(item).__name__}")
            continue
        wrong = _chunk_problem(item) or _text_problem(item, before)
        before = item
        if wrong:
            found.append(f"chunk {place} {wrong}")
            continue
        for choice in item.data["choices"]:
            index = choice["index"]
            delta = choice.get("delta") or {}
            says = any(delta.get(name) for name in _SUBSTANCE)
            substance = substance or says
            if finished.get(index) and (says or choice.get("finish_reason")):
                what = "a second finish_reason" if choice.get("finish_reason") else "more of the answer"
                found.append(f"chunk {place} has {what} for choice {index}, which was finished")
            finished[index] = finished.get(index, False) or bool(choice.get("finish_reason"))
    found += [f"choice {index} has no finish_reason" for index, ended in sorted(finished.items()) if not ended]
    if not found and not substance:
        found.append("the chunks accumulate to nothing")
    return found


def completion_violations(items: Sequence[object]) -> list[str]:
    """What is wrong with an answer that was not streamed, as sentences; none where all is well."""
    if len(items) != 1 or not isinstance(items[0], Completion):
        kinds = ", ".join(type(item).__name__ for item in items) or "nothing"
        return [f"an answer that is not streamed is exactly one Completion, not {kinds}"]
    data: Any = items[0].data
    if not isinstance(data, dict) or not isinstance(data.get("choices"), list) or not data["choices"]:
        return ["the completion is not an object with a list of `choices`"]
    found = []
    if data.get("error"):
        found.append("the completion holds an `error`, which is to be raised")
    for place, choice in enumerate(data["choices"]):
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            found.append(f"choices[{place}] is not an object with a `message`")
        elif not isinstance(choice.get("finish_reason"), str) or not choice["finish_reason"]:
            found.append(f"choices[{place}] has no finish_reason")
        elif not any(choice["message"].get(name) for name in _SUBSTANCE):
            found.append(f"choices[{place}].message says nothing")
    try:
        msgspec.json.encode(data)
    except (TypeError, ValueError) as exc:
        found.append(f"the completion is not JSON: {exc}")
    return found


def stream_text(items: Sequence[object]) -> str:
    """The content of choice 0 that a good stream carries."""
    return "".join(
        (choice.get("delta") or {}).get("content") or ""
        for item in items
        if isinstance(item, Chunk)
        for choice in item.data["choices"]
        if choice["index"] == 0
    )


def _chunk_problem(chunk: Chunk) -> str | None:
    if not isinstance(chunk.raw, bytes):
        return f"has a `raw` that is not bytes but {type(chunk.raw).__name__}"
    try:
        parsed = msgspec.json.decode(chunk.raw)
    except msgspec.DecodeError as exc:
        return f"has a `raw` that is not one JSON document: {exc}"
    if b"\n" in chunk.raw or b"\r" in chunk.raw:
        return "has a line break in its `raw`"
    if parsed != chunk.data:
        return "has a `raw` that does not parse to its `data`"
    if not isinstance(parsed, dict) or not isinstance(parsed.get("choices"), list):
        return "is not an object with a list of `choices`"
    if parsed.get("error"):
        return "holds an `error`, which is to be raised"
    for choice in parsed["choices"]:
        if not isinstance(choice, dict) or not isinstance(choice.get("index"), int) or choice["index"] < 0:
            return "has a choice that is not an object with an `index`"
        delta = choice.get("delta")
        if delta is not None and not isinstance(delta, dict):
            return "has a `delta` that is not an object"
        if not isinstance((delta or {}).get("content"), str | None):
            return "has a `content` that is not a string"
    return None


def _text_problem(chunk: Chunk, before: Chunk | None) -> str | None:
    """What is wrong with a chunk that says it is the one before it but for its text."""
    if chunk.text is None:
        return None
    field, text = chunk.text
    choices = chunk.data["choices"]
    if len(choices) != 1 or (choices[0].get("delta") or {}).get(field) != text.decode(errors="replace"):
        return "has a `text` that is not the text of its delta"
    changed = {**choices[0], "delta": {**choices[0]["delta"], field: _text(before, field)}}
    if before is None or {**chunk.data, "choices": [changed]} != {**before.data, **_padding(chunk)}:
        return "has a `text`, and differs from the chunk before it in more than that"
    return None


def _text(chunk: Chunk | None, field: str) -> Any:
    choices = chunk.data["choices"] if chunk is not None else ()
    return (choices[0].get("delta") or {}).get(field) if choices else None


def _padding(chunk: Chunk) -> dict[str, Any]:
    return {name: chunk.data[name] for name in DROPPED & chunk.data.keys()}
