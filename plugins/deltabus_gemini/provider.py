"""Google's Gemini API. The settings are those of `deltabus.http.config`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import httpx

from deltabus.http import Client, Config
from deltabus.http.body import merge
from deltabus.provider import Capabilities, ChatRequest, Chunk, Completion, ConfigError, Health, Provider, Request
from deltabus_gemini import wire

CAPABILITIES = Capabilities(logprobs=False, max_n=8, message_names=False, file_ids=False, strict_ranges=False)


class GeminiProvider(Provider):
    """One endpoint: `base_url` is https://generativelanguage.googleapis.com/v1beta where it is not set.

    Vertex AI's is `https://<location>-aiplatform.googleapis.com/v1/projects/…/locations/…/publishers/google`.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        config = Config.read(
            settings,
            base_url="https://generativelanguage.googleapis.com",
            version="/v1beta",
            operations=("/models",),
            auth_header="x-goog-api-key",
            capabilities=CAPABILITIES,
        )
        keyed = config.has_credentials or "key" in config.endpoint.query
        if config.endpoint.host == "generativelanguage.googleapis.com" and not keyed:
            raise ConfigError('api_key is missing: api_key = "${GEMINI_API_KEY}"')
        self._name = name
        self._config = config
        self.capabilities = config.capabilities
        self._models_url = config.endpoint.url("models", pageSize="1000")
        self._client = Client(name, config)

    def __repr__(self) -> str:
        return f"GeminiProvider({self._name!r}, base_url={self._config.endpoint.root!r})"

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        def prepare(body: dict[str, Any]) -> tuple[httpx.URL, dict[str, Any]]:
            # The model and the form of the answer are in the address.
            method, query = ("streamGenerateContent", {"alt": "sse"}) if body.get("stream") else ("generateContent", {})
            return self._config.endpoint.url(f"{wire.path(body['model'])}:{method}", **query), wire.request(body)

        decoder = wire.AnswerDecoder(self._config.max_answer_bytes, request.body.get("n") or 1)
        return self._client.chat(request, prepare, decoder)

    async def embeddings(self, request: Request) -> dict[str, Any]:
        body = merge(request.body)
        url = self._config.endpoint.url(f"{wire.path(body['model'])}:batchEmbedContents")
        document = wire.embedding_requests(body)
        made: dict[str, Any] = await self._client.json(
            "POST", url, request, document, read=partial(wire.embeddings, body)
        )
        return made

    async def models(self, request: Request) -> dict[str, Any]:
        return await self._client.models(self._models_url, request, wire.models)

    async def check(self) -> Health:
        return await self._client.check(self._models_url, wire.models)

    async def aclose(self) -> None:
        await self._client.aclose()
