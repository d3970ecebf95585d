"""OpenAI's words for Anthropic's, and back: a chat request as a Messages request, an answer as chunks. Pure.

https://platform.claude.com/docs/en/api/messages and …/build-with-claude/streaming

What OpenAI's API does not know is forwarded as it is: parameters (`thinking`, `top_k`, `cache_control`),
tools and content blocks of Anthropic's own types, and `cache_control` on a message, a part or a tool.
Blocks of an answer that are neither text nor a call of the producer's tools (thinking with its
signature, web searches) come as `extra_content.anthropic.blocks`, and go back with the message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from deltabus.http import DocumentDecoder, shapes
from deltabus.http.dataurl import DataURL
from deltabus.provider import Chunk, Unsupported

#: Tokens of an answer where the request has no limit: Anthropic requires one.
MAX_TOKENS: Final = 16384

#: Parameters without which an answer would not be what was asked for. Of what else Anthropic has nothing like,
#: such as `seed` and `frequency_penalty`, nothing is sent.
_REFUSED: Final[Mapping[str, str]] = {
    "functions": "use `tools`",
    "function_call": "use `tool_choice`",
    "audio": "it does not speak",
    "web_search_options": 'add the tool {"type": "web_search_20250305", "name": "web_search"}',
}

#: Models that know no adaptive thinking, and tokens that they get to think instead:
#: https://platform.claude.com/docs/en/build-with-claude/adaptive-thinking
_BUDGETED: Final = re.compile(r"claude-(3|[a-z]+-4(-[015]\b|-20|$))")
_BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}
_MIN_BUDGET: Final = 1024

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "tool": "user", "assistant": "assistant"}

_FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # The model wants to go on: send its message back.
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def request(body: Mapping[str, Any]) -> dict[str, Any]:
    """A chat request as a Messages request.

    Raises:
        InvalidRequest, Unsupported: it has no such form; `param` names the field.
    """
    shapes.refuse(body, _REFUSED)
    out = shapes.native(body, "model", "stream", "temperature", "top_p")
    out["max_tokens"] = body.get("max_completion_tokens") or body.get("max_tokens") or MAX_TOKENS
    system, out["messages"] = shapes.turns(body["messages"], _ROLES, "content", _said)
    if system:
        out["system"] = system
    if tools := [_tool(tool, f"request.tools[{place}]") for place, tool in enumerate(body.get("tools") or ())]:
        out["tools"] = tools
    choice = _tool_choice(body.get("tool_choice"))
    if tools and body.get("parallel_tool_calls") is False:
        choice = {"disable_parallel_tool_use": True, **(choice or {"type": "auto"})}
    if tools and choice:
        out["tool_choice"] = choice
    if stop := body.get("stop"):
        out["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if user := body.get("safety_identifier") or body.get("user") or (body.get("metadata") or {}).get("user_id"):
        out["metadata"] = {"user_id": user}
    if tier := body.get("service_tier"):
        out["service_tier"] = "standard_only" if tier == "default" else tier
    _format(out, body.get("response_format") or {})
    _reasoning(out, body.get("reasoning_effort"))
    return out


def _format(out: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    if wanted.get("type") == "json_object":
        where = "request.response_format"
        raise Unsupported("Anthropic's API knows no JSON without a schema: use json_schema", param=where)
    if wanted.get("type") == "json_schema":
        schema = {"type": "json_schema", "schema": wanted["json_schema"].get("schema") or {"type": "object"}}
        out["output_config"] = {"format": schema, **(out.get("output_config") or {})}


def _reasoning(out: dict[str, Any], effort: str | None) -> None:
    if effort in (None, "none") or "thinking" in out:
        return
    if not _BUDGETED.match(str(out.get("model"))):
        out["thinking"] = {"type": "adaptive"}
        out["output_config"] = {"effort": "low" if effort == "minimal" else effort, **(out.get("output_config") or {})}
    elif (budget := min(_BUDGETS.get(str(effort), _MIN_BUDGET), out["max_tokens"] - 1)) >= _MIN_BUDGET:
        out["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _said(message: dict[str, Any], where: str) -> list[dict[str, Any]]:
    blocks = _blocks(message.get("content"), where)
    if message["role"] == "tool":
        flag = {"is_error": True} if message.get("is_error") else {}
        blocks = [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": blocks, **flag}]
    elif message["role"] == "assistant":
        own = (message.get("extra_content") or {}).get("anthropic") or {}
        blocks = [*(own.get("blocks") or ()), *blocks]
        for place, call in enumerate(message.get("tool_calls") or ()):
            name, arguments = shapes.function(call, f"{where}.tool_calls[{place}]")
            blocks.append({"type": "tool_use", "id": call["id"], "name": name, "input": arguments})
    if blocks and message.get("cache_control"):
        blocks[-1] = {**blocks[-1], "cache_control": message["cache_control"]}
    return blocks


def _blocks(content: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []  # An empty block is refused.
    return [_block(part, f"{where}.content[{place}]") for place, part in enumerate(content or ())]


def _block(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type", "")
    rest = {key: value for key, value in part.items() if key not in ("type", kind)}
    match kind:
        case "image_url":
            return {"type": "image", "source": _source(part["image_url"]["url"], f"{where}.image_url.url"), **rest}
        case "file" if data := part["file"].get("file_data"):
            title = {"title": part["file"]["filename"]} if part["file"].get("filename") else {}
            return {"type": "document", "source": _source(data, f"{where}.file.file_data"), **title, **rest}
        case "refusal":
            return {"type": "text", "text": part["refusal"]}
        case "file" | "input_audio":
            raise Unsupported(
                f"Anthropic's API takes no such `{kind}`: send a data URL of a picture, PDF or text", param=where
            )
    return part


def _source(url: str, where: str) -> dict[str, Any]:
    data = DataURL.parse(url, param=where)
    if data is None:
        return {"type": "url", "url": url}
    if data.media_type.startswith("text/") or data.media_type == "application/json":
        text = data.decode(param=where).decode("utf-8", "replace")
        return {"type": "text", "media_type": "text/plain", "data": text}
    return {"type": "base64", "media_type": data.media_type, "data": data.base64}


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") == "custom" and "custom" in tool:
        raise Unsupported("Anthropic's API knows function tools only", param=where)
    if tool.get("type") != "function":
        return tool
    function = tool["function"]
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    rest = {key: value for key, value in {**tool, **function}.items() if key not in ("type", "function", "parameters")}
    return {**{key: value for key, value in rest.items() if value is not None}, "input_schema": schema}


def _tool_choice(choice: Any) -> dict[str, Any] | None:
    if choice is None or isinstance(choice, str):
        return {"type": "any" if choice == "required" else choice} if choice else None
    if choice.get("type") != "function":
        raise Unsupported("Anthropic's API can be told one function, or none", param="request.tool_choice")
    return {"type": "tool", "name": choice["function"]["name"]}


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    signature: str = ""
    citation: dict[str, Any] | None = None
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None


class Document(msgspec.Struct):
    """An event of a stream, or a message."""

    type: str
    id: str = ""
    model: str = ""
    content: list[dict[str, Any]] = []
    usage: dict[str, Any] | None = None
    stop_reason: str | None = None
    stop_details: dict[str, Any] | None = None
    message: Document | None = None
    index: int = 0
    content_block: dict[str, Any] = {}
    delta: _Delta = msgspec.field(default_factory=_Delta)


class AnswerDecoder(DocumentDecoder[Document]):
    """Decodes one answer."""

    def __init__(self, limit: int) -> None:
        super().__init__(Document, limit)
        self._head: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        #: Calls of tools by the index of their block: their own index, and whether arguments came.
        self._calls: dict[int, list[Any]] = {}
        #: Blocks of other types that have begun, and what came of their text or input.
        self._blocks: dict[int, tuple[dict[str, Any], list[str]]] = {}

    def event(self, document: Document) -> Iterator[Chunk]:
        match document.type:
            case "message_start" if document.message is not None:
                self._head = shapes.head(document.message.id, document.message.model)
                self._usage = document.message.usage or {}
                yield shapes.chunk(self._head, {"role": "assistant", "content": ""})
            case "content_block_start":
                yield from self._say(self._begin(document.index, document.content_block))
            case "content_block_delta":
                yield from self._say(self._go_on(document.index, document.delta))
            case "content_block_stop":
                yield from self._say(self._end(document.index))
            case "message_delta":
                self._usage |= {key: value for key, value in (document.usage or {}).items() if value is not None}
                if document.delta.stop_reason and not self.settled:
                    yield self._finish(document.delta.stop_reason, document.delta.stop_details or {})
            case "message_stop":
                self.done = True
            case "message":
                self._head, self._usage = shapes.head(document.id, document.model), document.usage or {}
                for index, block in enumerate(document.content):
                    yield from self._say(self._begin(index, block))
                    yield from self._say(self._end(index))
                yield self._finish(document.stop_reason or "", document.stop_details or {})

    def _begin(self, index: int, block: dict[str, Any]) -> dict[str, Any]:
        match block.get("type"):
            case "text":
                return {"content": block["text"]} if block.get("text") else {}
            case "tool_use":
                given = block.get("input") or ""
                self._calls[index] = [len(self._calls), bool(given)]
                call = shapes.tool_call(self._calls[index][0], given, id=block.get("id"), name=block.get("name", ""))
                return {"tool_calls": [call]}
        self._blocks[index] = (block, [])
        return {"reasoning_content": block["thinking"]} if block.get("thinking") else {}

    def _go_on(self, index: int, delta: _Delta) -> dict[str, Any]:
        block, parts = self._blocks.get(index, ({}, []))
        match delta.type:
            case "text_delta":
                return {"content": delta.text}
            case "thinking_delta":
                parts.append(delta.thinking)
                return {"reasoning_content": delta.thinking}
            case "signature_delta":
                block["signature"] = delta.signature
            case "citations_delta" if delta.citation:
                return {"extra_content": {"anthropic": {"citations": [delta.citation]}}}
            case "input_json_delta" if delta.partial_json and index in self._calls:
                self._calls[index][1] = True
                return {"tool_calls": [shapes.tool_call(self._calls[index][0], delta.partial_json)]}
            case "input_json_delta":
                parts.append(delta.partial_json)
        return {}

    def _end(self, index: int) -> dict[str, Any]:
        if index in self._calls and not self._calls[index][1]:
            return {"tool_calls": [shapes.tool_call(self._calls[index][0], "{}")]}
        if index not in self._blocks:
            return {}
        block, parts = self._blocks.pop(index)
        if "thinking" in block:
            block["thinking"] += "".join(parts)
        elif parts and (text := "".join(parts)):
            block["input"] = msgspec.json.decode(text)
        return {"extra_content": {"anthropic": {"blocks": [block]}}}

    def _say(self, delta: dict[str, Any]) -> Iterator[Chunk]:
        if delta:
            yield shapes.chunk(self._head, delta)

    def _finish(self, reason: str, details: Mapping[str, Any]) -> Chunk:
        self.settled = True
        delta = {"refusal": details["explanation"]} if details.get("explanation") else {}
        # The word of OpenRouter for what the API itself says.
        ended = {"finish_reason": _FINISH_REASONS.get(reason, "stop"), "native_finish_reason": reason}
        choice = {"index": 0, "delta": delta, **ended}
        return Chunk.of({**self._head, "choices": [choice], "usage": _usage(self._usage)})


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens; Anthropic counts those from and to its cache apart from the others."""
    cache = {key: usage.get(key) or 0 for key in ("cache_creation_input_tokens", "cache_read_input_tokens")}
    prompt, answer = (usage.get("input_tokens") or 0) + sum(cache.values()), usage.get("output_tokens") or 0
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0
    return {**shapes.usage(prompt, answer, cached=cache["cache_read_input_tokens"], reasoning=thought), **cache}


def models(listed: Any) -> list[dict[str, Any]] | None:
    """The models in a list of them as OpenAI's objects; None if that is not what it is."""
    return shapes.models(listed, "data", "anthropic", id=lambda model: str(model.get("id")), created=_created)


def _created(model: Mapping[str, Any]) -> int:
    try:
        return int(datetime.fromisoformat(model["created_at"]).timestamp())
    except (LookupError, TypeError, ValueError):
        return 0
