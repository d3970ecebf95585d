"""What a bus offers besides chat: a method for each of the provider's other functions."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from deltabus.blobs import Data
from deltabus.handle import AsyncTask
from deltabus.keys import FILE_QUEUE

#: Fields of the envelope; what else a method is given is a parameter of the API.
_OPTIONS: Final = (
    "provider",
    "deadline",
    "timeout",
    "retry",
    "reply_to",
    "tenant",
    "headers",
    "metadata",
    "trace",
    "tracestate",
)

#: Where the bytes are: a path here, bytes or what yields them, a URL that the worker reads, or a source as the
#: protocol has it.
Source: TypeAlias = "Data | Mapping[str, Any]"


class Functions(ABC):
    """The part of `AsyncBus` that knows these functions.

    All methods return the task at once. Besides what they name, they take `queue`, `task_id` and the options
    of `AsyncBus.chat` (`provider`, `deadline`, `timeout`, `retry`, `reply_to`, `tenant`, `headers`, `metadata`,
    `trace`, `tracestate`); any other argument is a further parameter of the API call. They raise as `AsyncBus.chat`
    does.
    """

    @abstractmethod
    async def enqueue(
        self,
        function: str,
        envelope: Mapping[str, Any],
        *,
        queue: str | None = None,
        task_id: str | None = None,
        result_ttl: int | None = None,
        job_timeout: int | None = None,
    ) -> AsyncTask: ...

    @abstractmethod
    async def blob(self, data: Data, /, *, ttl: int | None = None) -> str: ...

    async def upload(
        self,
        source: Source,
        /,
        *,
        purpose: str = "user_data",
        filename: str | None = None,
        media_type: str | None = None,
        expires_after: int | None = None,
        **more: Any,
    ) -> AsyncTask:
        """Upload a file to the provider; the result is its `file` object.

        Args:
            source: a path here, bytes, an open file or what else yields bytes: they are put into Redis first, piece by
                piece, and stay there for `blob_ttl`; a URL that the worker reads; or a mapping: `{"url": …}`,
                `{"path": …}` on the worker's side, `{"base64": …}`, `{"blob": …}`.
            purpose: what the provider is to use it for.
            filename: by default the source's own.
            media_type: by default what the source or the name says.
            expires_after: seconds after which the provider deletes it.

        Raises:
            OSError: there is no such file here, or it cannot be read.
        """
        found, filename = await self._source(source, filename)
        expires = None if expires_after is None else {"anchor": "created_at", "seconds": expires_after}
        body = {"source": found, "filename": filename, "media_type": media_type, "purpose": purpose}
        return await self._file("upload", {**body, "expires_after": expires}, more)

    async def files(
        self,
        /,
        *,
        purpose: str | None = None,
        limit: int | None = None,
        order: str | None = None,
        after: str | None = None,
        **more: Any,
    ) -> AsyncTask:
        """A page of the provider's files.

        Args:
            purpose: those for this alone.
            limit: of the page, 1 to 10000.
            order: `asc` or `desc`, by the time at which they were made.
            after: id of the last file of the page before.
        """
        return await self._file("list", {"purpose": purpose, "limit": limit, "order": order, "after": after}, more)

    async def file(self, file_id: str, /, **more: Any) -> AsyncTask:
        """What the provider says of a file."""
        return await self._file("get", {"file_id": file_id}, more)

    async def download(self, file_id: str, /, *, to: Mapping[str, Any] | None = None, **more: Any) -> AsyncTask:
        """The bytes of a file, kept where the result says.

        Args:
            to: by default a blob, for `read_blob(result["id"])`; or `{"url": "s3://…"}`, or `{"path": …}` on the
                worker's side.
        """
        return await self._file("content", {"file_id": file_id, "to": to}, more)

    async def delete_file(self, file_id: str, /, **more: Any) -> AsyncTask:
        """Delete a file at the provider."""
        return await self._file("delete", {"file_id": file_id}, more)

    async def embeddings(self, input: str | Sequence[Any], /, *, model: str | None = None, **more: Any) -> AsyncTask:
        """Vectors of a text, of several, or of tokens."""
        return await self._call("embeddings", {"model": model, "input": input}, more)

    async def models(self, /, **more: Any) -> AsyncTask:
        """The models that a provider has."""
        return await self._call("models", {}, more)

    async def speech(
        self,
        input: str,
        /,
        *,
        voice: str,
        model: str | None = None,
        to: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> AsyncTask:
        """A text, spoken; the bytes are kept as for `download`."""
        return await self._call("speech", {"model": model, "input": input, "voice": voice, "to": to}, more)

    async def transcription(
        self,
        source: Source,
        /,
        *,
        model: str | None = None,
        filename: str | None = None,
        media_type: str | None = None,
        **more: Any,
    ) -> AsyncTask:
        """Speech, as text. `source`, `filename` and `media_type` are as for `upload`."""
        found, filename = await self._source(source, filename)
        body = {"source": found, "filename": filename, "media_type": media_type, "model": model}
        return await self._call("transcription", body, more)

    async def images(self, prompt: str, /, *, model: str | None = None, **more: Any) -> AsyncTask:
        """Pictures after a description: each a `url`, or a `blob` for `read_blob(picture["blob"]["id"])`."""
        return await self._call("images", {"model": model, "prompt": prompt}, more)

    async def _source(self, source: Source, filename: str | None) -> tuple[Mapping[str, Any], str | None]:
        if isinstance(source, Mapping):
            return source, filename
        if isinstance(source, str) and "://" in source:
            return {"url": source}, filename
        # A path says what it is called, and so does an open file.
        path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
        name = Path(path).name if isinstance(path, str | os.PathLike) else None
        return {"blob": await self.blob(source)}, filename or name

    async def _file(self, operation: str, body: Mapping[str, Any], more: dict[str, Any]) -> AsyncTask:
        return await self._call("file", {"operation": operation, **body}, {"queue": FILE_QUEUE, **_given(more)})

    async def _call(self, function: str, body: Mapping[str, Any], more: dict[str, Any]) -> AsyncTask:
        more = _given(more)
        queue, task_id = more.pop("queue", None), more.pop("task_id", None)
        options: dict[str, Any] = {key: more.pop(key) for key in _OPTIONS if key in more}
        envelope = options | {"request": {**_given(body), **more}}
        return await self.enqueue(f"deltabus.tasks.{function}", envelope, queue=queue, task_id=task_id)


def _given(items: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in items.items() if value is not None}
