"""The form that a stream's chunks have in common: all but their text is the same bytes. Pure.

Servers write the chunks of a stream from one template: what differs from chunk to chunk is the text, and OpenAI's
`obfuscation`, which is padding. To find that a chunk has the form of the one before it spares everybody further on to
look at fields that say nothing new: with 500 streams in turn, a chunk is added up in 4.7 us instead of 8.5.

It is exact. The form is made of a chunk that was decoded, and it is tried out: the same bytes with another text in
the hole must decode to the same document with that text. So the hole is the inside of a string, the value of that
one field; whatever else is a valid inside of a string may stand there, and nothing else changes.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

#: Fields of a delta in which text streams, one at a time.
FIELDS: Final = ("content", "reasoning_content", "reasoning")

#: What a form is tried out with.
_PROBE: Final = "\N{OBJECT REPLACEMENT CHARACTER}probe"

#: What stands for something else in a JSON string, or may not stand in one.
_is_special = re.compile(rb'["\\\x00-\x1f\x80-\xff]').search
_PADDING: Final = re.compile(rb'"obfuscation": ?"')

_decode = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode


class Stencil:
    """The form of one chunk. Made by `cut`."""

    __slots__ = ("_after", "_before", "_end", "_start", "field")

    def __init__(self, field: str, before: bytes, after: bytes, end: bytes | None) -> None:
        #: Of the delta: where the text is.
        self.field = field
        self._before = before
        self._start = len(before)
        #: What follows the text, up to the padding where there is padding, and what follows that.
        self._after = after
        self._end = end

    def text(self, payload: bytes) -> bytes | None:
        """The text of a chunk of this form, in UTF-8; None where it has another."""
        start = self._start
        if not payload.startswith(self._before):
            return None
        after = self._after
        if self._end is None:
            stop = len(payload) - len(after)
            if stop < start or not payload.endswith(after):
                return None
        else:
            stop = payload.find(after, start)
            padding = payload[stop + len(after) : -len(self._end)]
            if stop < 0 or _is_special(padding) or payload[stop:] != after + padding + self._end:
                return None
        if _is_special(payload, start, stop):
            return _unescaped(payload[start:stop])
        return payload[start:stop]


def cut(payload: bytes, document: dict[str, Any]) -> Stencil | None:
    """The form of a chunk; None if the next one of that form could say more than its text.

    Args:
        payload: JSON.
        document: what it decodes to: an object with one choice, whose index is a number and whose delta is an object.
    """
    choice = document["choices"][0]
    delta = choice["delta"]
    field = next((name for name in FIELDS if delta.get(name)), None)
    text = delta.get(field)
    if field is None or not isinstance(text, str):
        return None
    # What adds up: a list of log probabilities, another text.
    if any(value is not None for name, value in choice.items() if name not in {"index", "delta"}):
        return None
    if any(value and name not in {field, "role"} for name, value in delta.items()):
        return None
    quoted = b'"' + text.encode("utf-8", "replace") + b'"'
    if payload.count(quoted) != 1:
        return None
    start = payload.index(quoted) + 1
    before, after, end = payload[:start], payload[start + len(quoted) - 2 :], None
    if isinstance(document.get("obfuscation"), str):
        if (padding := _PADDING.search(after)) is None:
            return None
        after, end = after[: padding.end()], after[after.find(b'"', padding.end()) :]
    return Stencil(field, before, after, end) if _fits(field, before, after, end, document) else None


def _fits(field: str, before: bytes, after: bytes, end: bytes | None, document: dict[str, Any]) -> bool:
    probe = _PROBE.encode()
    try:
        tried = _decode(before + probe + after if end is None else before + probe + after + probe + end)
        delta = tried["choices"][0]["delta"]
        if delta[field] != _PROBE or (end is not None and tried["obfuscation"] != _PROBE):
            return False
    except (ValueError, LookupError, TypeError):
        return False
    delta[field] = document["choices"][0]["delta"][field]
    if end is not None:
        tried["obfuscation"] = document["obfuscation"]
    return bool(tried == document)


def _unescaped(text: bytes) -> bytes | None:
    """The inside of a JSON string, in UTF-8; None where it is none."""
    try:
        return _decode_text(b'"' + text + b'"').encode()
    except ValueError:
        return None
