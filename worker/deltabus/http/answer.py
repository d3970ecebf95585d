"""Bodies of answers, however they are cut: JSON or server-sent events, told apart by their first byte. Pure.

What was asked for and what Content-Type says do not decide: a body that begins with `{` or `[` is JSON,
anything else is a stream of server-sent events. So a server that answers in the other form is understood.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from deltabus.http import errors, shapes
from deltabus.http.sse import Event, SSEDecoder
from deltabus.provider import Chunk, Completion, PayloadTooLarge, ProviderProtocol, StreamTruncated

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"

_Shape = TypeVar("_Shape")


class Body:
    """One body. `limit` is the size in bytes that all of a JSON one may have, or an event of the others."""

    __slots__ = ("_head", "_limit", "_parts", "_size", "events")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: What came before the first byte that tells JSON from SSE; None once that is decided.
        self._head: bytes | None = b""
        #: Decodes the events; None while the body may be JSON.
        self.events: SSEDecoder | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Event]:
        """Take what was read; return the events that are whole now, none where the body is JSON.

        Raises:
            PayloadTooLarge: it is over the limit.
            ProviderProtocol: it is a web page.
        """
        if self.events is not None:
            return self.events.feed(data)
        if self._head is None:
            self._size += len(data)
            if self._size > self._limit:
                raise PayloadTooLarge(f"the answer has more than {self._limit} bytes (max_answer_bytes)")
            self._parts.append(data)
            return []
        head = (self._head + data).lstrip(_BLANK)
        if not head or (len(head) < len(_BOM) and _BOM.startswith(head)):
            self._head = head
            return []
        if head.startswith(_BOM):
            head = head[len(_BOM) :].lstrip(_BLANK)
            if not head:
                self._head = _BOM
                return []
        self._head = None
        if head[0] in b"{[":
            return self.feed(head)
        if head.startswith(b"<"):
            raise ProviderProtocol("the provider answered with a web page (HTML): base_url is probably wrong")
        self.events = SSEDecoder(self._limit)
        return self.events.feed(head)

    def close(self) -> list[Event]:
        """The body has ended: return the last event, if it lacks only its blank line."""
        return self.events.close() if self.events is not None else []

    def json(self) -> bytes:
        """All of a body that is JSON; empty where nothing came."""
        return b"".join(self._parts)


class DocumentDecoder(ABC, Generic[_Shape]):
    """A `Decoder` for APIs whose answers are JSON documents of one shape: one an event, or one in all.

    A plugin derives from it and says what a document means. Errors in place of a document, broken
    ones, and bodies that end too early are seen to here.

    Args:
        shape: a `msgspec.Struct`; fields that it does not have are of no interest.
        limit: see `Body`.
    """

    def __init__(self, shape: type[_Shape], limit: int) -> None:
        self._body = Body(limit)
        self._shape = shape
        #: Documents so far.
        self._documents = 0
        self.done = False
        self.settled = False

    @abstractmethod
    def event(self, document: _Shape) -> Iterable[Chunk]:
        """The chunks that a part of a streamed answer makes, or an answer that was not streamed.

        Sets `done` or `settled` at the end of the answer.
        """

    def last(self) -> Iterable[Chunk]:
        """What is still to be said when the answer has ended as it should."""
        return ()

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """See `Decoder`."""
        for _, payload in self._body.feed(data):
            yield from self._chunks(payload)
            if self.done:
                return

    def finish(self) -> Iterator[Chunk | Completion]:
        """See `Decoder`."""
        if self._body.events is None:
            data = self._body.json()
            if not data:
                raise StreamTruncated("the answer's body is empty")
            yield shapes.completion([*self._chunks(data, tail=True), *self._checked(self.last())])
            return
        if not (self.done or self.settled):
            for _, payload in self._body.close():
                yield from self._chunks(payload, tail=True)
        if not (self.done or self.settled):
            raise StreamTruncated(f"the answer broke off after {self._documents} events")
        yield from self._checked(self.last())

    def _chunks(self, payload: bytes, *, tail: bool = False) -> Iterator[Chunk]:
        yield from self._checked(self.event(self._document(payload, tail=tail)))

    def _checked(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        try:
            yield from chunks
        except (AttributeError, LookupError, TypeError, ValueError) as exc:
            # Deeper than the shape goes, it is not what the plugin was promised.
            raise ProviderProtocol(f"event {self._documents} of the answer is not what this API says") from exc

    def _document(self, payload: bytes, *, tail: bool) -> _Shape:
        self._documents += 1
        try:
            document: Any = msgspec.json.decode(payload)
        except (ValueError, RecursionError) as exc:
            if tail:
                raise StreamTruncated("the answer broke off before its JSON was complete") from exc
            raise ProviderProtocol(f"what came as event {self._documents} is not JSON: {exc}") from exc
        if (error := errors.find(document)) is not None:
            raise errors.from_body(error)
        try:
            return msgspec.convert(document, self._shape)
        except msgspec.ValidationError as exc:
            raise ProviderProtocol(f"the answer is not what this API says: {exc}") from exc
