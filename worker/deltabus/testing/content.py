"""Content for tests of uploads: bytes that are there, or that are made as they are read, however many."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator

from deltabus.provider import Content

#: Bytes of a piece, the most that a content may give at once.
PIECE = 1024 * 1024
#: Bytes after which generated content repeats itself; a prime, so that no part of it is like another's beginning.
_PERIOD = 65521
_PATTERN = (hashlib.sha256(b"deltabus").digest() * (_PERIOD // 32 + 1))[:_PERIOD]


class Sample(Content):
    """A file that does not exist.

    Args:
        data: its bytes; or how many there are, of a pattern that costs no memory.
        name: of the file.
        media_type: of the file.
        failure: what reading raises once `after` bytes of the file are passed.
        after: see `failure`.
        said: the size that it says it has, where that is a lie.
    """

    def __init__(
        self,
        data: bytes | int = b"hello",
        *,
        name: str = "sample.bin",
        media_type: str = "application/octet-stream",
        failure: Exception | None = None,
        after: int = 0,
        said: int | None = None,
    ) -> None:
        self.name = name
        self.media_type = media_type
        self._data = data
        self._length = data if isinstance(data, int) else len(data)
        self.size = self._length if said is None else said
        self._failure = failure
        self._after = after
        #: Readers that were not closed.
        self.open = 0

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        self.open += 1
        try:
            end = self._length if length is None else min(self._length, start + length)
            for place in range(start, end, PIECE):
                stop = min(end, place + PIECE)
                if self._failure is not None and stop > self._after:
                    if self._after > place:
                        yield self._piece(place, self._after)
                    raise self._failure
                yield self._piece(place, stop)
        finally:
            self.open -= 1

    @property
    def sha256(self) -> str:
        """Of all of it."""
        digest = hashlib.sha256()
        for place in range(0, self._length, PIECE):
            digest.update(self._piece(place, min(self._length, place + PIECE)))
        return digest.hexdigest()

    def _piece(self, start: int, end: int) -> bytes:
        if isinstance(self._data, bytes):
            return self._data[start:end]
        shift = start % _PERIOD
        return (_PATTERN * ((end - start) // _PERIOD + 2))[shift : shift + end - start]
