"""OpenAI, and every server that speaks its API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from deltabus.http import Client
from deltabus.provider import (
    Capabilities,
    ChatRequest,
    Chunk,
    Completion,
    Download,
    FileRequest,
    Health,
    Provider,
    Request,
    UploadRequest,
)
from deltabus_openai import config, wire
from deltabus_openai.files import Files
from deltabus_openai.media import Media


class OpenAIProvider(Provider):
    """One endpoint. Its settings are in `deltabus_openai.config`; what holds of it, in `deltabus.provider.Provider`."""

    capabilities: Capabilities = config.CAPABILITIES

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._config = config.read(settings)
        self.capabilities = self._config.capabilities
        self._chat_url = self._config.endpoint.url("chat/completions")
        self._models_url = self._config.endpoint.url("models")
        self._client = Client(name, self._config, self._config.account)
        self._files = Files(self._client, self._config)
        self._media = Media(self._client, self._config)

    def __repr__(self) -> str:
        return f"OpenAIProvider({self._name!r}, base_url={self._config.endpoint.root!r})"

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        decoder = wire.AnswerDecoder(self._config.max_answer_bytes, choices=request.body.get("n") or 1)
        return self._client.chat(request, lambda body: (self._chat_url, body), decoder)

    async def upload(self, request: UploadRequest) -> dict[str, Any]:
        return await self._files.upload(request)

    async def files(self, request: Request) -> dict[str, Any]:
        return await self._files.list(request)

    async def file(self, request: FileRequest) -> dict[str, Any]:
        return await self._files.get(request)

    async def content(self, request: FileRequest) -> Download:
        return await self._files.content(request)

    async def delete(self, request: FileRequest) -> dict[str, Any]:
        return await self._files.delete(request)

    async def embeddings(self, request: Request) -> dict[str, Any]:
        return await self._media.embeddings(request)

    async def models(self, request: Request) -> dict[str, Any]:
        return await self._media.models(request)

    async def speech(self, request: Request) -> Download:
        return await self._media.speech(request)

    async def transcription(self, request: UploadRequest) -> dict[str, Any]:
        return await self._media.transcription(request)

    async def images(self, request: Request) -> dict[str, Any]:
        return await self._media.images(request)

    async def check(self) -> Health:
        return await self._client.check(self._models_url, wire.models)

    async def aclose(self) -> None:
        await self._files.aclose()
        await self._client.aclose()
