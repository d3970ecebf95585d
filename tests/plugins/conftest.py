"""What comes out of a recorded body."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from deltabus.http import Decoder
from deltabus.http.shapes import completion
from deltabus.provider import Chunk, Completion, TaskError
from deltabus.testing import decode_every_way
from deltabus.testing.chunks import completion_violations, stream_violations
from deltabus_openai import takeback


@dataclass(frozen=True)
class Outcome:
    """What came out of a body, and how it ended."""

    items: tuple[Chunk | Completion, ...]
    error: TaskError | None

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


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the providers do in passing, and give up where it takes seconds, may take a minute of a busy machine."""
    for limit in (
        "deltabus.http.client.DRAIN",
        "deltabus.http.client.LAST_WORDS",
        "deltabus.http.client.CHECK",
        "deltabus.http.transport.KEEPALIVE",
    ):
        monkeypatch.setattr(limit, 60.0)
    monkeypatch.setattr(takeback, "PATIENCE", 60.0)


@pytest.fixture(scope="session")
def cut_every_way() -> Callable[[Callable[[], Decoder], bytes], Outcome]:
    """`cut_every_way(make_decoder, body)`: what comes of it, however it is cut."""

    def cut(make: Callable[[], Decoder], body: bytes) -> Outcome:
        items, error = decode_every_way(make, body)
        assert all(json.loads(item.raw) == item.data for item in items if isinstance(item, Chunk))
        return Outcome(tuple(items), error)

    return cut
