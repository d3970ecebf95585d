"""The Gemini provider against a server: it passes the contract, and says and hears what is particular to the API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deltabus.provider import ChatRequest, ConfigError, InvalidRequest, TaskError
from deltabus.provider import Request as Attempt
from deltabus.testing import Case, ProviderContract
from deltabus.testing.server import Action, Reply, Request, ScriptedServer
from deltabus_gemini import GeminiProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SECRET = "AIzaContract-0123456789"
RECORDED = Path(__file__).parent / "recorded"
EVENTS = [event + b"\n\n" for event in (RECORDED / "text.sse").read_bytes().split(b"\n\n") if event.strip()]
TEXT = "Grüezi, 世界 🙂!"
WHOLE = {
    "candidates": [{"content": {"parts": [{"text": TEXT}], "role": "model"}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
    "modelVersion": "gemini-2.5-flash",
    "responseId": "r",
}
MODELS = {"models": [{"name": "models/gemini-2.5-flash"}]}
BODY = {"model": "gemini-2.5-flash", "messages": [{"role": "user", "content": "hi"}]}

#: https://ai.google.dev/gemini-api/docs/troubleshooting: HTTP status and google.rpc.Code for each code.
REFUSALS: Mapping[str, tuple[int, str]] = {
    "invalid_request": (400, "INVALID_ARGUMENT"),
    "authentication": (401, "UNAUTHENTICATED"),
    "permission": (403, "PERMISSION_DENIED"),
    "not_found": (404, "NOT_FOUND"),
    "rate_limited": (429, "RESOURCE_EXHAUSTED"),
    "provider_unavailable": (503, "UNAVAILABLE"),
}


def answer(request: Request) -> Reply:
    if request.method == "GET":
        return Reply.json(MODELS)
    return stream(*EVENTS) if request.path.endswith(":streamGenerateContent") else Reply.json(WHOLE)


def stream(*steps: Any) -> Reply:
    return Reply(headers={"Content-Type": "text/event-stream"}, body=steps)


def refusal(status: int, name: str) -> Reply:
    """In an array, as where the answer was to be streamed."""
    return Reply.json([{"error": {"code": status, "message": f"no, {SECRET}", "status": name}}], status)


class TestGemini(ProviderContract):
    plugin = GeminiProvider
    secret = SECRET
    codes = tuple(REFUSALS)
    answers = (b"".join(EVENTS), (RECORDED / "tools.sse").read_bytes(), json.dumps(WHOLE).encode())

    def settings(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:1", "api_key": SECRET, "timeouts": {"connect": 60}}

    @asynccontextmanager
    async def serving(self, default: Reply | Callable[[Request], Reply]) -> AsyncIterator[Case]:
        with ScriptedServer(default=default) as server:

            async def closed() -> None:
                await server.requests[0].closed.happened()

            yield Case(
                provider=GeminiProvider("kit", {**self.settings(), "base_url": server.url}),
                request=BODY,
                text=TEXT,
                arrived=server.received(1).happened,
                closed=closed,
            )

    def answering(self) -> Any:
        return self.serving(answer)

    def pausing(self) -> Any:
        return self.serving(stream(*EVENTS[:2], Action.HANG))

    def silent(self) -> Any:
        return self.serving(Reply.raw(Action.HANG))

    def breaking_off(self) -> Any:
        return self.serving(stream(*EVENTS[:2]))

    def failing(self, code: str) -> Any:
        return self.serving(refusal(*REFUSALS[code]))

    def garbage(self, body: Callable[[], bytes]) -> Any:
        return self.serving(lambda _: Reply(body=[body()]))


def using(run: Run, reply: Any, use: Callable[[GeminiProvider], Coroutine[Any, Any, Any]], path: str = "") -> Any:
    """What `use` returns, and the requests that the server saw."""

    async def main(base_url: str) -> Any:
        provider = GeminiProvider("google", {"base_url": base_url, "api_key": SECRET, "model": "gemini-2.5-flash"})
        try:
            return await use(provider)
        finally:
            await provider.aclose()

    with ScriptedServer(default=reply) as server:
        result = run(main(server.url + path))
        return result, server.requests


def asking(**body: Any) -> Callable[[GeminiProvider], Coroutine[Any, Any, Any]]:
    async def ask(provider: GeminiProvider) -> Any:
        return [item async for item in provider.chat(ChatRequest(body={**BODY, **body}))]

    return ask


@pytest.mark.parametrize(
    ("path", "body", "target"),
    [
        ("", {"stream": True}, "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
        ("", {}, "/v1beta/models/gemini-2.5-flash:generateContent"),
        ("/v1beta/", {"model": "tunedModels/a b"}, "/v1beta/tunedModels/a%20b:generateContent"),
        ("", {"model": "default"}, "/v1beta/models/gemini-2.5-flash:generateContent"),
        (
            "/v1/projects/p/locations/l/publishers/google",
            {},
            "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-flash:generateContent",
        ),
    ],
)
def test_the_model_and_the_form_of_the_answer_are_in_the_address(run: Run, path: str, body: Any, target: str) -> None:
    _, [seen] = using(run, answer, asking(**body), path)
    assert seen.target == target
    assert seen.headers["x-goog-api-key"] == SECRET
    assert "authorization" not in seen.headers
    assert set(json.loads(seen.body)) == {"contents"}


def test_a_producers_key_is_refused(run: Run) -> None:
    async def ask(provider: GeminiProvider) -> Any:
        request = ChatRequest(body=BODY, headers={"x-goog-api-key": "mine"})
        return [item async for item in provider.chat(request)]

    with pytest.raises(InvalidRequest):
        using(run, answer, ask)


def test_the_delay_that_google_asks_for_is_heeded(run: Run) -> None:
    body = json.loads((RECORDED / "quota.json").read_bytes())
    with pytest.raises(TaskError) as caught:
        using(run, Reply.json([body], 429), asking(stream=True))
    assert caught.value.code == "rate_limited"
    assert caught.value.retry_after == 27.5
    assert caught.value.provider == "google"


def test_embeddings_are_made_in_one_request(run: Run) -> None:
    async def embed(provider: GeminiProvider) -> Any:
        return await provider.embeddings(Attempt(body={"model": "gemini-embedding-001", "input": ["a", "b"]}))

    reply = Reply.json({"embeddings": [{"values": [1, 2]}, {"values": [3, 4]}]})
    made, [seen] = using(run, reply, embed)
    assert seen.target == "/v1beta/models/gemini-embedding-001:batchEmbedContents"
    assert len(seen.json()["requests"]) == 2
    assert [each["embedding"] for each in made["data"]] == [[1.0, 2.0], [3.0, 4.0]]


def test_models_are_listed_and_checked(run: Run) -> None:
    listed, [seen] = using(run, answer, lambda provider: provider.models(Attempt()))
    assert seen.target == "/v1beta/models?pageSize=1000"
    assert [model["id"] for model in listed["data"]] == ["gemini-2.5-flash"]
    health, _ = using(run, answer, lambda provider: provider.check())
    assert health.ok
    assert health.models == ("gemini-2.5-flash",)
    health, _ = using(run, refusal(401, "UNAUTHENTICATED"), lambda provider: provider.check())
    assert "check api_key" in health.detail
    assert SECRET not in health.detail


def test_google_without_a_key_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="GEMINI_API_KEY"):
        GeminiProvider("google", {})
    GeminiProvider("google", {"query": {"key": SECRET}})
    made = GeminiProvider("google", {"api_key": SECRET})
    assert repr(made) == "GeminiProvider('google', base_url='https://generativelanguage.googleapis.com/v1beta')"
