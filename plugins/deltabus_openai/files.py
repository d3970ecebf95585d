"""`/files`: one request uploads a file, lists, reads or deletes; larger files go by `deltabus_openai.uploads`."""

from __future__ import annotations

import re
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

from deltabus.http import Client, Form
from deltabus.provider import (
    Download,
    FileRequest,
    InvalidRequest,
    NotFound,
    ProviderProtocol,
    Request,
    TaskError,
    Unsupported,
    UploadRequest,
)
from deltabus_openai import fileobject
from deltabus_openai.config import Config
from deltabus_openai.takeback import Takeback
from deltabus_openai.uploads import Uploads

#: LocalAI answers 500 where a file is not there.
_MISSING = re.compile(r"(?i)unable to find file|no such file|file (?:id )?not found|file does not exist")
#: LocalAI keeps one file of each name.
_TAKEN = re.compile(r"(?i)file already exists")


class Files:
    """The files of one endpoint."""

    def __init__(self, client: Client, config: Config) -> None:
        self._client = client
        self._config = config
        self._takeback = Takeback(client, config)
        self._uploads = Uploads(client, config, self._takeback)

    async def upload(self, request: UploadRequest) -> dict[str, Any]:
        """Upload a file, whole or in parts; what the endpoint then has is what was sent, or nothing."""
        self._check()
        content = request.content
        if content.size > self._config.max_upload_bytes:
            stored = await self._uploads.upload(request)
        else:
            stored = await self._at_once(request)
        if stored["bytes"] != content.size:
            await self._takeback.file(stored["id"], request)
            raise ProviderProtocol(
                f"the provider stored {stored['bytes']} bytes where {content.size} were sent; "
                "the file was deleted again",
                provider=self._client.name,
            )
        return stored

    async def list(self, request: Request) -> dict[str, Any]:
        """A page of the list."""
        self._check()
        asked = {key: value for key, value in request.body.items() if value is not None}
        query = {key: _text(value) for key, value in asked.items()}
        url = self._url("files", query)
        return await self._client.json("GET", url, request, read=lambda answer: fileobject.page(answer, asked))

    async def get(self, request: FileRequest) -> dict[str, Any]:
        """What the endpoint says of a file."""
        self._check()
        try:
            return await self._client.json(
                "GET", self._of(request), request, read=lambda answer: fileobject.of(answer, id=request.file_id)
            )
        except TaskError as exc:
            _raise_for(exc)

    async def content(self, request: FileRequest) -> Download:
        """A file's bytes, which nobody looks into: one that looks like an error is a file, too."""
        self._check()
        try:
            return await self._client.download("GET", self._of(request, "/content"), request)
        except TaskError as exc:
            _raise_for(exc)

    async def delete(self, request: FileRequest) -> dict[str, Any]:
        """Delete a file."""
        self._check()
        try:
            return await self._client.json(
                "DELETE", self._of(request), request, read=lambda answer: fileobject.deletion(answer, request.file_id)
            )
        except TaskError as exc:
            _raise_for(exc)

    async def aclose(self) -> None:
        """Give up what is still being taken back."""
        await self._takeback.aclose()

    async def _at_once(self, request: UploadRequest) -> dict[str, Any]:
        form = Form(request.body, "file", request.content)
        try:
            return await self._client.json(
                "POST",
                self._url("files"),
                request,
                form.body(),
                extra=form.headers,
                read=lambda answer: fileobject.uploaded(answer, request),
            )
        except TaskError as exc:
            if _TAKEN.search(exc.message):
                exc.message += "; this provider keeps one file of each name: delete it, or give another filename"
                exc.param = "request.filename"
            raise

    def _check(self) -> None:
        if not self._config.capabilities.files:
            raise Unsupported(
                "this provider has no files (capabilities.files is false in its table)", provider=self._client.name
            )

    def _url(self, path: str, query: dict[str, str] | None = None) -> httpx.URL:
        return self._config.endpoint.url(path, **(query or {}))

    def _of(self, request: FileRequest, rest: str = "") -> httpx.URL:
        return self._url(f"files/{path_of(request.file_id)}{rest}")


def path_of(file_id: str) -> str:
    """An id as part of a path.

    Raises:
        InvalidRequest: it would lead elsewhere.
    """
    if file_id.strip(" .") == "" or not file_id.isprintable():
        raise InvalidRequest("this is not the id of a file, such as file-abc123", param="request.file_id")
    return quote(file_id, safe="")


def _raise_for(error: TaskError) -> NoReturn:
    """Raise an error about one file, as what it means."""
    if isinstance(error, NotFound) or not _MISSING.search(error.message):
        raise error
    raise NotFound(
        error.message,
        status=error.status,
        provider=error.provider,
        request_id=error.request_id,
        param="request.file_id",
    ) from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
