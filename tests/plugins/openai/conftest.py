"""A server that says what a test scripts; and a body read in every way a network can cut it, always to the same end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from deltabus.chat.accumulator import Accumulator
from deltabus.provider import Chunk, Completion, TaskError
from deltabus.testing import ScriptedServer
from deltabus_openai.wire import AnswerDecoder

#: Bytes; more than any body here has.
LIMIT = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """What came out of a body: chunks as bytes, completions, and how it ended."""

    chunks: tuple[bytes, ...]
    completions: tuple[str, ...]
    error: tuple[type[TaskError], str] | None

    @property
    def data(self) -> list[dict[str, Any]]:
        return [json.loads(raw) for raw in self.chunks]

    @property
    def completion(self) -> dict[str, Any]:
        """The completion: the one that came, or what the chunks add up to."""
        if self.completions:
            [text] = self.completions
            return dict(json.loads(text))
        accumulator = Accumulator()
        for chunk in self.data:
            accumulator.add(chunk)
        return accumulator.completion()

    @property
    def message(self) -> dict[str, Any]:
        return dict(self.completion["choices"][0]["message"])

    @property
    def text(self) -> str:
        return str(self.message["content"] or "")

    @property
    def code(self) -> str:
        """The error's code; `ok` where there is none."""
        return self.error[0].code if self.error else "ok"


def read(pieces: Iterable[bytes], choices: int = 1) -> Outcome:
    """Decode a body in these pieces."""
    decoder = AnswerDecoder(LIMIT, choices=choices)
    chunks: list[bytes] = []
    completions: list[str] = []
    error = None

    def take(item: Chunk | Completion) -> None:
        if isinstance(item, Completion):
            completions.append(json.dumps(item.data))
        else:
            assert json.loads(item.raw) == item.data
            assert b"\n" not in item.raw
            assert b"\r" not in item.raw
            chunks.append(item.raw)

    try:
        for piece in pieces:
            for item in decoder.feed(piece):
                take(item)
            if decoder.done:
                break
        for last in decoder.finish():
            take(last)
    except TaskError as exc:
        error = (type(exc), exc.message)
    return Outcome(tuple(chunks), tuple(completions), error)


def read_every_way(body: bytes) -> Outcome:
    """Decode a body whole, byte by byte, and cut in two at every place; all must have the same outcome."""
    whole = read([body])
    assert read([body[place : place + 1] for place in range(len(body))]) == whole, "byte by byte"
    for place in range(1, len(body)):
        assert read([body[:place], body[place:]]) == whole, f"cut at {place}: {body[:place]!r}"
    return whole


@pytest.fixture(scope="session")
def every_way() -> Callable[[bytes], Outcome]:
    return read_every_way


@pytest.fixture(scope="session")
def in_pieces() -> Callable[[Iterable[bytes]], Outcome]:
    return read


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running
