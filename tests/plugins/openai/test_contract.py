"""The OpenAI provider passes the contract, like any other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deltabus.testing import Action, Case, ProviderContract, Reply, Request, ScriptedServer
from deltabus_openai import OpenAIProvider

TEXT = "every word, in order"
KEY = "sk-contract-0123456789"


def chunk(content: str | None = None, finish_reason: str | None = None) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def answer(request: Request) -> Reply:
    if request.method == "GET":
        return Reply.json({"object": "list", "data": [{"id": "m", "object": "model"}]})
    if request.json()["stream"]:
        words = [chunk(word) for word in ("every", " word,", " in", " order")]
        return Reply.sse(*words, chunk(finish_reason="stop"))
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Reply.json({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices})


def refusal(status: int, code: str | None = None) -> Reply:
    # Servers have been seen to quote what they were sent.
    error = {"message": f"not with the key {KEY}", "type": None, "param": None, "code": code}
    return Reply.json({"error": error}, status)


REFUSALS = {
    "authentication": refusal(401),
    "invalid_request": refusal(400),
    "not_found": refusal(404),
    "payload_too_large": refusal(413),
    "permission": refusal(403),
    "provider_protocol": Reply(body=[f"<html>welcome {KEY}</html>".encode()]),
    "provider_timeout": refusal(408),
    "provider_unavailable": refusal(503),
    "quota_exhausted": refusal(429, "insufficient_quota"),
    "rate_limited": refusal(429),
    "unsupported": refusal(501),
}


class TestOpenAI(ProviderContract):
    plugin = OpenAIProvider
    secret = KEY
    codes = tuple(REFUSALS)

    def settings(self, base_url: str = "http://127.0.0.1:1/v1") -> dict[str, Any]:
        return {"base_url": base_url, "api_key": KEY}

    @asynccontextmanager
    async def serving(self, reply: Any) -> AsyncIterator[Case]:
        with ScriptedServer(default=reply) as server:
            yield Case(
                provider=OpenAIProvider("kit", self.settings(f"{server.url}/v1")),
                request={"model": "m", "messages": [{"role": "user", "content": "hello"}]},
                text=TEXT,
                arrived=server.received(1).happened,
                # The request is there by then, not yet.
                closed=lambda: server.requests[0].closed.happened(),  # noqa: PLW0108
            )

    def answering(self):
        return self.serving(answer)

    def pausing(self):
        return self.serving(Reply.sse(chunk("every"), Action.HANG))

    def silent(self):
        return self.serving(Reply.raw(Action.HANG))

    def breaking_off(self):
        return self.serving(Reply.sse(chunk("every"), done=False))

    def failing(self, code):
        return self.serving(REFUSALS[code])
