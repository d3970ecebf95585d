"""Bodies of answers are told apart, and documents in them become chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from deltabus.http import Body, DocumentDecoder, shapes
from deltabus.provider import Chunk, Completion, PayloadTooLarge, ProviderProtocol, RateLimited, StreamTruncated


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \r\n", b"\xef\xbb\xbf\n"])
@pytest.mark.parametrize("json_body", [b'{"a": 1}', b"[1]"])
def test_the_first_byte_tells_json(before: bytes, json_body: bytes) -> None:
    body = Body(100)
    assert [event for byte in before + json_body for event in body.feed(bytes([byte]))] == []
    assert body.close() == []
    assert body.events is None
    assert body.json() == json_body


def test_anything_else_is_events() -> None:
    body = Body(100)
    fed = [event for byte in b": hi\n\ndata: 1\n\ndata: 2\n" for event in body.feed(bytes([byte]))]
    assert fed == [("message", b"1")]
    assert body.close() == [("message", b"2")]
    assert body.json() == b""


def test_a_web_page_is_none_of_both() -> None:
    with pytest.raises(ProviderProtocol, match="base_url"):
        Body(100).feed(b"<!doctype html>")


@pytest.mark.parametrize("begin", [b"[", b"data: "])
def test_neither_grows_without_end(begin: bytes) -> None:
    body = Body(100)
    body.feed(begin + b"x" * 80)
    with pytest.raises(PayloadTooLarge):
        body.feed(b"x" * 30)


class Word(msgspec.Struct):
    word: str = ""
    last: bool = False
    deep: dict[str, Any] = {}


class Words(DocumentDecoder[Word]):
    """An API whose events are words."""

    def event(self, document: Word) -> Iterator[Chunk]:
        if document.deep:
            _ = document.deep["missing"]
        self.settled = document.last
        yield shapes.chunk({}, {"content": document.word}, "stop" if document.last else None)


def decode(*pieces: bytes) -> list[Chunk | Completion]:
    decoder = Words(Word, 1000)
    items: list[Chunk | Completion] = [item for piece in pieces for item in decoder.feed(piece)]
    return [*items, *decoder.finish()]


def sse(*documents: Any) -> bytes:
    return b"".join(f"data: {json.dumps(document)}\n\n".encode() for document in documents)


END = {"word": "b", "last": True}


def test_each_event_is_a_document() -> None:
    items = decode(sse({"word": "a", "new": [1]}), sse(END))
    assert [item.data["choices"][0]["delta"] for item in items] == [{"content": "a"}, {"content": "b"}]


def test_a_whole_answer_is_what_its_chunks_add_up_to() -> None:
    [item] = decode(json.dumps(END).encode())
    assert isinstance(item, Completion)
    assert item.data["choices"][0]["message"]["content"] == "b"


def test_what_follows_an_answer_that_is_settled_is_not_missed() -> None:
    assert len(decode(sse(END), b"data: {")) == 1


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (sse({"word": "a"}), StreamTruncated),
        (sse({"word": "a"}) + b"data: {", StreamTruncated),
        (b"", StreamTruncated),
        (b"{", StreamTruncated),
        (b"data: {\n\n", ProviderProtocol),
        (sse({"word": 1}), ProviderProtocol),
        (sse({"deep": {"other": 1}}), ProviderProtocol),
        (sse({"error": {"code": 429, "message": "slowly"}}), RateLimited),
        (b'[{"error": {"code": 429, "message": "slowly"}}]', RateLimited),
    ],
)
def test_what_is_no_answer_is_an_error(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        decode(body)
