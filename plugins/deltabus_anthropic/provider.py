"""Anthropic's Messages API. The settings are those of `deltabus.http.config`."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any

from deltabus.http import Client, Config
from deltabus.provider import Capabilities, ChatRequest, Chunk, Completion, ConfigError, Health, Provider, Request
from deltabus_anthropic import wire

#: https://platform.claude.com/docs/en/api/versioning; `headers` in the settings may name another.
VERSION = "2023-06-01"
CAPABILITIES = Capabilities(
    logprobs=False,
    max_n=1,
    message_names=False,
    file_ids=False,
    strict_ranges=False,
    tool_call_id_pattern="[A-Za-z0-9_-]+",
)


class AnthropicProvider(Provider):
    """One endpoint: `base_url` is https://api.anthropic.com, with or without `/v1`, where it is not set."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        config = Config.read(
            settings,
            base_url="https://api.anthropic.com",
            operations=("/messages", "/models"),
            auth_header="x-api-key",
            capabilities=CAPABILITIES,
        )
        if config.endpoint.host == "api.anthropic.com" and not config.has_credentials:
            raise ConfigError('api_key is missing: api_key = "${ANTHROPIC_API_KEY}"')
        if not config.endpoint.versioned:  # The root of a gateway, as Anthropic's own SDKs want it.
            root = f"{config.endpoint.root}/v1"
            config = dataclasses.replace(config, endpoint=dataclasses.replace(config.endpoint, root=root))
        self._name = name
        self._config = config
        self.capabilities = config.capabilities
        self._models_url = config.endpoint.url("models", limit="1000")
        self._client = Client(name, config, {"anthropic-version": VERSION})

    def __repr__(self) -> str:
        return f"AnthropicProvider({self._name!r}, base_url={self._config.endpoint.root!r})"

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        url = self._config.endpoint.url("messages")
        decoder = wire.AnswerDecoder(self._config.max_answer_bytes)
        return self._client.chat(request, lambda body: (url, wire.request(body)), decoder)

    async def models(self, request: Request) -> dict[str, Any]:
        return await self._client.models(self._models_url, request, wire.models)

    async def check(self) -> Health:
        return await self._client.check(self._models_url, wire.models)

    async def aclose(self) -> None:
        await self._client.aclose()
