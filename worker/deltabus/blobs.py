"""Blobs: bytes on their way between a producer and a worker, in Redis, in chunks, for as long as their TTL.

A blob is one list of chunks. All but the last have the same size, at most `CHUNK`, so that a part of it
is found without reading what is before. Appends are numbered: sent again, they do nothing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from redis.exceptions import ResponseError

from deltabus import keys
from deltabus.commit import GroupCommit, pack, pack_command
from deltabus.errors import BlobNotFound, BusError, BusUnavailable, PayloadTooLarge
from deltabus.scripts import BLOB_APPEND, BLOB_LOOK, BLOB_PUBLISH

#: Bytes of a chunk, and at most of a chunk that somebody else wrote.
CHUNK: Final = 1024 * 1024

#: Seconds that a blob lives at least while it is being read.
READING_TTL: Final = 600

#: Chunks that are read between two looks at whether the blob is kept for long enough.
LOOK_EVERY: Final = 64

#: Chunks that one process fetches at once: what a pipeline brings must come within `commit.REPLY_TIMEOUT`.
FETCHES: Final = 4

#: What a producer can make a blob of: bytes, the path of a file, or what yields bytes, such as an open file.
Data: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | Iterable[bytes] | AsyncIterable[bytes]"


class BlobBroken(BusError):
    """What is under a blob's key is not a blob, or not any more the one that it was."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a blob is cut."""

    chunks: int
    #: Bytes of every chunk but the last.
    chunk: int
    #: Bytes of the last one.
    last: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return (self.chunks - 1) * self.chunk + self.last


class Blobs:
    """The blobs of a Redis, over a connection whose scripts include `scripts.BLOBS`.

    Everything here raises `BusUnavailable` where Redis cannot be reached.
    """

    def __init__(self, commit: GroupCommit) -> None:
        self._commit = commit
        self._fetches = asyncio.Semaphore(FETCHES)

    async def look(self, blob_id: str, *, keep: int = 0) -> Shape:
        """How the blob is cut.

        Args:
            keep: seconds that it is to live at least from now on.

        Raises:
            BlobNotFound: there is none.
            BlobBroken: what is there is not a blob.
        """
        chunks, *sizes = await self._call(blob_id, pack(BLOB_LOOK, (keys.blob(blob_id).encode(),), (keep,)))
        if not chunks:
            raise BlobNotFound(f"there is no blob {blob_id}: it has expired, was deleted, or never was")
        first, last = sizes
        if not last <= first <= CHUNK or (chunks > 1 and not last):
            raise BlobBroken(
                f"blob {blob_id} is cut wrongly: all chunks but the last have the same size, at most {CHUNK} bytes, "
                f"and the last is not larger; its first has {first} bytes, its last {last}"
            )
        return Shape(chunks, first, last)

    async def read(
        self, blob_id: str, shape: Shape, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` on, `length` of them or all, in pieces of at most `CHUNK`.

        Raises:
            BlobNotFound: it has expired meanwhile, or was deleted.
            BlobBroken: it is not cut as `shape` says.
        """
        end = shape.size if length is None else min(shape.size, start + length)
        fetched = 0
        while start < end:
            number, offset = divmod(start, shape.chunk)
            fetched += 1
            if fetched % LOOK_EVERY == 0 and await self.look(blob_id, keep=READING_TTL) != shape:
                raise BlobBroken(f"blob {blob_id} changed while it was read")
            chunk = await self._fetch(blob_id, number)
            if len(chunk) != (shape.last if number == shape.chunks - 1 else shape.chunk):
                raise BlobBroken(
                    f"blob {blob_id} is cut wrongly: all chunks but the last must have the same size, {shape.chunk} "
                    f"bytes as the first has; chunk {number} has {len(chunk)}"
                )
            piece = chunk[offset : offset + end - start] if offset or len(chunk) > end - start else chunk
            start += len(piece)
            yield piece

    async def delete(self, blob_id: str) -> bool:
        """Delete it. False: there was none."""
        return bool(await self._call(blob_id, pack_command(b"DEL", keys.blob(blob_id))))

    async def append(self, blob_id: str, number: int, chunk: bytes, ttl: int) -> None:
        """Append the chunk of that number, and let the blob live for `ttl` seconds from now on.

        Raises:
            BlobNotFound: what was written before has expired.
        """
        if not await self._call(blob_id, pack(BLOB_APPEND, (keys.blob(blob_id).encode(),), (number, chunk, ttl))):
            raise BlobNotFound(f"blob {blob_id} expired while it was written: its TTL, {ttl} s, is too short for that")

    async def publish(self, written: str, blob_id: str, chunks: int) -> None:
        """Give a blob that was written under one id another, in place of whatever has it.

        Raises:
            BlobNotFound: what was written has expired.
        """
        names = (keys.blob(written).encode(), keys.blob(blob_id).encode())
        if not await self._call(blob_id, pack(BLOB_PUBLISH, names, (chunks,))):
            raise BlobNotFound(f"blob {blob_id} expired before it was complete")

    async def _fetch(self, blob_id: str, number: int) -> bytes:
        async with self._fetches:
            chunk = await self._call(blob_id, pack_command(b"LINDEX", keys.blob(blob_id), number))
        if chunk is None:
            raise BlobNotFound(f"blob {blob_id} expired while it was read")
        assert isinstance(chunk, bytes)
        return chunk

    async def _call(self, blob_id: str, packed: bytes) -> Any:
        try:
            return await self._commit.call(packed)
        except ResponseError as exc:
            if "WRONGTYPE" in str(exc):
                raise BlobBroken(f"blob {blob_id} is not a list of chunks: its key holds another type") from exc
            raise BusError(f"Redis refuses what was asked of blob {blob_id}: {exc}") from exc


class Writer:
    """A blob that is being written, piece by piece of whatever size. It has a TTL from its first chunk on.

    Args:
        ttl: seconds that it lives after each chunk, and after the last one.
        blob_id: the id that it gets when it is complete; by default a random one.
        prefix: what a random one begins with.
    """

    def __init__(self, blobs: Blobs, *, ttl: int, blob_id: str | None = None, prefix: str = "") -> None:
        self._blobs = blobs
        self._ttl = ttl
        self._buffer = bytearray()
        self._chunks = 0
        # Nobody sees half a blob under an id that somebody may know. On a Cluster, it is given the id where it lies: so
        # that id's key is the hash tag of what it lies under until then.
        self._written = prefix + uuid.uuid4().hex if blob_id is None else f"{{{keys.blob(blob_id)}}}:{uuid.uuid4().hex}"
        self.id = blob_id or self._written

    async def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        view = memoryview(piece).cast("B")
        while view:
            room = CHUNK - len(self._buffer)
            self._buffer += view[:room]
            view = view[room:]
            if len(self._buffer) == CHUNK:
                await self._send()

    async def close(self) -> None:
        """Write what is left: the blob is complete."""
        if self._buffer or not self._chunks:
            await self._send()
        if self.id != self._written:
            await self._blobs.publish(self._written, self.id, self._chunks)

    async def discard(self) -> None:
        """Leave nothing of it, also where the caller is cancelled meanwhile."""
        await asyncio.shield(self._blobs.delete(self._written))

    async def _send(self) -> None:
        chunk, self._buffer = bytes(self._buffer), bytearray()
        await self._blobs.append(self._written, self._chunks, chunk, self._ttl)
        self._chunks += 1


async def write(blobs: Blobs, data: Data, *, ttl: int, limit: int, prefix: str = "") -> str:
    """Make a blob of what a producer has; returns its id, which begins with `prefix`.

    Raises:
        OSError: the file cannot be read.
        PayloadTooLarge: there are more than `limit` bytes.
    """
    writer = Writer(blobs, ttl=ttl, prefix=prefix)
    size = 0
    try:
        async with contextlib.aclosing(_pieces(data)) as pieces:
            async for piece in pieces:
                size += len(piece)
                _check_size(size, limit)
                await writer.write(piece)
        await writer.close()
    except BusUnavailable:
        raise  # its TTL sees to what is there: to ask for its end would take as long again
    except BaseException:
        with contextlib.suppress(BusUnavailable):
            await writer.discard()
        raise
    return writer.id


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise PayloadTooLarge(f"the blob has more than {limit} bytes; max_file_bytes allows no more")


async def _pieces(data: Data) -> AsyncGenerator[bytes | memoryview, None]:
    """The bytes, in pieces; what may block does so in a thread."""
    if isinstance(data, bytes | bytearray | memoryview):
        yield memoryview(data).cast("B")
    elif isinstance(data, str | os.PathLike):
        file = await asyncio.to_thread(open, data, "rb")
        try:
            while piece := await asyncio.to_thread(file.read, CHUNK):
                yield piece
        finally:
            await asyncio.to_thread(file.close)
    elif isinstance(data, AsyncIterable):
        async for piece in data:
            yield _checked(piece)
    else:
        read = getattr(data, "read", None)
        pieces: Iterator[bytes] = iter(data) if read is None else iter(functools.partial(read, CHUNK), b"")
        following = functools.partial(next, pieces, None)
        while (part := await asyncio.to_thread(following)) is not None:
            yield _checked(part)


def _checked(piece: object) -> bytes:
    if not isinstance(piece, bytes | bytearray | memoryview):
        raise TypeError(f"a blob is made of bytes, not of {type(piece).__name__}")
    return bytes(piece)
