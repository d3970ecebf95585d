"""One task that has to be tried three times, by a producer process and a worker process that both make traces."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deltabus.embedded import EmbeddedRedis
from deltabus.testing.server import Action, Reply, Request, ScriptedServer
from tracetree.receiver import Receiver, Span

#: Seconds that each process may take.
PATIENCE: Final = 60.0

#: What must be in no span.
PROMPT: Final = "Why is the sky blue?"
ANSWER: Final = "Because of Rayleigh scattering."
KEY: Final = "sk-nobody-sees-this"

CONFIG: Final = f"""
traces = "on"
retry_delay = 0.01

[providers.main]
plugin = "openai"
base_url = "{{url}}"
api_key = "{KEY}"
propagate_trace = true
"""

ENVELOPE: Final = {
    "request": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}], "stream": True},
    "tenant": "acme",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    spans: Sequence[Span]
    #: What the provider was asked.
    requests: Sequence[Request]


def play() -> Outcome:
    """A rate limit, a connection that breaks in the middle of the answer, an answer.

    Raises:
        CalledProcessError: a process failed; what it said is on standard error.
    """
    with (
        EmbeddedRedis() as redis,
        ScriptedServer(*_replies()) as provider,
        Receiver() as receiver,
        tempfile.TemporaryDirectory() as folder,
    ):
        Path(folder, "deltabus.toml").write_text(CONFIG.format(url=provider.url), encoding="utf-8")
        environ = {
            **_without_own_settings(os.environ),
            "DELTABUS_REDIS_URL": redis.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        }
        for words in (["enqueue", "deltabus.tasks.chat", json.dumps(ENVELOPE)], ["worker", "chat", "--burst"]):
            command = [sys.executable, "-P", "-m", "deltabus.cli", *words]
            done = subprocess.run(  # noqa: S603 # our own command line
                command, cwd=folder, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            if done.returncode:
                print(done.stdout, done.stderr, file=sys.stderr)
                done.check_returncode()
        return Outcome(receiver.spans, list(provider.requests))


def _replies() -> list[Reply]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {**_HEAD, "choices": [choice]}

    usage = {**_HEAD, "choices": [], "usage": {"prompt_tokens": 13, "completion_tokens": 7, "total_tokens": 20}}
    first, whole = chunk({"role": "assistant", "content": "Because"}), chunk({"role": "assistant", "content": ANSWER})
    return [
        Reply.json({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429, {"retry-after-ms": "5"}),
        Reply.sse(first, Action.CLOSE, done=False),
        Reply.sse(whole, chunk({}, "stop"), usage),
    ]


_HEAD: Final = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini-2024-07-18"}


def _without_own_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what this machine's user has configured."""
    others = "DELTABUS_|OTEL_|OPENAI_|ANTHROPIC_|GEMINI_|GOOGLE_|REDIS_|RQ_"
    return {name: value for name, value in environ.items() if not re.match(others, name)}
