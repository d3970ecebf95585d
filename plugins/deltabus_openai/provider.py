"""OpenAI, and every server that speaks its API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from deltabus.http import Client
from deltabus.provider import ChatRequest, Chunk, Completion, Health, Provider
from deltabus_openai import config, wire


class OpenAIProvider(Provider):
    """One endpoint. Its settings are in `deltabus_openai.config`; what holds of it, in `deltabus.provider.Provider`."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._config = config.read(settings)
        self.capabilities = self._config.capabilities
        self._chat_url = self._config.endpoint.url("chat/completions")
        self._models_url = self._config.endpoint.url("models")
        self._client = Client(name, self._config, self._config.account)

    def __repr__(self) -> str:
        return f"OpenAIProvider({self._name!r}, base_url={self._config.endpoint.root!r})"

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        decoder = wire.AnswerDecoder(self._config.max_answer_bytes, choices=request.body.get("n") or 1)
        return self._client.chat(request, lambda body: (self._chat_url, body), decoder)

    async def check(self) -> Health:
        return await self._client.check(self._models_url, wire.model_names)

    async def aclose(self) -> None:
        await self._client.aclose()
