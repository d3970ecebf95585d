"""What goes over the wire, without the wire: a request as JSON, and an answer's bytes as chunks. Pure.

`AnswerDecoder` looks at the body, not at what was asked for or what Content-Type says: a body that begins
with `{` or `[` is JSON, anything else is a stream of server-sent events. However the bytes are cut, the
same chunks come out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from deltabus.http import errors
from deltabus.http.answer import Body
from deltabus.http.sse import ERROR, MESSAGE
from deltabus.provider import (
    Chunk,
    Completion,
    ProviderProtocol,
    ProviderUnavailable,
    StreamTruncated,
    TaskError,
)
from deltabus_openai import repair
from deltabus_openai.stencil import Stencil, cut

_BLANK = b" \t\r\n"
_DONE = "[DONE]"

#: A `finish_reason` with which a server says that it broke off: not an answer, but a reason to fail.
_BROKEN: Mapping[str, type[TaskError]] = {
    "error": ProviderUnavailable,  # OpenRouter; its chunk carries the error object.
    "insufficient_system_resource": ProviderUnavailable,  # DeepSeek.
    "abort": StreamTruncated,  # vLLM, SGLang: the engine was paused or shut down; a `[DONE]` follows all the same.
}

#: Stencils that a stream may have in vain, and one more for so many chunks.
FEWEST = 4
USEFUL = 16

_decode = msgspec.json.Decoder().decode


def models(listed: Any) -> list[dict[str, Any]] | None:
    """The models in a list of them, OpenAI's or Ollama's, each with an `id`; None if that is not what it is."""
    found = listed.get("data", listed.get("models")) if isinstance(listed, dict) else listed
    if not isinstance(found, list):
        return None
    return [{**model, "id": str(model.get("id") or model.get("name"))} for model in found if isinstance(model, dict)]


class AnswerDecoder:
    """Decodes the body of one successful answer (HTTP 2xx).

    Feed it what was read; stop reading when it is `done`; at the end of the body call `finish`.

    Args:
        limit: bytes that a JSON body, or one event of a stream, may have.
        choices: the request's `n`; what is not a number is the provider's business.
    """

    __slots__ = (
        "_body", "_calls", "_choices", "_cuts", "_finished", "_stencil", "chunks", "done", "settled",
    )  # fmt: skip

    def __init__(self, limit: int, *, choices: Any = 1) -> None:
        self._body = Body(limit)
        self._choices = choices if type(choices) is int else 1
        #: Choice -> whether its finish_reason was seen.
        self._finished: dict[int, bool] = {}
        self._calls: dict[int, repair.ToolCalls] = {}
        #: The form of the chunk before, if the next one may have it too, and how many have been made.
        self._stencil: Stencil | None = None
        self._cuts = 0
        #: Chunks so far.
        self.chunks = 0
        #: `[DONE]` was seen: what may follow is of no interest.
        self.done = False
        #: Every choice that was asked for has ended: only usage and `[DONE]` can follow.
        self.settled = False

    @property
    def complete(self) -> bool:
        """The whole answer is here: `[DONE]`, or a finish_reason for each choice seen."""
        return self.done or (bool(self._finished) and all(self._finished.values()))

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Decode what was read.

        Yields:
            the chunks that are whole now.

        Raises:
            TaskError: the provider reported an error, or the body is not the API. What was yielded
                before stands: it came before the error.
        """
        finished = self._finished
        for kind, payload in (self._body.events or self._body).feed(data):
            # The path of nearly every chunk: one object, one choice, a piece of text.
            if kind != ERROR:
                stencil = self._stencil
                if stencil is not None and (text := stencil.text(payload)) is not None:
                    self.chunks += 1
                    yield Chunk(payload, None, (stencil.field, text))
                    continue
                try:
                    doc = _decode(payload)
                except (ValueError, RecursionError):
                    doc = None
                if type(doc) is dict:
                    choices = doc.get("choices")
                    if type(choices) is list and len(choices) == 1 and not doc.get("error"):
                        choice = choices[0]
                        if type(choice) is dict and choice.get("finish_reason") is None:
                            delta = choice.get("delta")
                            index = choice.get("index")
                            if (
                                type(delta) is dict
                                and type(index) is int
                                and not delta.get("tool_calls")
                                and type(delta.get("content", "")) is str
                                and b"\n" not in payload
                            ):
                                if index not in finished:
                                    finished[index] = self.settled = False
                                self.chunks += 1
                                self._stencil = self._cut(payload, doc)
                                yield Chunk(payload, doc)
                                continue
            self._stencil = None
            yield from self._event(kind, payload, tail=False)
            if self.done:
                return

    def _cut(self, payload: bytes, doc: dict[str, Any]) -> Stencil | None:
        # Making one costs as much as two chunks do: where they are of no use, few are made.
        if self._cuts >= FEWEST + self.chunks // USEFUL:
            return None
        self._cuts += 1
        return cut(payload, doc)

    def finish(self) -> Iterator[Chunk | Completion]:
        """The body has ended.

        Yields:
            what was still to come: a last event without its blank line; all of a JSON body.

        Raises:
            TaskError: as `feed`; `StreamTruncated` where the answer is not complete, `ProviderProtocol`
                where it is complete and holds nothing.
        """
        if self._body.events is not None and not self.done:
            for kind, payload in self._body.close():
                yield from self._event(kind, payload, tail=True)
        elif self._body.events is None:
            yield from self._json()
            if not self.chunks:
                return
        if not self.complete:
            raise StreamTruncated(
                f"the answer ended after {self.chunks} chunks without a finish_reason or [DONE]"
                if self.chunks
                else "the answer ended before its first chunk"
            )
        if not self._finished:
            raise ProviderProtocol("the provider ended its answer without a single choice in it")

    def _event(self, kind: str, payload: bytes, *, tail: bool) -> Iterator[Chunk]:
        """What the fast path leaves: repairs, several documents in one event, errors, the end."""
        try:
            for raw, doc in _documents(payload):
                if doc == _DONE:
                    self.done = True
                    return
                yield from self._chunk(kind, raw, doc)
        except _NotJSON as exc:
            if kind == ERROR:
                raise errors.from_body({"message": payload.decode("utf-8", "replace")}) from exc
            if not tail:
                raise ProviderProtocol(f"what came after {self.chunks} chunks is not JSON: {exc}") from exc
            if not self.complete:
                raise StreamTruncated(f"the answer broke off in the middle of chunk {self.chunks + 1}") from exc

    def _chunk(self, kind: str, raw: bytes | None, doc: Any) -> Iterator[Chunk]:
        if kind == ERROR and isinstance(doc, dict):
            raise errors.from_body(errors.find(doc) or doc)
        if (error := errors.find(doc)) is not None:
            raise errors.from_body(error)
        if doc is None or doc == {} or (isinstance(doc, dict) and doc.get("type") == "ping"):
            return
        if not isinstance(doc, dict):
            raise ProviderProtocol(f"what came after {self.chunks} chunks is not an object")
        choices = doc.get("choices")
        if isinstance(choices, list) and not all(isinstance(choice, dict) for choice in choices):
            raise ProviderProtocol(f"chunk {self.chunks + 1} has choices that are not objects")
        changed = repair.chunk(doc, self._calls)
        for choice in doc["choices"]:
            index = choice["index"]
            self._finished[index] = self._finished.get(index, False) or choice.get("finish_reason") is not None
        self.settled = len(self._finished) >= self._choices and all(self._finished.values())
        self.chunks += 1
        yield Chunk.of(doc) if changed or raw is None else Chunk(raw, doc)
        _raise_if_broken(doc)

    def _json(self) -> Iterator[Chunk | Completion]:
        body = self._body.json()
        if not body:
            raise StreamTruncated("the answer's body is empty")
        try:
            docs = list(_documents(body))
        except _NotJSON as exc:
            if exc.truncated:
                raise StreamTruncated("the answer broke off before its JSON was complete") from exc
            raise ProviderProtocol(f"the answer is not JSON: {exc}") from exc
        for raw, doc in docs:
            if isinstance(doc, dict) and _is_completion(doc):
                if (error := errors.find(doc)) is not None:
                    raise errors.from_body(error)
                repair.completion(doc)
                _raise_if_broken(doc)
                yield Completion(doc)
            elif errors.find(doc) is None and not (isinstance(doc, dict) and doc.get("choices")):
                raise ProviderProtocol(
                    "the provider answered with JSON that is neither a completion nor an error: "
                    "it has no choices, so base_url or the model is probably wrong"
                )
            else:
                yield from self._chunk(MESSAGE, raw, doc)


def _is_completion(doc: Mapping[str, Any]) -> bool:
    choices = doc.get("choices")
    return (
        isinstance(choices, list)
        and bool(choices)
        and all(isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices)
    )


def _raise_if_broken(doc: Mapping[str, Any]) -> None:
    for choice in doc["choices"]:
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason in _BROKEN:
            if isinstance(error := choice.get("error"), dict):
                raise errors.from_body(error)
            raise _BROKEN[reason](f"the provider broke the answer off (finish_reason {reason})")


class _NotJSON(ValueError):
    """A text is not a sequence of JSON documents; `truncated`: it is the beginning of one."""

    def __init__(self, reason: str, *, truncated: bool = False) -> None:
        super().__init__(reason)
        self.truncated = truncated


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


#: More lenient than msgspec: control characters in strings, NaN and Infinity (read as null), lone surrogates.
_lenient = json.JSONDecoder(strict=False, parse_constant=lambda _: None, parse_float=_finite).raw_decode

#: What may stand between the documents of one event.
_BETWEEN = re.compile(r"(?:\s|data:|\ufeff|\x1e)*")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def _documents(payload: bytes) -> Iterator[tuple[bytes | None, Any]]:
    """The JSON documents in an event's data or a body: (raw, decoded). `[DONE]` comes as such and ends them.

    `raw` is None where what came is not one line of valid JSON and has to be written anew.
    """
    raw = payload.strip(_BLANK)
    if not raw:
        return
    try:
        doc = _decode(raw)
    except (ValueError, RecursionError):
        yield from _several(raw)
    else:
        yield None if b"\n" in raw or b"\r" in raw else raw, doc


def _several(raw: bytes) -> Iterator[tuple[None, Any]]:
    text = raw.decode("utf-8", "replace")
    place = 0
    while (place := _end(_BETWEEN.match(text, place))) < len(text):
        if text.startswith(_DONE, place):
            yield None, _DONE
            return
        try:
            doc, place = _lenient(text, place)
            # Once through the strict decoder: what is decoded is what is written.
            plain = _SURROGATE.sub("\ufffd", json.dumps(doc, ensure_ascii=False, allow_nan=False))
            doc = _decode(plain.encode())
        except json.JSONDecodeError as exc:
            raise _NotJSON(f"{exc.msg} at character {exc.pos}", truncated=_is_open(text[place:])) from exc
        except RecursionError as exc:
            raise _NotJSON("it is nested too deeply") from exc
        except ValueError as exc:
            raise _NotJSON("a number in it is too large") from exc
        yield None, doc


def _is_open(text: str) -> bool:
    """Whether a string, an object or an array in it has not been closed."""
    rest = _STRING.sub("", text)
    return '"' in rest or sum(map(rest.count, "{[")) > sum(map(rest.count, "}]"))


def _end(match: re.Match[str] | None) -> int:
    assert match is not None  # The pattern matches nothing, too.
    return match.end()
