"""Brings a chunk or a completion of any dialect to the documented form. Pure: changes the decoded object in place.

What is missing and inferable is filled in, what has another form is translated, what is unknown stays.
After it, every choice of a chunk has an integer `index` and a `delta`, every tool call an `index` of its
own, `content` is text, and `finish_reason` is one of OpenAI's words (the server's own word is kept as
`native_finish_reason`, the name that OpenRouter uses for it).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Words of other APIs for OpenAI's `finish_reason`.
FINISH_REASONS: Mapping[str, str] = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "complete": "stop",
    "completed": "stop",
    "end": "stop",
    "STOP": "stop",
    "model_length": "length",
    "max_length": "length",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "MAX_TOKENS": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "safety": "content_filter",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "refusal": "content_filter",
}


class ToolCalls:
    """Gives the tool calls of one choice indexes of their own.

    Servers leave `index` out (Gemini, Ollama), or give every call the index 0 and tell them apart by
    `id` (Ollama, vLLM, SGLang, LMDeploy). So a fragment belongs to:

    - the call of its `id`, where that is known (unless it is named and stands at an index of its own: some
      servers use the function's name as `id`);
    - else the call at its `index`, or without `index` the last one; but a named fragment with a new `id`,
      or without any `index`, begins a new call;
    - a new `id` on an unnamed fragment of a call that has one is dropped: servers that make up an `id` for
      each fragment (Poolside, OCI behind LiteLLM) mean the same call.

    An index that the server gave stays, unless another call has it.
    """

    __slots__ = ("_at", "_by_id", "_ids", "_last")

    def __init__(self) -> None:
        #: Index on the wire -> the call last seen there.
        self._at: dict[int, int] = {}
        self._by_id: dict[str, int] = {}
        #: Calls by the index given here, with their ids ("" where there is none yet).
        self._ids: dict[int, str] = {}
        self._last: int | None = None

    def place(self, fragment: dict[str, Any]) -> bool:
        """Give the fragment its index. Returns whether it was changed."""
        given = fragment.get("index")
        index = given if type(given) is int and given >= 0 else None
        id_ = fragment.get("id")
        if not isinstance(id_, str):
            id_ = ""
        function = fragment.get("function")
        named = isinstance(function, dict) and bool(function.get("name"))

        call = self._by_id.get(id_)
        if call is None or (named and index is not None and index not in self._at):
            call = self._at.get(index) if index is not None else (None if named else self._last)
            if call is None or (named and id_ and self._ids[call]):
                call = index if index is not None and index not in self._ids else max(self._ids, default=-1) + 1
                self._ids[call] = ""
        changed = given != call or index is None
        fragment["index"] = call
        if id_ and not self._ids[call]:
            self._ids[call] = id_
            self._by_id.setdefault(id_, call)
        elif id_ and self._ids[call] != id_:
            del fragment["id"]
            changed = True
        if index is not None:
            self._at[index] = call
        self._last = call
        return changed


def chunk(data: dict[str, Any], calls: dict[int, ToolCalls]) -> bool:
    """Repair a chunk. Returns whether anything was changed.

    Args:
        data: the chunk; its choices are objects.
        calls: the tool calls of each choice so far; kept for the next chunk.
    """
    changed = _usage(data)
    if not isinstance(data.get("choices"), list):
        data["choices"] = []
        changed = True
    for position, choice in enumerate(data["choices"]):
        if type(choice.get("index")) is not int:
            choice["index"] = position
            changed = True
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            # A whole message where a piece was due, or a note about content that came before (Azure's filter).
            message = choice.pop("message", None)
            delta = choice["delta"] = message if isinstance(message, dict) else {}
            if data.get("object") == "chat.completion":
                data["object"] = "chat.completion.chunk"
            changed = True
        changed |= _content(delta)
        changed |= _finish(choice)
        fragments = delta.get("tool_calls")
        if isinstance(fragments, list) and fragments:
            placed = calls.setdefault(choice["index"], ToolCalls())
            for fragment in fragments:
                if isinstance(fragment, dict):
                    changed |= placed.place(fragment)
    return changed


def completion(data: dict[str, Any]) -> None:
    """Repair a completion, whose choices are objects with a `message`."""
    _usage(data)
    for position, choice in enumerate(data["choices"]):
        if type(choice.get("index")) is not int:
            choice["index"] = position
        _content(choice["message"])
        _finish(choice)


def _usage(data: dict[str, Any]) -> bool:
    """Groq streams usage as `x_groq.usage`."""
    extra = data.get("x_groq")
    if isinstance(extra, dict) and extra.get("usage") and not data.get("usage"):
        data["usage"] = extra["usage"]
        return True
    return False


def _finish(choice: dict[str, Any]) -> bool:
    reason = choice.get("finish_reason")
    if reason == "":
        choice["finish_reason"] = None
        return True
    if isinstance(reason, str) and reason in FINISH_REASONS:
        choice.setdefault("native_finish_reason", reason)
        choice["finish_reason"] = FINISH_REASONS[reason]
        return True
    return False


def _content(delta: dict[str, Any]) -> bool:
    """Mistral's reasoning models send content as a list of parts: text, and thinking (a list of parts again)."""
    content = delta.get("content")
    if content is None or isinstance(content, str):
        return False
    if not isinstance(content, list):
        delta["content"] = str(content)
        return True
    text: list[str] = []
    thinking: list[str] = []
    kept: list[Any] = []
    for part in content:
        if isinstance(part, str):
            text.append(part)
        elif (
            isinstance(part, dict) and part.get("type") in ("text", "output_text") and isinstance(part.get("text"), str)
        ):
            text.append(part["text"])
        elif isinstance(part, dict) and part.get("type") == "thinking":
            thinking.append(_thought(part.get("thinking")))
        else:
            kept.append(part)
    delta["content"] = "".join(text) if text or not thinking else None
    if thinking:
        before = delta.get("reasoning_content")
        delta["reasoning_content"] = (before if isinstance(before, str) else "") + "".join(thinking)
    if kept:
        delta["content_parts"] = kept
    return True


def _thought(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_thought(part.get("text") if isinstance(part, dict) else part) for part in value)
    return ""
