"""Where bytes come from and go to: one `Depot` for a worker's process, `context.depot` to handlers.

Nothing is held in memory but a piece at a time, whatever a file's size; what has to be kept while a task
runs is in a temporary file without a name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio

from deltabus.blobs import Blobs
from deltabus.commit import GroupCommit
from deltabus.depot import content as contents
from deltabus.depot import files, naming, storage
from deltabus.depot.content import InBlob, InFile
from deltabus.depot.room import Room
from deltabus.depot.sinks import BlobSink, ObjectSink, PathSink, Sink
from deltabus.depot.source import Destination, Source
from deltabus.depot.storage import InStorage, Place, StorageSink
from deltabus.depot.threads import Threads
from deltabus.errors import PayloadTooLarge, StreamTruncated
from deltabus.fields import Field
from deltabus.outage import Outage
from deltabus.provider import Content, Download
from deltabus.scripts import BLOBS
from deltabus.settings import Settings

if TYPE_CHECKING:
    from deltabus.depot.web import Web

#: Called with the bytes done, and all there are where that is known.
Progress = Callable[[int, int | None], Awaitable[None]]


#: Chats with as much inline as they may have that one process holds at once. While it is sent, each takes some
#: seven times its bytes.
ROOM: Final = 4


class Depot:
    """Opens what tasks name as sources, and keeps what providers send.

    Args:
        redis: gives address and credentials of the Redis that holds blobs; the connection is the depot's own.
        outage: see `GroupCommit`.
    """

    def __init__(self, redis: redis.asyncio.Redis, settings: Settings, *, outage: Outage | None = None) -> None:
        self._redis = redis
        self._outage = outage
        self._settings = settings
        #: For what chats hold in memory, all together.
        self.room = Room(ROOM * settings.max_inline_bytes)
        self._threads = Threads("files")
        # Apart, so that a storage which is slow holds no disk up.
        self._storage_threads = Threads("storage")
        self._opened_web: Web | None = None
        self._commit: GroupCommit | None = None
        self._opened_blobs: Blobs | None = None

    @property
    def _web(self) -> Web:
        if self._opened_web is None:
            # An HTTP client takes a third of the time in which a worker starts, and few fetch anything.
            from deltabus.depot.web import Web

            self._opened_web = Web(self._settings, self._threads)
        return self._opened_web

    @asynccontextmanager
    async def open(
        self,
        source: Any,
        *,
        param: str,
        name: str | None = None,
        media_type: str | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[Content]:
        """The bytes that a task names: `{"url": …}`, `{"path": …}`, `{"base64": …}` or `{"blob": …}`.

        A source may say more of them: `filename`, `media_type`, and `size` and `sha256`, which must be right.
        When the block is left, nothing is kept.

        Args:
            param: JSON path of the source, for errors.
            name, media_type: over what the source says.
            max_bytes: at most so many; `max_file_bytes` holds, too.

        Raises:
            InvalidRequest: the source breaks a rule, or is not as announced; `param` names the field.
            NotFound: there is no such file, blob or URL, or no longer.
            PayloadTooLarge: it has more bytes than are allowed.
            Unsupported: this worker does not take such sources.
            ProviderUnavailable, ProviderTimeout, StreamTruncated: a server did not give it, this time.
        """
        wanted = Source.read(source, param, filename=name, media_type=media_type)
        limit = self._settings.max_file_bytes if max_bytes is None else min(max_bytes, self._settings.max_file_bytes)
        async with AsyncExitStack() as stack:
            content = await self._find(wanted, limit, stack)
            if content.size > limit:
                raise contents.too_large(wanted.whole, limit)
            if not content.size:
                raise wanted.whole.error("is empty: there is nothing to send")
            if wanted.size is not None and wanted.size != content.size:
                raise Field(f"{param}.size", wanted.size).error(
                    f"is announced as {wanted.size} bytes, but there are {content.size}"
                )
            if wanted.sha256 is not None and wanted.sha256 != await _digest(content):
                raise Field(f"{param}.sha256", None).error("is not the digest of these bytes")
            yield content

    async def keep(
        self, download: Download, to: Any, *, param: str, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Keep what a provider sends; the download is closed in any case, and on failure nothing is left of it.

        Args:
            to: None or `{"blob": true | "<id>"}`, `{"url": "s3://…"}`, or `{"path": …}`; each may have
                `filename` and `media_type`, over what the provider says.
            param: JSON path of `to`, for errors.
            progress: awaited after every piece.

        Returns:
            `{"object": "blob", "id", "bytes", "media_type", "filename", "sha256", "expires_at"}`, or
            `{"object": "stored", "url" or "path", …}`.

        Raises:
            InvalidRequest, Unsupported, PayloadTooLarge, NotFound: as `open`.
            StreamTruncated: the provider announced more bytes, or fewer, than it sent.
        """
        async with aclosing(download):
            target = Destination.read(to, param)
            limit = self._settings.max_file_bytes
            if download.size is not None and download.size > limit:
                raise self._too_long(limit)
            there = None if target.kind == "blob" else target.field.string()
            name, media_type = _about(target.filename, target.media_type, there or download.name, download.media_type)
            digest, done = sha256(), 0
            sink = await self._sink(target, media_type)
            try:
                async for piece in download:
                    done += len(piece)
                    if done > limit:
                        raise self._too_long(limit)
                    digest.update(piece)
                    await sink.write(piece)
                    if progress is not None:
                        await progress(done, download.size)
                if download.size is not None and done != download.size:
                    raise StreamTruncated(f"the provider announced {download.size} bytes and sent {done}")
                where = await sink.commit()
            finally:
                await sink.aclose()
        return {
            **where,
            "bytes": done,
            "media_type": media_type,
            "filename": name,
            "sha256": digest.hexdigest(),
        }

    async def forget(self, kept: Mapping[str, Any]) -> None:
        """Delete a blob that was kept, where nobody will hear of it."""
        if kept["object"] == "blob":
            await self._blobs.delete(kept["id"])

    async def check(self, to: Any, *, param: str) -> None:
        """Whether something could be kept there, as far as one can say without trying: before it is asked for.

        Raises:
            InvalidRequest, Unsupported: as `keep`.
        """
        target = Destination.read(to, param)
        if target.kind == "url":
            storage.checked(target.field, self._settings.storage_roots)
        elif target.kind == "path":
            await self._threads.run(files.checked, target.field, self._settings.file_roots)

    async def aclose(self) -> None:
        """Close the connections. Called when nothing of it is in use."""
        if self._commit is not None:
            await self._commit.aclose()
        if self._opened_web is not None:
            await self._opened_web.aclose()
        await self._threads.aclose()
        await self._storage_threads.aclose()

    @property
    def _blobs(self) -> Blobs:
        if self._opened_blobs is None:
            self._commit = GroupCommit(self._redis, BLOBS, outage=self._outage)
            self._opened_blobs = Blobs(self._commit)
        return self._opened_blobs

    async def _find(self, wanted: Source, limit: int, stack: AsyncExitStack) -> Content:
        """The content of a source; what it needs while it is read is closed by the stack."""
        content: Content
        found_name, found_type = None, None
        match wanted.kind:
            case "blob":
                content = await InBlob.open(self._blobs, wanted.field)
            case "base64":
                content = contents.from_base64(wanted.field, limit)
            case "path":
                file = await self._threads.open(files.open_source, wanted.field, self._settings.file_roots)
                stack.callback(file.close)
                content = InFile(file, file.size, self._threads, wanted.field)
                found_name = wanted.field.string()
            case "url" if storage.is_storage(wanted.field.string()):
                threads = self._storage_threads
                place = await threads.run(Place, wanted.field, self._settings.storage_roots)
                content = InStorage(place, await threads.run(place.size), threads)
                found_name = place.path
            case "url" if wanted.field.string()[:5].lower() == "data:":
                content, found_type = contents.from_data_url(wanted.field, limit)
            case "url":
                file, found_name, found_type = await self._web.fetch(wanted.field, limit)
                stack.callback(file.close)
                content = InFile(file, file.size, self._threads, wanted.field)
        content.name, content.media_type = _about(wanted.filename, wanted.media_type, found_name, found_type)
        return content

    async def _sink(self, target: Destination, media_type: str) -> Sink:
        if target.kind == "path":
            file = await self._threads.open(files.FileSink, target.field, self._settings.file_roots)
            return PathSink(file, target.field.string(), self._threads)
        if target.kind == "url":
            threads = self._storage_threads
            place = await threads.run(Place, target.field, self._settings.storage_roots)
            return ObjectSink(await threads.open(StorageSink, place), place.url, threads)
        blob_id = None if target.field.value is True else target.field.string()
        return BlobSink(self._blobs, blob_id, self._settings.blob_ttl)

    @staticmethod
    def _too_long(limit: int) -> PayloadTooLarge:
        return PayloadTooLarge(f"what the provider sends is over {limit} bytes (`max_file_bytes`)")


def _about(
    given_name: str | None, given_type: str | None, found_name: str | None, found_type: str | None
) -> tuple[str, str]:
    """Name and MIME type: what the task says, else what was found, else what follows from the one for the other."""
    name = given_name or naming.file_name(found_name or "")
    media_type = given_type or naming.media_type(name, found_type)
    return (given_name or naming.with_suffix(name or "file", media_type)), media_type


async def _digest(content: Content) -> str:
    digest = sha256()
    async with aclosing(content.read()) as pieces:
        async for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()
