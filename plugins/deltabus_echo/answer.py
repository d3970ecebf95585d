"""The answer to a request, as chunks and as a whole: pure, so the same request gives the same bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from typing import Any, Final

import msgspec

from deltabus.provider import ChatRequest, Chunk
from deltabus_echo.script import Script, ToolCall

#: `created` of every answer, Unix seconds: a clock would make each run different.
CREATED: Final = 1_700_000_000

#: What is said where a script gives a number of words but no text.
PASSAGE: Final = (
    "The bus leaves on time, and every word that boards it gets off again in the order in which it "
    "got on: none is lost, none comes twice, and the last one says that it was the last. Whoever "
    "waits at a later stop sees the same words go by, and whoever slept may ask for them again."
)

#: Characters of a tool call's arguments in one chunk.
ARGUMENT_CHARACTERS: Final = 8

# A word takes the space before it along, as tokens do; what trails the text stays with its last word.
_WORD = re.compile(r"\s*\S+(?:\s+\Z)?")

_encode = msgspec.json.Encoder().encode


class Answer:
    """What the provider says to one request."""

    def __init__(self, request: ChatRequest, script: Script) -> None:
        body = request.body
        self._script = script
        self._body = body
        self._id = f"chatcmpl-{request.task or 'echo'}"
        self._model = body.get("model") or "echo"
        self._choices = range(body.get("n") or 1)
        self._prompt = [_text(message) for message in body.get("messages", ())]
        self._tool_calls = script.tool_calls or self._demanded_call()
        self._words, self._cut = self._content()

    def steps(self) -> Iterator[tuple[int, list[Chunk]]]:
        """The chunks of a stream, step by step: how many words each step says, and a chunk for each choice."""
        options = self._body.get("stream_options")
        with_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        base: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": self._model,
        }
        # The API: with include_usage, all chunks but the last say `"usage": null`.
        rest = {"usage": None} if with_usage else {}
        # The same bytes surround every delta, so a chunk costs one small encode.
        heads = [_encode(base)[:-1] + b',"choices":[{"index":%d,"delta":' % index for index in self._choices]
        tail = b',"logprobs":null,"finish_reason":null}]' + (b',"usage":null}' if with_usage else b"}")
        log_probabilities = bool(self._body.get("logprobs"))
        for words, delta in self._deltas():
            chunks = []
            for index, head in enumerate(heads):
                choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
                data = {**base, "choices": [choice], **rest}
                if log_probabilities and delta.get("content"):
                    choice["logprobs"] = self._log_probabilities([delta["content"]])
                    chunks.append(Chunk.of(data))
                else:
                    chunks.append(Chunk(head + _encode(delta) + tail, data))
            yield words, chunks
        reason = self._finish_reason()
        yield (
            0,
            [
                Chunk.of(
                    {
                        **base,
                        "choices": [{"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}],
                        **rest,
                    }
                )
                for index in self._choices
            ],
        )
        if with_usage:
            yield 0, [Chunk.of({**base, "choices": [], "usage": self._usage()})]

    def silent_steps(self) -> Iterator[tuple[int, list[Chunk]]]:
        """The same steps, without chunks: for an answer at the end."""
        for words, _ in self._deltas():
            yield words, []
        yield 0, []

    def completion(self) -> dict[str, Any]:
        """The same answer, whole."""
        text = "".join(self._words)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not self._tool_calls else None}
        message["refusal"] = None
        if self._script.reasoning:
            message["reasoning_content"] = self._script.reasoning
        choices = []
        for index in self._choices:
            choice: dict[str, Any] = {"index": index, "message": dict(message), "logprobs": None}
            if self._tool_calls:
                choice["message"]["tool_calls"] = [
                    {"id": self._call_id(call, at), "type": "function", "function": _function(call)}
                    for at, call in enumerate(self._tool_calls)
                ]
            if self._body.get("logprobs"):
                choice["logprobs"] = self._log_probabilities(self._words)
            choices.append({**choice, "finish_reason": self._finish_reason()})
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": CREATED,
            "model": self._model,
            "choices": choices,
            "usage": self._usage(),
        }

    def _deltas(self) -> Iterator[tuple[int, dict[str, Any]]]:
        size = self._script.chunk_words
        yield 0, {"role": "assistant", "content": "" if self._words or not self._tool_calls else None}
        for words, text in _grouped(_split(self._script.reasoning or ""), size):
            yield words, {"reasoning_content": text}
        for words, text in _grouped(self._words, size):
            yield words, {"content": text}
        for at, call in enumerate(self._tool_calls):
            function = _function(call)
            arguments = function["arguments"]
            start = {"id": self._call_id(call, at), "type": "function", "function": {**function, "arguments": ""}}
            yield 0, {"tool_calls": [{"index": at, **start}]}
            for begin in range(0, len(arguments), ARGUMENT_CHARACTERS):
                piece = arguments[begin : begin + ARGUMENT_CHARACTERS]
                yield 1, {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}

    def _content(self) -> tuple[list[str], bool]:
        """The words of the answer, and whether `max_tokens` cut it short."""
        script = self._script
        if script.words is not None:
            words = _repeated(script.text or PASSAGE, script.words)
        elif script.text is not None:
            words = _split(script.text)
        else:
            words = [] if self._tool_calls else _split(self._last_user_text())
        limit = self._body.get("max_completion_tokens") or self._body.get("max_tokens")
        if isinstance(limit, int) and len(words) > limit:
            return words[:limit], True
        return words, False

    def _last_user_text(self) -> str:
        messages = self._body.get("messages", ())
        for message, text in zip(reversed(messages), reversed(self._prompt), strict=True):
            if isinstance(message, Mapping) and message.get("role") == "user":
                return text
        return self._prompt[-1] if self._prompt else ""

    def _demanded_call(self) -> tuple[ToolCall, ...]:
        """The call that `tool_choice` leaves no way around, with the plainest arguments that fit its schema."""
        choice = self._body.get("tool_choice")
        functions = [tool["function"] for tool in self._body.get("tools") or () if "function" in tool]
        if isinstance(choice, Mapping):
            named = choice.get("function", {}).get("name")
            functions = [function for function in functions if function.get("name") == named]
        elif choice != "required":
            return ()
        if not functions:
            return ()
        arguments = _plainest(functions[0].get("parameters") or {}, self._last_user_text())
        return (
            ToolCall(name=functions[0].get("name", ""), arguments=arguments if isinstance(arguments, dict) else {}),
        )

    def _finish_reason(self) -> str:
        if self._script.finish_reason is not None:
            return self._script.finish_reason
        return "tool_calls" if self._tool_calls else "length" if self._cut else "stop"

    def _usage(self) -> dict[str, Any]:
        prompt = sum(len(text.split()) for text in self._prompt)
        completion = sum(words for words, _ in self._deltas()) * len(self._choices)
        counted = {"prompt_tokens": prompt, "completion_tokens": completion, **self._script.usage}
        counted.setdefault("total_tokens", counted["prompt_tokens"] + counted["completion_tokens"])
        return counted

    def _log_probabilities(self, words: list[str]) -> dict[str, Any]:
        """Log probabilities of somebody who is sure of what to say."""
        content = []
        for word in words:
            entry: dict[str, Any] = {"token": word, "logprob": 0.0, "bytes": list(word.encode())}
            content.append({**entry, "top_logprobs": [entry] if self._body.get("top_logprobs") else []})
        return {"content": content, "refusal": None}

    def _call_id(self, call: ToolCall, at: int) -> str:
        return call.id or f"call_{at}"


def _grouped(words: list[str], size: int) -> Iterator[tuple[int, str]]:
    if size == 1:
        yield from ((1, word) for word in words)
        return
    for begin in range(0, len(words), size):
        group = words[begin : begin + size]
        yield len(group), "".join(group)


def _split(text: str) -> list[str]:
    return _WORD.findall(text) or ([text] if text else [])


def _repeated(text: str, count: int) -> list[str]:
    spaced = [f" {word}" for word in text.split()]
    words = list(islice(cycle(spaced), count))
    return [words[0].lstrip(), *words[1:]] if words else []


def _function(call: ToolCall) -> dict[str, str]:
    arguments = call.arguments if isinstance(call.arguments, str) else _encode(call.arguments).decode()
    return {"name": call.name, "arguments": arguments}


def _text(message: Any) -> str:
    """The text of a message, which may be in parts; anything else counts as no text."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _plainest(schema: Any, text: str) -> Any:
    """The plainest value of a JSON Schema, as far as function parameters use it; strings are `text`."""
    if not isinstance(schema, Mapping):
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _plainest(properties.get(name), text) for name in schema.get("required", ())}
        case "string":
            return text
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "array":
            return [_plainest(schema.get("items"), text)] * schema.get("minItems", 0)
    return None
