"""Bytes that are there: in memory, in an open file, in a blob. Each is a `Content` as providers read it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncGenerator
from typing import Final
from urllib.parse import unquote_to_bytes

from deltabus.blobs import READING_TTL, BlobBroken, Blobs, Shape
from deltabus.depot import naming
from deltabus.depot.openfile import OpenFile
from deltabus.depot.threads import Threads
from deltabus.errors import BlobNotFound, InvalidRequest, NotFound, PayloadTooLarge, TaskError
from deltabus.fields import Field
from deltabus.provider import Content

#: Bytes that are read from or written to a file at once. Threads' allocators keep what was freed, so that pieces of
#: 1 MiB cost 40 MiB of memory, no less time.
PIECE: Final = 256 * 1024

# RFC 2397. Parameters may be quoted, which nobody does and this does not read.
_DATA_URL: Final = re.compile(r"data:(?P<type>[^,;]*)(?P<parameters>(?:;[^,;]*)*),", re.ASCII | re.IGNORECASE)


class InMemory(Content):
    """Bytes that came with the task."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        end = self.size if length is None else min(self.size, start + length)
        for begin in range(start, end, PIECE):
            yield self._data[begin : min(end, begin + PIECE)]


class InFile(Content):
    """Bytes of an open file, which may be changed by others meanwhile: what is added is not read, less is an error."""

    def __init__(self, file: OpenFile, size: int, threads: Threads, whole: Field) -> None:
        self._file = file
        self._threads = threads
        self._whole = whole
        self.size = size

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        end = self.size if length is None else min(self.size, start + length)
        while start < end:
            try:
                piece = await self._threads.run(self._file.read, start, min(PIECE, end - start))
            except OSError as exc:
                raise self._whole.error(f"cannot be read: {exc.strerror}") from exc
            if not piece:
                raise self._whole.error(
                    f"became shorter while it was read: it had {self.size} bytes, and ends at {start}"
                )
            start += len(piece)
            yield piece


class InBlob(Content):
    """Bytes of a blob."""

    def __init__(self, blobs: Blobs, blob_id: str, shape: Shape, field: Field) -> None:
        self._blobs = blobs
        self._id = blob_id
        self._shape = shape
        self._field = field
        self.size = shape.size

    @classmethod
    async def open(cls, blobs: Blobs, field: Field) -> InBlob:
        """The blob that the field names.

        Raises:
            NotFound, InvalidRequest: it is not there, or is none.
        """
        blob_id = field.string()
        try:
            return cls(blobs, blob_id, await blobs.look(blob_id, keep=READING_TTL), field)
        except (BlobNotFound, BlobBroken) as exc:
            raise _blob_error(exc, field) from exc

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        pieces = self._blobs.read(self._id, self._shape, start, length)
        try:
            async for piece in pieces:
                yield piece
        except (BlobNotFound, BlobBroken) as exc:
            raise _blob_error(exc, self._field) from exc
        finally:
            await pieces.aclose()


def _blob_error(error: BlobNotFound | BlobBroken, field: Field) -> TaskError:
    kind = NotFound if isinstance(error, BlobNotFound) else InvalidRequest
    return kind(f"`{field.path}`: {error}", param=field.path)


def from_base64(field: Field, limit: int, text: str | None = None) -> InMemory:
    """What base64 stands for (RFC 4648, section 4: with padding, without line breaks).

    Raises:
        InvalidRequest: it is not base64; the message shows nothing of it.
        PayloadTooLarge: it stands for more than `limit` bytes.
    """
    text = field.string() if text is None else text
    if len(text) // 4 * 3 - 2 > limit:
        raise too_large(field, limit)
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as exc:
        hint = " (the URL-safe alphabet is another one)" if re.search("[-_]", text) else ""
        raise field.error(
            f"is not base64 as RFC 4648 has it: `A-Z a-z 0-9 + /`, padded with `=`, without line breaks{hint}"
        ) from exc
    # Bits that are left over must be 0: what can be written in two ways has two digests.
    if text and base64.b64encode(data[len(data) // 3 * 3 :]).decode() != text[len(data) // 3 * 4 :]:
        raise field.error("is not base64 as RFC 4648 has it: its last digit has bits that are left over")
    return InMemory(data)


def from_data_url(field: Field, limit: int) -> tuple[InMemory, str | None]:
    """What a data URL holds, and its MIME type where it names one.

    Raises:
        InvalidRequest, PayloadTooLarge: as `from_base64`.
    """
    url = field.string()
    match = _DATA_URL.match(url)
    if match is None:
        raise field.error("is not a data URL: it must look like data:image/png;base64,…")
    *parameters, last = match["parameters"].split(";") if match["parameters"] else [""]
    said = match["type"] + "".join(f";{each}" for each in [*parameters, last] if each and each.lower() != "base64")
    if said and not naming.is_media_type(said):
        raise field.error("is not a data URL: what stands before its comma is not a MIME type")
    rest = url[match.end() :]
    if last.lower() == "base64":
        return from_base64(field, limit, rest), said or None
    if len(rest) // 3 > limit:
        raise too_large(field, limit)
    try:
        content = InMemory(unquote_to_bytes(rest.encode("ascii")))
    except UnicodeEncodeError as exc:
        raise field.error("is not a data URL: other characters than ASCII are written as %XX") from exc
    return content, said or "text/plain"


def too_large(field: Field, limit: int) -> PayloadTooLarge:
    """The error of bytes that are too many."""
    return PayloadTooLarge(f"`{field.path}` has more than {limit} bytes, the limit", param=field.path)
