"""What servers that call themselves compatible send, as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Outcome = Any


Read = Callable[[bytes], Outcome]


DONE = b"data: [DONE]\n\n"


def chunk(delta: Any = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1763777777,
        "model": "m",
        "choices": [{"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}],
        **fields,
    }


def text(content: str) -> dict[str, Any]:
    return chunk({"content": content})


def sse(*documents: Any) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(document).encode() for document in documents)


STOP = chunk(finish="stop")


HELLO = sse(text("Hel"), text("lo"), STOP) + DONE


def call(name: str | None = None, arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {**fields, "function": function}


def calls(outcome: Outcome) -> list[tuple[str | None, str, str]]:
    return [
        (item.get("id"), item["function"]["name"], item["function"]["arguments"])
        for item in outcome.message["tool_calls"]
    ]


TWO = [("a", "now", "{}"), ("b", "add", '{"x":1}')]
