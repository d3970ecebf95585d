"""Reads a body in every way that a network can cut it, and sees to it that the outcome is always the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from deltabus.http import Decoder
from deltabus.http.shapes import completion
from deltabus.provider import Chunk, Completion, TaskError
from deltabus.testing.chunks import completion_violations, stream_violations


@dataclass(frozen=True)
class Outcome:
    """What came out of a body, and how it ended."""

    items: tuple[Chunk | Completion, ...]
    error: TaskError | None

    @property
    def told(self) -> tuple[list[Any], str]:
        """All of it as values that can be compared; what an answer is given by the clock is left out."""
        data = [{**item.data, "created": None} for item in self.items]
        return data, f"{type(self.error).__name__} {self.error}"

    @property
    def deltas(self) -> list[dict[str, Any]]:
        """What the chunks add to choice 0."""
        return [choice["delta"] for item in self.items for choice in item.data["choices"] if choice["index"] == 0]

    @property
    def whole(self) -> dict[str, Any]:
        """The completion: the one that came, or what the chunks add up to. It must be a good answer."""
        assert self.error is None
        if isinstance(self.items[0], Completion):
            assert completion_violations(self.items) == []
            return self.items[0].data
        assert stream_violations(self.items) == []
        return completion(item for item in self.items if isinstance(item, Chunk)).data

    @property
    def choice(self) -> dict[str, Any]:
        return dict(self.whole["choices"][0])

    @property
    def message(self) -> dict[str, Any]:
        return dict(self.choice["message"])

    @property
    def code(self) -> str:
        """The error's code; `ok` where there is none."""
        return self.error.code if self.error else "ok"


def read(decoder: Decoder, pieces: Iterable[bytes]) -> Outcome:
    items: list[Chunk | Completion] = []
    try:
        for piece in pieces:
            items.extend(decoder.feed(piece))
            if decoder.done:
                break
        items.extend(decoder.finish())
    except TaskError as exc:
        return Outcome(tuple(items), exc)
    for item in items:
        if isinstance(item, Chunk):
            assert json.loads(item.raw) == item.data
    return Outcome(tuple(items), None)


@pytest.fixture(scope="session")
def cut_every_way() -> Callable[[Callable[[], Decoder], bytes], Outcome]:
    """`cut_every_way(make_decoder, body)`: decodes it whole, byte by byte, and cut in two at every place."""

    def cut(make: Callable[[], Decoder], body: bytes) -> Outcome:
        whole = read(make(), [body])
        bytewise = read(make(), [body[place : place + 1] for place in range(len(body))])
        assert [item.data["choices"] for item in bytewise.items] == [item.data["choices"] for item in whole.items]
        assert bytewise.told == whole.told, "byte by byte"
        for place in range(1, len(body)):
            assert read(make(), [body[:place], body[place:]]).told == whole.told, f"cut at {place}: {body[:place]!r}"
        return whole

    return cut
