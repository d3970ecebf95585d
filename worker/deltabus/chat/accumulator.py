"""Accumulates the chunks of a streamed answer into the completion that they add up to. Pure.

What servers send differs from what the API documents (`chat.completion.chunk`), so the rules are:

- choices and tool calls are kept by index and sorted at the end. A choice without an index is found
  by its position, a tool call by its id (see `toolcalls`);
- what says what something is (`role`, `id`, `type`, …) is set once; text is appended; log
  probabilities and other lists of a choice are extended; the last usage counts, never a sum;
- `reasoning_content` and `reasoning` are one channel, shown under the names that came;
- a content that is a list (Mistral) is taken apart: text is content, thinking is reasoning, other
  parts are kept as `content_parts`;
- unknown fields are kept. In a delta they are increments: strings are appended, objects merged, lists
  extended (see `increments`). Elsewhere they are statements about the whole, and the last one counts;
- `finish_reason` becomes one of the API's; where the server used another word, that is kept as
  `native_finish_reason`. `stop` says least, so it never replaces another reason;
- `obfuscation` is padding and is dropped;
- what the server did not send is not made up: `id`, `created`, `model` and `usage` may be missing.

Nothing that a server sends raises an error here: what makes no sense is passed over. Whether a
stream came to its end is not judged here either.

Text is kept as UTF-8 in one growing buffer a channel: a chunk costs the same however long the answer
already is, and thousands of streams cost little more memory than their text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from deltabus.chat.choice import DROPPED, Choice, parts

#: Fields of a chunk that are the same on all of them; the first one that is not empty counts.
_IDENTITY: Final = ("id", "created", "model")

#: Values that say nothing, as on Azure's first chunk.
_EMPTY: Final[tuple[Any, ...]] = ("", [], {})


class Accumulator:
    """The state of one streamed answer; `chunks` are added at once.

    Results share values with the chunks that were added: treat both as read-only.
    """

    __slots__ = ("_choices", "_head", "_latest", "_usage")

    def __init__(self, chunks: Iterable[Mapping[str, Any]] = ()) -> None:
        #: Fields of the chunks themselves.
        self._head: dict[str, Any] = {}
        self._choices: dict[int, Choice] = {}
        self._usage: dict[str, Any] | None = None
        #: To which the last chunk added something.
        self._latest: Choice | None = None
        for chunk in chunks:
            self.add(chunk)

    def add(self, chunk: Mapping[str, Any]) -> None:
        """Take in the next chunk. Whatever it holds is no error."""
        # This runs for every delta of every stream. The usual chunk, whose fields are those of the
        # one before and whose delta is text, is dealt with in place.
        head = self._head
        choices = None
        for key, value in chunk.items():
            if key == "choices":
                choices = value
            elif value is not None and head.get(key) != value and key not in DROPPED:
                self._add_field(key, value)
        if not isinstance(choices, list):
            return
        for position, choice in enumerate(choices):
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            if type(index) is not int:
                index = position
            state = self._choices.get(index)
            if state is None:
                state = self._choices[index] = Choice()
            self._latest = state
            for key, value in choice.items():
                if value is None or key == "index":
                    continue
                if key != "delta":
                    state.add_field(key, value, choice)
                elif isinstance(value, dict):
                    for name, piece in value.items():
                        if name == "content" and state.content is not None and isinstance(piece, str):
                            state.content += piece.encode("utf-8", "replace")
                        elif piece is not None:
                            state.add(name, piece, value)

    def add_text(self, field: str, text: bytes) -> None:
        """Take in a chunk that is the last one but for the text of one field of its delta; see `Chunk.text`."""
        if self._latest is not None:
            buffer = self._latest.content if field == "content" else self._latest.reasoning
            if buffer is not None:
                buffer += text

    def completion(self) -> dict[str, Any]:
        """What has been added up to now as a `chat.completion`: the part that there is, if the stream goes on."""
        choices = sorted(self._choices.items())
        usage = next(filter(None, (self._usage, *(choice.usage for _, choice in choices))), None)
        completion = {**self._identity("chat.completion"), **self._head}
        completion["choices"] = [choice.whole(index) for index, choice in choices]
        return completion if usage is None else {**completion, "usage": usage}

    def snapshot(self) -> list[dict[str, Any]]:
        """Few chunks, two at most, that add up to the same state, also under what is added afterwards."""
        if not self._head and not self._choices and self._usage is None:
            return []
        identity = self._identity("chat.completion.chunk")
        choices = sorted(self._choices.items())
        state = {**identity, **self._head, "choices": [choice.state(index) for index, choice in choices]}
        ends = [choice.end(index) for index, choice in choices if choice.finish is not None]
        if not ends and self._usage is None:
            return [state]
        return [state, {**identity, "choices": ends, "usage": self._usage}]

    def _identity(self, kind: str) -> dict[str, Any]:
        head: dict[str, Any] = {key: self._head[key] for key in _IDENTITY if key in self._head}
        return {"object": kind, **head}

    def _add_field(self, key: str, value: Any) -> None:
        if key == "usage":
            if isinstance(value, dict) and value:
                self._usage = value
        elif key in _IDENTITY:
            if value and key not in self._head:
                self._head[key] = value
        elif key not in self._head or value not in _EMPTY:
            self._head[key] = value
            # Groq's own place for it.
            if key == "x_groq" and isinstance(value, dict) and isinstance(value.get("usage"), dict):
                self._usage = value["usage"]


def text(chunk: Mapping[str, Any]) -> str:
    """What a chunk adds to the content of choice 0; empty for every other chunk."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return ""
    found = []
    for position, choice in enumerate(choices):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index")
        if (index if type(index) is int else position) == 0:
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                delta = choice.get("message")
            content = delta.get("content") if isinstance(delta, dict) else None
            if isinstance(content, str):
                found.append(content)
            else:
                found += [piece for kind, piece in parts(content) if kind == "text"]
    return "".join(found)
