"""Workers whose provider is a scripted server, and what that says."""

from __future__ import annotations

from typing import Any, Final

from processes import PATIENCE

from deltabus import Task
from deltabus.testing import Reply, ScriptedServer

#: Settings of a worker whose heart does not beat while a test runs: what it finds, it finds without that.
STILL: Final = {"DELTABUS_HEARTBEAT_INTERVAL": "60", "DELTABUS_LEASE": "200"}


def speaks_to(server: ScriptedServer) -> dict[str, str]:
    """Settings of a worker that has this provider."""
    return {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "no-secret"}


def says(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    """A chunk of an answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


#: A whole answer.
HELLO: Final = Reply.sse(says("Hel"), says("lo", "stop"))


def limited(**headers: str) -> Reply:
    """A 429 with these headers."""
    error = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded", "param": None}}
    return Reply.json(error, 429, {name.replace("_", "-"): value for name, value in headers.items()})


def text(task: Task) -> str:
    """What the task has answered, waited for."""
    return str(task.result(PATIENCE)["choices"][0]["message"]["content"])
