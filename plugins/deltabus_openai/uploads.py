"""`/uploads`: a file in parts, several at a time (https://platform.openai.com/docs/api-reference/uploads)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

from deltabus.http import Client, Form
from deltabus.provider import NotFound, PayloadTooLarge, ProviderProtocol, Unsupported, UploadRequest
from deltabus_openai import fileobject
from deltabus_openai.config import Config
from deltabus_openai.takeback import Takeback

_T = TypeVar("_T")

#: Fields of an upload that belong to its end.
_AT_THE_END = ("md5",)


class Uploads:
    """Uploads in parts. Parts are streamed: none is held in memory."""

    def __init__(self, client: Client, config: Config, takeback: Takeback) -> None:
        self._client = client
        self._config = config
        self._takeback = takeback

    async def upload(self, request: UploadRequest) -> dict[str, Any]:
        """Upload a file; returns the file object. An upload that fails or is cancelled is cancelled there.

        Raises:
            TaskError: of the first request that failed.
        """
        upload_id = await self._begin(request)
        try:
            part_ids = await self._parts(upload_id, request)
            last = {key: request.body[key] for key in _AT_THE_END if key in request.body}
            return await self._complete(upload_id, {"part_ids": part_ids, **last}, request)
        except BaseException:
            await self._takeback.upload(upload_id, request)
            raise

    async def _begin(self, request: UploadRequest) -> str:
        content = request.content
        fields = {key: value for key, value in request.body.items() if value is not None and key not in _AT_THE_END}
        known = {"filename": content.name or "file", "bytes": content.size, "mime_type": content.media_type}
        try:
            return await self._ask("uploads", request, {**fields, **known}, read=_id_of)
        except (NotFound, Unsupported) as exc:
            raise PayloadTooLarge(
                f"the file has {content.size} bytes; this provider takes no uploads in parts, and at most "
                f"{self._config.max_upload_bytes} bytes at once (max_upload_bytes)",
                status=exc.status,
                provider=exc.provider,
                request_id=exc.request_id,
            ) from exc

    async def _parts(self, upload_id: str, request: UploadRequest) -> list[str]:
        """Send all parts; returns their ids in the order of the file."""
        size, step = request.content.size, self._config.upload_part_bytes
        free = asyncio.Semaphore(self._config.upload_parallel)

        async def send(start: int) -> str:
            async with free:
                # Of a part, the endpoint wants the bytes alone.
                form = Form({}, "data", request.content, filename="part", media_type="application/octet-stream")
                body = form.body(start, min(step, size - start))
                return await self._ask(f"{_path(upload_id)}/parts", request, body, form.headers, read=_id_of)

        try:
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(send(start)) for start in range(0, size, step)]
        except BaseExceptionGroup as exc:
            first = exc.exceptions[0]  # The others were cancelled for its sake.
        else:
            return [part.result() for part in parts]
        raise first

    async def _complete(self, upload_id: str, document: dict[str, Any], request: UploadRequest) -> dict[str, Any]:
        def read(answer: Any) -> dict[str, Any]:
            file = answer.get("file") if isinstance(answer, dict) else None
            if not isinstance(file, dict):
                raise ProviderProtocol("the provider completed an upload without saying which file it has become")
            return fileobject.uploaded(file, request)

        return await self._ask(f"{_path(upload_id)}/complete", request, document, read=read)

    async def _ask(
        self,
        path: str,
        request: UploadRequest,
        document: Any,
        headers: dict[str, str] | None = None,
        *,
        read: Callable[[Any], _T],
    ) -> _T:
        url = self._config.endpoint.url(path)
        answer: _T = await self._client.json("POST", url, request, document, extra=headers, read=read)
        return answer


def _path(upload_id: str) -> str:
    return f"uploads/{quote(upload_id, safe='')}"


def _id_of(answer: Any) -> str:
    found = answer.get("id") if isinstance(answer, dict) else None
    if not isinstance(found, str) or not found:
        raise ProviderProtocol("the provider answered to an upload without an id")
    return found
