"""A worker that is watched: a real process with metrics on, a provider that does as it is asked, and what is seen."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

from processes import DELTABUS, PATIENCE, Background, environ, free_port, patient
from prometheus_client.parser import text_string_to_metric_families
from rq import Queue
from rq.job import Job

from deltabus.testing.server import Reply, Request, ScriptedServer

#: What nobody may see in a log.
PROMPT, ANSWER, KEY = "the-marker-of-a-prompt", "the-marker-of-an-answer", "sk-the-marker-of-a-key"

CONFIG = f"""
[providers.main]
plugin = "openai"
base_url = "{{url}}"
api_key = "{KEY}"

[providers.echo]
models = []
"""


class Page(NamedTuple):
    """An answer."""

    status: int
    type: str
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def fetch(port: int, path: str, method: str = "GET", **headers: str) -> Page:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return Page(answer.status, answer.headers["Content-Type"], answer.read().decode())
    except urllib.error.HTTPError as exc:
        with exc:
            return Page(exc.code, exc.headers["Content-Type"], exc.read().decode())


class Observed:
    """A context manager; `redis_url` is of a server with nothing in it."""

    def __init__(self, redis_url: str, folder: Path, *options: str, **variables: str) -> None:
        self.redis = patient(redis_url)
        self.port = free_port()
        self._stack = ExitStack()
        self.provider = self._stack.enter_context(ScriptedServer(default=_answer))
        (folder / "deltabus.toml").write_text(CONFIG.format(url=self.provider.url), encoding="utf-8")
        command = [*DELTABUS, "worker", "chat", "--metrics-port", str(self.port), *options]
        self._command = command, folder, environ(redis_url, **variables)

    def __enter__(self) -> Self:
        command, folder, variables = self._command
        self.worker = self._stack.enter_context(Background(command, folder=folder, environ=variables))
        self.worker.wait_for("serving /metrics")
        self.until(lambda: self.get("/readyz").status == 200)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(None, None, None)
        self.redis.close()

    def get(self, path: str, method: str = "GET", **headers: str) -> Page:
        return fetch(self.port, path, method, **headers)

    def until(self, seen: Callable[[], bool]) -> None:
        """Look until it is seen. Each look is a request, which takes its time."""
        deadline = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < deadline, f"{self.get('/healthz')}\n{self.worker.said}"

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.get("/metrics").body)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def enqueue(self, text: str = PROMPT, *, request: dict[str, Any] | None = None, **envelope: Any) -> Job:
        body = {"model": "m-1", "messages": [{"role": "user", "content": text}], "stream": True, **(request or {})}
        queue = Queue("chat", connection=self.redis, serializer="json")
        return queue.enqueue("deltabus.tasks.chat", {"request": body, **envelope})

    def finish(self, job: Job) -> Any:
        """The job's result, once it has one."""
        found = job.latest_result(timeout=int(PATIENCE))
        assert found is not None, self.worker.said
        return found

    def run_every_kind(self) -> None:
        """Tasks of every outcome."""
        usage = {"request": {"stream_options": {"include_usage": True}}}
        jobs = [self.enqueue(f"{PROMPT} {number}", tenant="acme", **usage) for number in range(5)]
        jobs += [
            self.enqueue(f"{PROMPT} whole", request={"stream": False}),
            self.enqueue(f"{PROMPT} refused"),
            self.enqueue(f"{PROMPT} unauthorized"),
            self.enqueue(f"{PROMPT} garbage", retry={"max": 0}),
            self.enqueue(f"{PROMPT} busy-once"),
            self.enqueue(request={"echo": {"error": "crash", "text": ANSWER}}, provider="echo"),
            self.enqueue(request={"temperature": PROMPT}),
            self.enqueue(**{PROMPT: PROMPT}),
        ]
        queue = Queue("chat", connection=self.redis, serializer="json")
        jobs.append(queue.enqueue(f"os.{PROMPT}", {"request": PROMPT}))
        for job in jobs:
            self.finish(job)
        # Somebody who has not understood it pushes the request itself.
        self.redis.rpush("rq:queue:chat", json.dumps({"request": PROMPT}))
        self.worker.wait_for("is not the id of a job")


def _answer(request: Request) -> Reply:
    asked = request.json()
    text = asked["messages"][0]["content"]
    if "refused" in text:
        return Reply.json({"error": {"message": f"you said: {text}", "type": "invalid_request_error"}}, 400)
    if "unauthorized" in text:
        return Reply.json({"error": {"message": f"wrong key {KEY}", "type": "authentication_error"}}, 401)
    if "garbage" in text:
        return Reply(headers={"Content-Type": "application/json"}, body=[f"{ANSWER} is no JSON".encode()])
    if "busy-once" in text and "busy" not in _told:
        _told.add("busy")
        return Reply.json({"error": {"message": text, "type": "rate_limit"}}, 429, headers={"Retry-After": "0.01"})
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
    if not asked["stream"]:
        choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
        return Reply.json({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": word}}]} for word in ("", ANSWER)
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**head, "choices": [], "usage": usage})
    return Reply.sse(*chunks)


_told: set[str] = set()
