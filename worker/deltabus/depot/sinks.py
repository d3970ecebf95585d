"""Where bytes go to, piece by piece. Whatever is not committed leaves nothing behind."""

from __future__ import annotations

import time
from typing import Any, Protocol

from deltabus.blobs import Blobs, Writer
from deltabus.depot.files import FileSink
from deltabus.depot.storage import StorageSink
from deltabus.depot.threads import Threads
from deltabus.errors import BlobNotFound, Internal


class Sink(Protocol):
    """Takes bytes in order."""

    async def write(self, piece: bytes) -> None:
        """Add bytes."""

    async def commit(self) -> dict[str, Any]:
        """Make them what was asked for; says what that is."""

    async def aclose(self) -> None:
        """End it: what was not committed is deleted. Called once, always."""


class BlobSink:
    """A blob."""

    def __init__(self, blobs: Blobs, blob_id: str | None, ttl: int) -> None:
        self._writer = Writer(blobs, ttl=ttl, blob_id=blob_id)
        self._ttl = ttl
        self._committed = False

    async def write(self, piece: bytes) -> None:
        try:
            await self._writer.write(piece)
        except BlobNotFound as exc:
            raise _expired(exc) from exc

    async def commit(self) -> dict[str, Any]:
        try:
            await self._writer.close()
        except BlobNotFound as exc:
            raise _expired(exc) from exc
        self._committed = True
        return {"object": "blob", "id": self._writer.id, "expires_at": int(time.time()) + self._ttl}

    async def aclose(self) -> None:
        if not self._committed:
            await self._writer.discard()


def _expired(error: BlobNotFound) -> Internal:
    return Internal(f"{error} (`blob_ttl` in the worker's settings)")


class PathSink:
    """A file of the worker's host."""

    def __init__(self, file: FileSink, path: str, threads: Threads) -> None:
        self._file = file
        self._path = path
        self._threads = threads

    async def write(self, piece: bytes) -> None:
        await self._threads.run(self._file.write, piece)

    async def commit(self) -> dict[str, Any]:
        await self._threads.run(self._file.commit)
        return {"object": "stored", "path": self._path}

    async def aclose(self) -> None:
        await self._threads.run(self._file.close)


class ObjectSink:
    """An object in cloud storage."""

    def __init__(self, sink: StorageSink, url: str, threads: Threads) -> None:
        self._sink = sink
        self._url = url
        self._threads = threads

    async def write(self, piece: bytes) -> None:
        await self._threads.run(self._sink.write, piece)

    async def commit(self) -> dict[str, Any]:
        await self._threads.run(self._sink.commit)
        return {"object": "stored", "url": self._url}

    async def aclose(self) -> None:
        await self._threads.run(self._sink.close)
