"""What the kit says of chunks that are known by their text."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from deltabus.provider import Chunk
from deltabus.testing.chunks import stream_violations


def document(text: str, **fields: Any) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}], **fields}


def told(text: bytes, of: dict[str, Any], field: str = "content") -> Chunk:
    return Chunk(msgspec.json.encode(of), None, (field, text))


FIRST = Chunk.of(document("Hi", obfuscation="x"))
END = Chunk.of({"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
OTHER = "has a `text`, and differs from the chunk before it in more than that"
WRONG = "has a `text` that is not the text of its delta"


def test_chunks_that_differ_in_their_text_and_padding_alone_are_well():
    more = [told(text.encode(), document(text, obfuscation=text)) for text in (" there", "!")]
    assert stream_violations([FIRST, *more, END]) == []


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([FIRST, told(b" there", document(" you", obfuscation="x"))], f"chunk 1 {WRONG}"),
        ([FIRST, told(b" there", document(" there", obfuscation="x"), "reasoning")], f"chunk 1 {WRONG}"),
        ([FIRST, told(b" there", document(" there", obfuscation="x", id="2"))], f"chunk 1 {OTHER}"),
        ([told(b" there", document(" there"))], f"chunk 0 {OTHER}"),
        ([FIRST, told(b"", {"choices": []})], f"chunk 1 {WRONG}"),
    ],
)
def test_one_that_says_more_than_its_text_is_named(items, problem):
    assert problem in stream_violations([*items, END])
