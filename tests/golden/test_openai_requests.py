"""What the OpenAI plugin sends, byte for byte: path, headers and body of representative requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from deltabus.provider import ChatRequest
from deltabus.testing.server import Reply, Request, ScriptedServer
from deltabus_openai import OpenAIProvider

COMPLETION = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
HI = [{"role": "user", "content": "na\u00efve \u65e5\u672c \U0001f642\u2028\n"}]
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]

#: What the request is about, the settings beside `base_url` (with what follows the server's address), the request.
CASES: list[tuple[str, str, dict[str, Any], ChatRequest]] = [
    (
        "a stream, to OpenAI",
        "/v1",
        {"api_key": "sk-golden", "organization": "org-1", "project": "proj_1"},
        ChatRequest(
            body={"model": "gpt-4o", "messages": HI, "stream": True, "stream_options": {"include_usage": True}},
            headers={"X-Ticket": "42"},
        ),
    ),
    (
        "a completion, from a server without keys",
        "",
        {},
        ChatRequest(body={"messages": HI, "model": "llama3", "temperature": 0.5, "tools": TOOLS, "x_unknown": [None]}),
    ),
    (
        "a stream, to Azure",
        "/openai/deployments/gpt-4o/?api-version=2024-10-21",
        {"api_key": "azure-golden", "auth_header": "api-key"},
        ChatRequest(body={"model": "gpt-4o", "messages": HI, "stream": True}),
    ),
    (
        "a stream with what the settings add",
        "/api/v1/",
        {
            "api_key": "sk-golden",
            "headers": {"HTTP-Referer": "https://app.example", "X-Title": "App"},
            "query": {"debug": "a b"},
            "model": "standard",
            "params": {"temperature": 0, "stream_options": {"include_usage": True}},
            "force_params": {"store": False},
        },
        ChatRequest(
            body={"messages": HI, "stream": True, "temperature": 1, "store": True}, headers={"x-title": "Not mine"}
        ),
    ),
]


def ask(path: str, settings: dict[str, Any], request: ChatRequest | None) -> Request:
    async def main(base_url: str) -> None:
        provider = OpenAIProvider("golden", {"base_url": base_url, "proxy": "", **settings})
        try:
            if request is None:
                await provider.check()
            else:
                _ = [item async for item in provider.chat(request)]
        finally:
            await provider.aclose()

    with ScriptedServer(default=Reply.json(COMPLETION)) as server:
        asyncio.run(main(server.url + path))
        [seen] = server.requests
    return seen


def written(title: str, seen: Request) -> bytes:
    headers = "".join(f"{name}: {value}\n" for name, value in seen.headers.items())
    headers = re.sub(r"(?m)^(host: 127\.0\.0\.1):\d+$|^(user-agent: deltabus)/.*$", r"\1\2", headers)
    return f"=== {title}\n{seen.method} {seen.target}\n{headers}\n".encode() + seen.body + b"\n\n"


def test_requests_are_written_as_they_always_were(golden: Callable[[str, bytes], None]) -> None:
    seen = [written(title, ask(path, settings, request)) for title, path, settings, request in CASES]
    seen.append(written("a check", ask("/v1", {"api_key": "sk-golden"}, None)))
    golden("openai-requests.txt", b"".join(seen))
