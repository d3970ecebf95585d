"""Files that tasks put at a provider for the length of one attempt, and how they go again, whatever dies.

Before a file is uploaded, a tag is noted in Redis that its name has there, and no other; after that, its id. So
nothing is forgotten: whoever comes later deletes what was noted, by its id, or, where the worker died before it knew
one, by the tag.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import PurePath
from typing import Any, Final

import msgspec
import structlog
from redis.asyncio import Redis

from deltabus import keys
from deltabus.commit import GroupCommit, pack, pack_command
from deltabus.errors import NotFound, ProviderProtocol, TaskError, Unsupported
from deltabus.files import LONGEST_NAME
from deltabus.provider import Content, FileRequest, Provider, Request, UploadRequest
from deltabus.registry import Registry
from deltabus.scripts import LOOK

log = structlog.get_logger("deltabus.files")

#: Seconds that may be spent at the end of an attempt to delete its files. What is left then is deleted later.
DELETE_TIMEOUT: Final = 10.0

#: Bytes that the suffix of a name may have to be kept.
LONGEST_SUFFIX: Final = 32

#: Tasks that one sweep looks at.
SWEEP: Final = 100

#: Pages of a provider's list in which a file is looked for by name, and files a page.
PAGES: Final = 10
PAGE: Final = 100


class _Note(msgspec.Struct, frozen=True):
    """Where a file is."""

    provider: str
    #: None: nobody knows whether the upload was carried out.
    id: str | None = None


class TemporaryFiles:
    """The temporary files of all tasks; one for a process."""

    def __init__(self, redis: Redis, registry: Registry) -> None:
        self._registry = registry
        # Waits for Redis where it is away: an upload that is not noted must not be made.
        self._commit = GroupCommit(redis, [LOOK])
        #: Tasks that the next sweep passes over: those before could not be cleared.
        self._passed = 0

    async def upload(self, provider: str, request: UploadRequest) -> str:
        """Upload a file that goes with the task; its id.

        Args:
            provider: name of the provider. The file gets a name there that no other file has.

        Raises:
            TaskError: what the provider raises. What it may have kept all the same goes with `delete`.
        """
        content = _Renamed(request.content)
        await self._write(request.task, content.tag, _Note(provider))
        file = await self._registry.resolve(provider, None).upload(replace(request, content=content))
        if not isinstance(file_id := file.get("id"), str):
            raise ProviderProtocol("it does not say under which id it keeps the file")
        await self._write(request.task, content.tag, _Note(provider, file_id))
        return file_id

    async def delete(self, task: str) -> bool:
        """Delete what the task has uploaded, in this attempt or an earlier one; whether all of it is gone.

        What cannot be deleted now stays noted, for `sweep`.
        """
        noted = await self._call(b"HGETALL", keys.files(task))
        files = dict(zip(noted[::2], noted[1::2], strict=True))
        gone = await asyncio.gather(*(self._delete(task, tag.decode(), note) for tag, note in files.items()))
        if all(gone):
            await self._call(b"ZREM", keys.FILES, task)
        return all(gone)

    async def sweep(self) -> None:
        """Delete what tasks have left that are over."""
        await self._call(b"ZREMRANGEBYSCORE", keys.FILES, "-inf", _now(-keys.FILES_TTL))
        found = await self._call(b"ZRANGE", keys.FILES, self._passed, self._passed + SWEEP - 1)
        # What cannot be cleared, perhaps for a week, does not keep what comes after it from being so.
        self._passed = self._passed + len(found) if len(found) == SWEEP else 0
        for task in found:
            state = await self._commit.call(pack(LOOK, [keys.log(task.decode()).encode()], []))
            if state != b"open" and await self.delete(task.decode()):
                self._passed = max(0, self._passed - 1)

    async def aclose(self) -> None:
        """Close what it has of its own."""
        await self._commit.aclose()

    async def _write(self, task: str, tag: str, note: _Note) -> None:
        # The index first: an entry of it that leads nowhere is harmless.
        await self._call(b"ZADD", keys.FILES, _now(), task)
        await self._call(b"HSET", keys.files(task), tag, msgspec.json.encode(note))
        await self._call(b"EXPIRE", keys.files(task), keys.FILES_TTL)

    async def _call(self, *command: bytes | str | int) -> Any:
        return await self._commit.call(pack_command(*command))

    async def _delete(self, task: str, tag: str, noted: bytes) -> bool:
        try:
            note = msgspec.json.decode(noted, type=_Note)
            provider = self._registry.resolve(note.provider, None)
            async with asyncio.timeout(DELETE_TIMEOUT):
                file_id = note.id if note.id is not None else await _find(provider, task, tag)
                if file_id is not None:
                    with contextlib.suppress(NotFound):
                        await provider.delete(FileRequest(task=task, file_id=file_id))
        except (TaskError, TimeoutError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            code = exc.code if isinstance(exc, TaskError) else type(exc).__name__
            log.warning("a temporary file is left at the provider; it is tried again", task=task, code=code)
            return False
        await self._call(b"HDEL", keys.files(task), tag)
        return True


def _now(seconds: float = 0.0) -> str:
    return str(time.time() + seconds)


async def _find(provider: Provider, task: str, tag: str) -> str | None:
    """The id of the file that has this in its name, if the provider has it; the newest files are looked at.

    Of the name as a whole nothing is known: providers escape and shorten names as they like.
    """
    after: str | None = None
    for _ in range(PAGES):
        body = {"limit": PAGE, "order": "desc"} | ({"after": after} if after else {})
        try:
            page = await provider.files(Request(task=task, body=body))
        except Unsupported:
            return None
        found = [file for file in page.get("data", ()) if isinstance(file, dict)]
        for file in found:
            if tag in str(file.get("filename")):
                return str(file.get("id"))
        if not page.get("has_more") or not found:
            return None
        after = str(found[-1].get("id"))
    return None


class _Renamed(Content):
    """The same under a name that no other file has."""

    def __init__(self, content: Content) -> None:
        #: Stands in the name, and in no other.
        self.tag = secrets.token_hex(8)
        suffix = PurePath(content.name).suffix
        if len(suffix.encode()) > LONGEST_SUFFIX:
            suffix = ""
        room = LONGEST_NAME - len(f"-{self.tag}{suffix}".encode())
        stem = content.name.removesuffix(suffix).encode()[:room].decode(errors="ignore")
        self.name = f"{stem}-{self.tag}{suffix}"
        self.media_type = content.media_type
        self.size = content.size
        self._content = content

    def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        return self._content.read(start, length)
