"""The OpenAI provider passes the contract, like any other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from deltabus.testing import LOCALAI, OPENAI, ApiServer, Case, Fault, ProviderContract
from deltabus.testing.server import Action, Reply, Request, ScriptedServer
from deltabus_openai import OpenAIProvider

WORDS = ["every ", "word, ", "in ", "order"]
TEXT = "".join(WORDS)
SECRET = "contract-key-0123456789"

#: What makes each code: status, and the error's `code`.
REFUSALS: Mapping[str, tuple[int, str | None]] = {
    "invalid_request": (400, None),
    "authentication": (401, "invalid_api_key"),
    "permission": (403, None),
    "not_found": (404, "model_not_found"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "quota_exhausted": (429, "insufficient_quota"),
    "provider_unavailable": (503, None),
    "provider_timeout": (408, None),
    "provider_protocol": (302, None),
    "payload_too_large": (413, None),
    "unsupported": (501, None),
}


def chunk(content: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
LOGPROBS = {"content": [{"token": "a", "logprob": -1.5, "bytes": [97], "top_logprobs": []}], "refusal": None}
MESSAGE = {"role": "assistant", "content": TEXT, "refusal": None, "tool_calls": [CALL]}
CHOICE = {"index": 0, "message": MESSAGE, "logprobs": LOGPROBS, "finish_reason": "stop"}
WHOLE = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE}
STREAM = b"".join(
    b"data: %b\n\n" % json.dumps(document).encode()
    for document in (
        {**chunk("every "), "choices": [{"index": 0, "delta": MESSAGE, "logprobs": LOGPROBS, "finish_reason": None}]},
        chunk("", "stop"),
        {**chunk(""), "choices": [], "usage": USAGE},
    )
)


def answer(request: Request) -> Reply:
    if request.method == "GET":
        return Reply.json({"object": "list", "data": [{"id": "m"}]})
    if request.json()["stream"]:
        return Reply.sse(*map(chunk, WORDS), chunk("", "stop"))
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Reply.json({"id": "1", "object": "chat.completion", "choices": choices})


class TestOpenAI(ProviderContract):
    dialect = OPENAI
    plugin = OpenAIProvider
    secret = SECRET
    codes = tuple(REFUSALS)
    answers = (STREAM, json.dumps(WHOLE).encode())

    def settings(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:1", "api_key": SECRET, "timeouts": {"connect": 60}}

    @asynccontextmanager
    async def serving(self, default: Reply | Callable[[Request], Reply]) -> AsyncIterator[Case]:
        with ScriptedServer(default=default) as server:

            async def closed() -> None:
                await server.requests[0].closed.happened()

            yield Case(
                provider=OpenAIProvider("kit", {**self.settings(), "base_url": server.url}),
                request={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
                text=TEXT,
                arrived=server.received(1).happened,
                closed=closed,
            )

    def answering(self) -> Any:
        return self.serving(answer)

    def pausing(self) -> Any:
        return self.serving(Reply.sse(chunk("every "), Action.HANG))

    def silent(self) -> Any:
        return self.serving(Reply.raw(Action.HANG))

    def breaking_off(self) -> Any:
        return self.serving(Reply.sse(chunk("every "), done=False))

    def failing(self, code: str) -> Any:
        status, name = REFUSALS[code]
        error = {"message": f"no, {SECRET} is not welcome", "type": None, "param": None, "code": name}
        return self.serving(Reply.json({"error": error}, status))

    def garbage(self, body: Callable[[], bytes]) -> Any:
        return self.serving(lambda _: Reply(body=[body()]))

    @asynccontextmanager
    async def keeping(self) -> AsyncIterator[Case]:
        with ApiServer(self.dialect, api_key=SECRET) as server:
            yield self.with_files(server)

    @asynccontextmanager
    async def stalling(self) -> AsyncIterator[Case]:
        with ApiServer(self.dialect, api_key=SECRET) as server:
            server.fault(Fault.stall(after=100_000), on="POST /files")
            yield self.with_files(server)

    def with_files(self, server: ApiServer) -> Case:
        async def closed() -> None:
            await server.requests[0].lost.happened()

        return Case(
            provider=OpenAIProvider("kit", {**self.settings(), "base_url": server.url}),
            request={},
            arrived=server.received(1).happened,
            closed=closed,
            left=lambda: server.left,
        )


class TestLocalAI(TestOpenAI):
    """The same, where the server is LocalAI."""

    dialect = LOCALAI


class TestOpenAIInParts(TestOpenAI):
    """The same, where every upload of over 1 KiB goes in parts."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "max_upload_bytes": 1024, "upload_part_bytes": 300_000}

    @asynccontextmanager
    async def stalling(self) -> AsyncIterator[Case]:
        with ApiServer(self.dialect, api_key=SECRET) as server:
            parts = "POST /uploads/*/parts"
            server.fault(Fault.stall(after=100_000), on=parts, times=None)

            async def closed() -> None:
                await next(each for each in server.requests if each.operation.endswith("/parts")).lost.happened()

            yield replace(self.with_files(server), arrived=server.received(1, parts).happened, closed=closed)
