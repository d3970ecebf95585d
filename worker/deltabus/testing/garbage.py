"""What comes with a 200 and is not what the API says: pages of proxies, halves, values of the wrong type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

#: Bodies that are an answer of no API, by what they are.
GARBAGE: Final[Mapping[str, bytes]] = {
    "a page": b"<!doctype html>\n<html><head><title>Log in</title></head><body>Log in first.</body></html>\n",
    "half a document": b'{"id": "1", "choices": [{"index": 0, "mess',
    "no text": b"\x00\xff\xfe\x80{",
    "no object": b"OK",
    "null": b"null",
    "a number": b"7",
    "a string": b'"text"',
    "an empty list": b"[]",
    "a list of nulls": b"[null, null]",
    "an empty object": b"{}",
    "nested without end": b"[" * 100_000,
}

#: What stands in turn where something else should.
_WRONG: Final[Sequence[Any]] = (None, 7, "text", [7], {"text": 7})


def is_json(body: bytes) -> bool:
    """Whether it is a JSON document, of whatever shape."""
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def events(body: bytes) -> bytes:
    """The same as a server-sent event."""
    return b"".join(b"data: %b\n" % line for line in body.splitlines()) + b"\n"


def garbled(body: bytes) -> Iterator[bytes]:
    """A good answer with one value after the other replaced by those of the wrong types.

    Args:
        body: a JSON document, one a line, or server-sent events.
            What is alike in several lines is garbled in the first.
    """
    lines = [body] if _document(body) is not None else body.splitlines(keepends=True)
    done: set[str] = set()
    for place, line in enumerate(lines):
        start = line.find(b"{")
        document = _document(line[start:]) if start >= 0 else None
        if document is None:
            continue
        for path, wrong in _wrongs(document, ""):
            if path not in done:
                made = line[:start] + json.dumps(wrong).encode() + b"\n"
                yield b"".join([*lines[:place], made, *lines[place + 1 :]])
        done.update(path for path, _ in _wrongs(document, ""))


def _wrongs(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    for wrong in _WRONG:
        if type(wrong) is not type(value):
            yield path, wrong
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        for where, wrong in _wrongs(item, f"{path}[]" if isinstance(value, list) else f"{path}.{key}"):
            copy = value.copy()
            copy[key] = wrong
            yield where, copy


def _document(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
