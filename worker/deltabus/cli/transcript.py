"""What the events of a chat task come to on a screen: pieces of text in order. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from deltabus.events import AnyEvent, Completed, Delta, Progress, Retrying, Snapshot, Started


class Piece(NamedTuple):
    """Something to show.

    `text` and `reasoning` continue what was shown before; `void` says that what was shown of the answer
    no longer counts, and why; `note` is a line about the task.
    """

    kind: Literal["text", "reasoning", "void", "note"]
    text: str


class Transcript:
    """Follows one task.

    Args:
        after: the cursor that the events start behind. Then what was shown before is not known here.
    """

    def __init__(self, after: str | None = None) -> None:
        self.text = ""
        self.reasoning = ""
        #: Id of the last event seen: the cursor to resume from.
        self.cursor = after
        self._resumed = after is not None and not after.endswith("-0")

    def feed(self, event: AnyEvent) -> Iterator[Piece]:
        """The pieces that this event adds; none for a failure, which is an error to report."""
        self.cursor = event.id
        match event:
            case Started():
                if (event.attempt or 1) > 1:
                    yield from self._void(f"attempt {event.attempt} begins")
            case Delta():
                for chunk in event.chunks:
                    yield from self._chunk(chunk)
            case Snapshot():
                yield from self._snapshot(event)
            case Retrying():
                why = f"{event.error.code}: {event.error.message}" if event.error else event.reason
                yield Piece("note", f"retrying in {event.delay:.1f} s: {why}")
            case Progress():
                of = f" of {event.total}" if event.total is not None else ""
                yield Piece("note", f"{event.done}{of} {event.unit}")
            case Completed():
                yield from self._completed(event.result)

    def _chunk(self, chunk: Mapping[str, Any]) -> Iterator[Piece]:
        delta = _delta(chunk)
        if thought := _reasoning(delta):
            self.reasoning += thought
            yield Piece("reasoning", thought)
        if text := _content(delta):
            self.text += text
            yield Piece("text", text)

    def _snapshot(self, event: Snapshot) -> Iterator[Piece]:
        """It holds all there was: usually what has been shown already."""
        deltas = [_delta(chunk) for chunk in event.chunks]
        reasoning = "".join(map(_reasoning, deltas))
        text = "".join(map(_content, deltas))
        if self._resumed or not (text.startswith(self.text) and reasoning.startswith(self.reasoning)):
            yield from self._void("the log was condensed; the answer so far")
        if new := reasoning[len(self.reasoning) :]:
            yield Piece("reasoning", new)
        if new := text[len(self.text) :]:
            yield Piece("text", new)
        self.reasoning, self.text = reasoning, text

    def _void(self, why: str) -> Iterator[Piece]:
        if self.text or self.reasoning or self._resumed:
            yield Piece("void", why)
        else:
            yield Piece("note", why)
        self.text = self.reasoning = ""
        self._resumed = False

    def _completed(self, result: Any) -> Iterator[Piece]:
        """What was not streamed: all of it, where the provider answers at once; further choices; tool calls."""
        choices = [choice for choice in choices_of(result) if isinstance(choice.get("message"), dict)]
        for place, choice in enumerate(choices):
            message = choice["message"]
            text = _content(message)
            if place > 0:
                yield Piece("note", f"choice {choice.get('index', place)}")
                yield Piece("text", text + "\n")
            elif not self._resumed and text.startswith(self.text):
                yield Piece("text", text[len(self.text) :])
                self.text = text
            for call in message.get("tool_calls") or ():
                function = call.get("function") or {}
                yield Piece("note", f"tool call {function.get('name')}({function.get('arguments', '')})")
        usage = result.get("usage") if isinstance(result, dict) else None
        words = ["completed"]
        if choices and (reason := choices[0].get("finish_reason")) not in {None, "stop"}:
            words.append(f"finish_reason {reason}")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int):
            words.append("1 token" if tokens == 1 else f"{tokens} tokens")
        yield Piece("note", ", ".join(words))


def choices_of(result: Any) -> list[dict[str, Any]]:
    """The choices of a completion; none, where it is something else."""
    found = result.get("choices") if isinstance(result, dict) else None
    return [choice for choice in found if isinstance(choice, dict)] if isinstance(found, list) else []


def answer(result: Any) -> str | None:
    """The text of a completion's first choice; None where the result is something else."""
    choices = choices_of(result)
    if not choices or not isinstance(choices[0].get("message"), dict):
        return None
    return _content(choices[0]["message"])


def _delta(chunk: Mapping[str, Any]) -> Mapping[str, Any]:
    for choice in chunk.get("choices") or ():
        if choice.get("index", 0) == 0:
            return choice.get("delta") or {}
    return {}


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    refusal = message.get("refusal")
    return (content if isinstance(content, str) else "") + (refusal if isinstance(refusal, str) else "")


def _reasoning(delta: Mapping[str, Any]) -> str:
    """DeepSeek's name for it, or that of vLLM and OpenRouter; some send both, with the same text."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := delta.get(name), str) and text:
            return text
    return ""
