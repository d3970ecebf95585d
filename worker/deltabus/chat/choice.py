"""One choice of a streamed answer, put together from its deltas. The rules are `accumulator`'s."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deltabus.chat import increments
from deltabus.chat.toolcalls import Function, ToolCalls

#: Fields, of a chunk or of a delta, that are not part of the answer: the chunk's type, and padding.
DROPPED: Final = frozenset({"object", "obfuscation"})

#: Names under which servers send the text of their reasoning: DeepSeek, then vLLM and OpenRouter.
_REASONING: Final = ("reasoning_content", "reasoning")

#: What servers say in place of the API's reasons, in lower case. None: not the end of an answer.
_FINISH_REASONS: Final[Mapping[str, str | None]] = {
    "": "stop",
    "complete": "stop",
    "completed": "stop",
    "end": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop": "stop",
    "stop_sequence": "stop",
    # A client that sees `length` knows that the answer is not whole.
    "abort": "length",
    "length": "length",
    "max_length": "length",
    "max_output_tokens": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_call": "tool_calls",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "function_call",
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "prohibited_content": "content_filter",
    "recitation": "content_filter",
    "refusal": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "error": None,
    "insufficient_system_resource": None,
}


class Choice:
    """The state of one choice."""

    __slots__ = (
        "content",
        "extra",
        "fields",
        "finish",
        "function",
        "logprobs",
        "names",
        "reasoning",
        "refusal",
        "role",
        "tool_calls",
    )

    def __init__(self) -> None:
        self.role: str | None = None
        #: None: no content came, not even an empty one.
        self.content: bytearray | None = None
        self.reasoning: bytearray | None = None
        #: Names under which reasoning came.
        self.names: tuple[str, ...] = ()
        self.refusal: bytearray | None = None
        self.tool_calls: ToolCalls | None = None
        self.function: Function | None = None
        self.logprobs: dict[str, Any] | None = None
        #: The reason as the server said it.
        self.finish: str | None = None
        #: Unknown fields of deltas.
        self.extra: increments.Store | None = None
        #: Unknown fields of the choice itself.
        self.fields: dict[str, Any] | None = None

    @property
    def usage(self) -> dict[str, Any] | None:
        """The usage, where the server reports it inside the choice (Moonshot)."""
        usage = (self.fields or {}).get("usage")
        return usage if isinstance(usage, dict) else None

    def add(self, name: str, value: Any, delta: Mapping[str, Any]) -> None:
        """Add one field of a delta, which is not null."""
        if name == "content":
            self._add_content(value)
        elif name in _REASONING and isinstance(value, str):
            # A server that sends both names sends the same text under both.
            twice = name == _REASONING[1] and delta.get(_REASONING[0]) == value
            self._add_reasoning(name, value, counted=twice)
        elif name == "tool_calls":
            calls = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else ()
            if calls:
                if self.tool_calls is None:
                    self.tool_calls = ToolCalls()
                self.tool_calls.add(calls)
        elif name == "role":
            if isinstance(value, str):
                self.role = self.role or value
        elif name == "refusal":
            if isinstance(value, str) and value:
                self.refusal = _grown(self.refusal, value)
        elif name == "function_call":
            if isinstance(value, dict):
                if self.function is None:
                    self.function = Function()
                self.function.add(value)
        elif name not in DROPPED:
            if self.extra is None:
                self.extra = {}
            increments.merge(self.extra, name, value)

    def add_field(self, key: str, value: Any, choice: Mapping[str, Any]) -> None:
        """Add one field of the choice itself, neither null nor its delta."""
        if key == "finish_reason":
            if isinstance(value, str):
                self._add_finish(value, choice.get("delta"))
        elif key == "logprobs":
            if isinstance(value, dict):
                self._add_logprobs(value)
        elif key == "message":
            self._add_message(value, choice.get("delta"))
        else:
            if self.fields is None:
                self.fields = {}
            old = self.fields.get(key)
            if isinstance(value, list) and isinstance(old, list):
                old.extend(value)
            elif isinstance(value, dict) and isinstance(old, dict):
                old.update(value)
            else:
                self.fields[key] = _own(value)

    def whole(self, index: int) -> dict[str, Any]:
        """The choice as a completion has it."""
        reason = None if self.finish is None else _means(self.finish)
        choice = {"index": index, "message": self._message(), "logprobs": None, "finish_reason": reason}
        if self.logprobs is not None:
            choice["logprobs"] = {"content": None, "refusal": None, **_own_all(self.logprobs)}
        if self.finish != reason:
            choice["native_finish_reason"] = self.finish
        return {**choice, **_own_all(self.fields or {})}

    def state(self, index: int) -> dict[str, Any]:
        """A choice of a chunk that adds up to this one, but for its end."""
        delta = increments.plain(self.extra or {})
        if self.role is not None:
            delta["role"] = self.role
        if self.content is not None:
            delta["content"] = self.content.decode()
        delta |= self._texts()
        if self.tool_calls is not None:
            delta["tool_calls"] = self.tool_calls.deltas()
        if self.function is not None:
            delta["function_call"] = self.function.whole()
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if self.logprobs is not None:
            choice["logprobs"] = _own_all(self.logprobs)
        return {**choice, **_own_all(self.fields or {})}

    def end(self, index: int) -> dict[str, Any]:
        """A choice of a chunk that ends this one; to be used where `finish` is known."""
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": self.finish}

    def _add_content(self, content: Any) -> None:
        for kind, piece in parts(content):
            if kind == "text":
                self.content = _grown(self.content, piece)
            elif kind == "thinking":
                self._add_reasoning(_REASONING[0], piece)
            else:
                if self.extra is None:
                    self.extra = {}
                increments.merge(self.extra, "content_parts", [piece])

    def _add_reasoning(self, name: str, piece: str, *, counted: bool = False) -> None:
        if not piece:
            return
        if name not in self.names:
            self.names += (name,)
        if not counted:
            self.reasoning = _grown(self.reasoning, piece)

    def _add_finish(self, reason: str, delta: Any) -> None:
        if not reason:
            # Some servers (Ollama) send an empty reason all along. It is the end only of a delta that adds nothing.
            if self.finish is None and not (isinstance(delta, dict) and any(delta.values())):
                self.finish = reason
        elif not self.finish or _means(reason) != "stop" or _means(self.finish) == "stop":
            self.finish = reason

    def _add_logprobs(self, logprobs: dict[str, Any]) -> None:
        if self.logprobs is None:
            self.logprobs = {}
        for key, value in logprobs.items():
            old = self.logprobs.get(key)
            if isinstance(value, list) and isinstance(old, list):
                old.extend(value)
            elif value is not None:
                self.logprobs[key] = _own(value)

    def _add_message(self, message: Any, delta: Any) -> None:
        """A whole message counts where nothing was streamed; beside deltas (Perplexity) it repeats them."""
        streamed = (self.content, self.reasoning, self.refusal, self.tool_calls, self.function, self.extra)
        if isinstance(message, dict) and not isinstance(delta, dict) and all(each is None for each in streamed):
            for name, value in message.items():
                if value is not None:
                    self.add(name, value, message)

    def _texts(self) -> dict[str, str]:
        texts = {} if self.refusal is None else {"refusal": self.refusal.decode()}
        if self.reasoning is not None:
            texts |= dict.fromkeys(self.names, self.reasoning.decode())
        return texts

    def _message(self) -> dict[str, Any]:
        extra = increments.plain(self.extra or {})
        instead = self.tool_calls or self.function or self.refusal or extra.get("audio")
        content = None if self.content is None or (instead and not self.content) else self.content.decode()
        message: dict[str, Any] = {
            "role": self.role or "assistant",
            "content": content,
            "refusal": None,
            **self._texts(),
        }
        if self.tool_calls is not None:
            message["tool_calls"] = self.tool_calls.whole()
        if self.function is not None:
            message["function_call"] = self.function.whole()
        if isinstance(extra.get("audio"), dict) and isinstance(extra["audio"].get("data"), str):
            extra["audio"]["data"] = _joined_base64(extra["audio"]["data"])
        return message | {name: value for name, value in extra.items() if name not in message}


def parts(content: Any) -> Iterator[tuple[str, Any]]:
    """What a delta's content consists of: `text` and `thinking` with their strings, `other` with what else there is."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield "text", part
        elif isinstance(part, dict):
            yield from _part(part)


def _part(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    kind = part.get("type")
    if kind == "thinking" and isinstance(part.get("thinking"), str | list):
        # A string (Anthropic), or a list of texts (Mistral).
        thoughts = part["thinking"] if isinstance(part["thinking"], list) else [part["thinking"]]
        for thought in thoughts:
            piece = thought.get("text") if isinstance(thought, dict) else thought
            if isinstance(piece, str):
                yield "thinking", piece
    elif kind in ("text", None) and isinstance(part.get("text"), str):
        yield "text", part["text"]
    else:
        yield "other", part


def _grown(buffer: bytearray | None, piece: str) -> bytearray:
    if buffer is None:
        return bytearray(increments.encode(piece))
    buffer += increments.encode(piece)
    return buffer


def _means(reason: str) -> str | None:
    """The API's word for a server's reason; one that is not known may be the API's next."""
    return _FINISH_REASONS.get(reason.lower(), reason)


def _own(value: Any) -> Any:
    """A copy of what can grow: lists and objects that came from a chunk are not changed."""
    return value.copy() if isinstance(value, list | dict) else value


def _own_all(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _own(value) for key, value in values.items()}


def _joined_base64(data: str) -> str:
    """Base64 that was put together from padded pieces, as one piece; what is no base64 as it is."""
    if "=" not in data.rstrip("="):
        return data
    try:
        pieces = [base64.b64decode(piece, validate=True) for piece in re.findall("[^=]+=*", data)]
    except ValueError:
        return data
    return base64.b64encode(b"".join(pieces)).decode()
