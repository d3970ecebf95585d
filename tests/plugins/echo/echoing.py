"""Asking the echo provider."""

from __future__ import annotations

from deltabus.provider import (
    ChatRequest,
    Chunk,
    Completion,
    TaskError,
)
from deltabus_echo import EchoProvider

HELLO = [{"role": "user", "content": "hello big bus"}]


def request(*, stream: bool = True, attempt: int = 1, task: str = "t1", **fields) -> ChatRequest:
    body = {"model": "m", "messages": HELLO, "stream": stream, **fields}
    return ChatRequest(body=body, task=task, attempt=attempt)


async def read(request: ChatRequest, **settings) -> tuple[list[Chunk | Completion], BaseException | None]:
    """What is yielded, and the error at the end."""
    items: list[Chunk | Completion] = []
    try:
        async for item in EchoProvider("echo", settings).chat(request):
            items.append(item)  # noqa: PERF401  What came before an error is kept.
    except (TaskError, RuntimeError) as exc:
        return items, exc
    return items, None


def deltas(items: list[Chunk]) -> list[dict]:
    return [choice["delta"] for item in items for choice in item.data["choices"]]
