"""Decodes a body in every way that a network can cut it, and sees to it that the outcome is always the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from deltabus.http import Decoder
from deltabus.provider import Chunk, Completion, TaskError

__all__ = ["decode_every_way"]

#: What an answer is given by the clock or by chance, where the API gives none.
_INCIDENTAL = ("id", "created")


def decode_every_way(make: Callable[[], Decoder], body: bytes) -> tuple[list[Chunk | Completion], TaskError | None]:
    """Decode a body whole, byte by byte, and cut in two at every place.

    Args:
        make: makes a decoder for each of them.
        body: of a successful answer (2xx).

    Returns:
        what came out, and the error that it ended with, if any.

    Raises:
        AssertionError: something else came out where the body was cut; the message says where that was.
    """
    items, error = _decode(make(), [body])
    told = _told(items, error)
    pieces = [body[place : place + 1] for place in range(len(body))]
    assert _told(*_decode(make(), pieces)) == told, "byte by byte, something else comes out"
    for place in range(1, len(body)):
        cut = _told(*_decode(make(), [body[:place], body[place:]]))
        assert cut == told, f"something else comes out when the body is cut after {body[:place]!r}"
    return items, error


def _decode(decoder: Decoder, pieces: Iterable[bytes]) -> tuple[list[Chunk | Completion], TaskError | None]:
    items: list[Chunk | Completion] = []
    try:
        for piece in pieces:
            items.extend(decoder.feed(piece))
            if decoder.done:
                break
        items.extend(decoder.finish())
    except TaskError as exc:
        return items, exc
    return items, None


def _told(items: list[Chunk | Completion], error: TaskError | None) -> tuple[list[Any], str]:
    data = [{key: value for key, value in item.data.items() if key not in _INCIDENTAL} for item in items]
    return data, f"{type(error).__name__}: {error}"
