"""Ollama's own chat API for deltabus: https://github.com/ollama/ollama/blob/main/docs/api.md"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import msgspec
from deltabus.http import Client, Config, errors, shapes
from deltabus.provider import (
    Capabilities,
    ChatRequest,
    Chunk,
    Completion,
    Health,
    Provider,
    ProviderProtocol,
    Request,
    StreamTruncated,
)

#: Sampling parameters are `options` there, and one has another name.
OPTIONS = {"temperature": "temperature", "top_p": "top_p", "seed": "seed", "stop": "stop", "max_tokens": "num_predict"}


class OllamaProvider(Provider):
    capabilities = Capabilities(tools=False, logprobs=False, max_n=1, file_ids=False, strict_ranges=False)

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        config = Config.read(
            settings, base_url="http://localhost:11434", version="/api", capabilities=self.capabilities
        )
        self.capabilities = config.capabilities
        self._chat_url = config.endpoint.url("chat")
        self._models_url = config.endpoint.url("tags")
        self._client = Client(name, config)

    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        return self._client.chat(request, lambda body: (self._chat_url, translated(body)), Decoder(request.stream))

    async def models(self, request: Request) -> dict[str, Any]:
        return await self._client.models(self._models_url, request, models)

    async def check(self) -> Health:
        return await self._client.check(self._models_url, models)

    async def aclose(self) -> None:
        await self._client.aclose()


def translated(body: dict[str, Any]) -> dict[str, Any]:
    """A chat request in Ollama's words; parameters that are not OpenAI's (`think`, `keep_alive`) go as they are."""
    shapes.refuse(body, {"response_format": "use `format`"})
    options = {theirs: body[ours] for ours, theirs in OPTIONS.items() if body.get(ours) is not None}
    messages = [{"role": message["role"], "content": message["content"]} for message in body["messages"]]
    native = shapes.native(body, "model")
    return {**native, "stream": bool(body.get("stream")), "messages": messages, "options": options}


def models(listed: Any) -> list[dict[str, Any]] | None:
    """The models in the answer to `/api/tags`."""
    return shapes.models(listed, "models", "ollama", id=lambda model: str(model.get("name")))


class Message(msgspec.Struct):
    content: str = ""
    thinking: str = ""


class Line(msgspec.Struct):
    """One line of a streamed answer, or all of one that is not streamed."""

    model: str = ""
    message: Message = msgspec.field(default_factory=Message)
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int = 0
    eval_count: int = 0


class Decoder:
    """Makes chunks of the body's bytes. They may come cut anywhere."""

    #: Whether the connection may break without loss, although the answer has not ended.
    settled = False

    def __init__(self, stream: bool) -> None:
        #: Whether the answer has ended.
        self.done = False
        self._stream = stream
        self._rest = b""
        self._head: dict[str, Any] = {}

    def feed(self, data: bytes) -> Iterator[Chunk | Completion]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in filter(None, lines):
            yield self._item(line)

    def finish(self) -> Iterator[Chunk | Completion]:
        if not self.done and self._rest:
            yield self._item(self._rest)
        if not self.done:
            raise StreamTruncated("the answer ended without `done`")

    def _item(self, data: bytes) -> Chunk | Completion:
        try:
            document = msgspec.json.decode(data)
            if (error := errors.find(document)) is not None:
                raise errors.from_body(error)
            line = msgspec.convert(document, Line)
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise ProviderProtocol("this is not how Ollama answers: check base_url") from exc
        self.done = line.done
        self._head = self._head or shapes.head("", line.model)
        delta = {"role": "assistant", "content": line.message.content}
        if line.message.thinking:
            delta["reasoning_content"] = line.message.thinking
        chunk = shapes.chunk(self._head, delta, (line.done_reason or "stop") if line.done else None)
        if line.done:
            chunk = Chunk.of({**chunk.data, "usage": shapes.usage(line.prompt_eval_count, line.eval_count)})
        return chunk if self._stream else shapes.completion([chunk])
