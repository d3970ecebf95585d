"""Asking the provider, and what it says, in the tests against a server on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from deltabus.provider import ChatRequest, Chunk, Completion, TaskError
from deltabus.testing.server import Reply, ScriptedServer, Signal
from deltabus_openai import OpenAIProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]


KEY = "key-0123456789abcdef"


BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


COMPLETION = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}


def text(content: str, finish: str | None = None) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


HELLO = Reply.sse(text("Hel"), text("lo"), text("", "stop"))


@asynccontextmanager
async def provider(server: ScriptedServer, **settings: Any) -> AsyncGenerator[OpenAIProvider, None]:
    made = OpenAIProvider("kit", {"base_url": server.url, "api_key": KEY, **settings})
    try:
        yield made
    finally:
        await made.aclose()


def request(*, stream: bool = True, **fields: Any) -> ChatRequest:
    body = {**BODY, "stream": stream, **fields.pop("body", {})}
    return ChatRequest(body=body, task="t", **fields)


def opened(made: OpenAIProvider, asked: ChatRequest | None = None) -> AsyncGenerator[Chunk | Completion, None]:
    return cast("AsyncGenerator[Chunk | Completion, None]", made.chat(asked or request()))


async def answer(made: OpenAIProvider, asked: ChatRequest | None = None) -> list[dict[str, Any]]:
    return [item.data async for item in made.chat(asked or request())]


async def failure(made: OpenAIProvider, asked: ChatRequest | None = None) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await answer(made, asked)
    return caught.value


async def soon(signal: Signal) -> None:
    async with asyncio.timeout(60):
        await signal.happened()
