"""The Anthropic provider against a server: it passes the contract, and says and hears what is particular to the API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deltabus.provider import ChatRequest, ConfigError, TaskError
from deltabus.provider import Request as Attempt
from deltabus.testing import Case, ProviderContract
from deltabus.testing.server import Action, Reply, Request, ScriptedServer
from deltabus_anthropic import AnthropicProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SECRET = "sk-ant-contract-0123456789"
RECORDED = Path(__file__).parent / "recorded"
EVENTS = [event + b"\n\n" for event in (RECORDED / "text.sse").read_bytes().split(b"\n\n") if event.strip()]
TEXT = "Gr\u00fcezi, 世界 🙂!"
WHOLE = {
    "type": "message",
    "id": "msg_1",
    "model": "c",
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
MODELS = {"data": [{"type": "model", "id": "claude-opus-4-6"}], "has_more": False}
BODY = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "hi"}]}

#: https://platform.claude.com/docs/en/api/errors: status and type for each code.
REFUSALS: Mapping[str, tuple[int, str]] = {
    "invalid_request": (400, "invalid_request_error"),
    "authentication": (401, "authentication_error"),
    "quota_exhausted": (402, "billing_error"),
    "permission": (403, "permission_error"),
    "not_found": (404, "not_found_error"),
    "payload_too_large": (413, "request_too_large"),
    "rate_limited": (429, "rate_limit_error"),
    "provider_unavailable": (529, "overloaded_error"),
}


def answer(request: Request) -> Reply:
    if request.method == "GET":
        return Reply.json(MODELS)
    return stream(*EVENTS) if request.json().get("stream") else Reply.json(WHOLE)


def stream(*steps: Any) -> Reply:
    return Reply(headers={"Content-Type": "text/event-stream"}, body=steps)


def refusal(status: int, name: str, **headers: str) -> Reply:
    document = {"type": "error", "error": {"type": name, "message": f"no, {SECRET}"}, "request_id": "req_1"}
    return Reply.json(document, status, headers)


class TestAnthropic(ProviderContract):
    plugin = AnthropicProvider
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
                provider=AnthropicProvider("kit", {**self.settings(), "base_url": server.url}),
                request=BODY,
                text=TEXT,
                arrived=server.received(1).happened,
                closed=closed,
            )

    def answering(self) -> Any:
        return self.serving(answer)

    def pausing(self) -> Any:
        return self.serving(stream(*EVENTS[:4], Action.HANG))

    def silent(self) -> Any:
        return self.serving(Reply.raw(Action.HANG))

    def breaking_off(self) -> Any:
        return self.serving(stream(*EVENTS[:5]))

    def failing(self, code: str) -> Any:
        return self.serving(refusal(*REFUSALS[code]))

    def garbage(self, body: Callable[[], bytes]) -> Any:
        return self.serving(lambda _: Reply(body=[body()]))


def ask(run: Run, reply: Reply, path: str = "", asked: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """The chunks of a streamed answer, and the request as the server saw it."""

    async def main(base_url: str) -> list[Any]:
        provider = AnthropicProvider("claude", {"base_url": base_url, "api_key": SECRET, **settings})
        try:
            request = ChatRequest(body={**BODY, "stream": True}, headers=asked or {})
            return [item async for item in provider.chat(request)]
        finally:
            await provider.aclose()

    with ScriptedServer(default=reply) as server:
        items = run(main(server.url + path))
        return items, server.requests[0]


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/v1/messages"),
        ("/v1/", "/v1/messages"),
        ("/v1/messages", "/v1/messages"),
        ("/anthropic", "/anthropic/v1/messages"),
    ],
)
def test_the_base_url_may_be_that_of_anthropics_own_sdk_or_the_apis(run: Run, path: str, target: str) -> None:
    _, seen = ask(run, stream(*EVENTS), path)
    assert seen.target == target


def test_a_request_has_the_key_the_version_and_the_betas_that_a_producer_asks_for(run: Run) -> None:
    _, seen = ask(run, stream(*EVENTS), asked={"anthropic-beta": "files-api-2025-04-14"})
    assert seen.headers["x-api-key"] == SECRET
    assert seen.headers["anthropic-version"] == "2023-06-01"
    assert seen.headers["anthropic-beta"] == "files-api-2025-04-14"
    assert "authorization" not in seen.headers
    assert json.loads(seen.body)["stream"] is True


def test_settings_may_name_another_version_and_another_way_to_log_in(run: Run) -> None:
    settings = {"headers": {"Anthropic-Version": "2099-01-01"}, "auth_header": "Authorization"}
    _, seen = ask(run, stream(*EVENTS), **settings)
    assert seen.headers["anthropic-version"] == "2099-01-01"
    assert seen.headers["authorization"] == f"Bearer {SECRET}"


def test_parameters_of_the_settings_are_in_openais_words(run: Run) -> None:
    _, seen = ask(run, stream(*EVENTS), params={"max_tokens": 99, "reasoning_effort": "low"})
    sent = json.loads(seen.body)
    assert sent["max_tokens"] == 99
    assert sent["output_config"] == {"effort": "low"}


def test_the_connection_of_an_answer_serves_again(run: Run) -> None:
    async def main(base_url: str) -> None:
        provider = AnthropicProvider("claude", {"base_url": base_url, "api_key": SECRET})
        for _ in range(2):
            _items = [item async for item in provider.chat(ChatRequest(body=BODY))]
        await provider.aclose()

    with ScriptedServer(default=answer) as server:
        run(main(server.url))
        assert server.connections == 1


def fail(run: Run, reply: Reply) -> TaskError:
    with pytest.raises(TaskError) as caught:
        ask(run, reply)
    assert caught.value.provider == "claude"
    assert SECRET not in str(caught.value)
    return caught.value


def test_a_refusal_says_which_request_it_was_and_when_to_come_back(run: Run) -> None:
    error = fail(run, refusal(429, "rate_limit_error", **{"request-id": "req_011", "retry-after": "17"}))
    assert error.request_id == "req_011"
    assert error.retry_after == 17
    assert error.status == 429


def test_a_refusal_without_retry_after_says_when_its_limit_is_reset(run: Run) -> None:
    """https://platform.claude.com/docs/en/api/rate-limits#response-headers."""
    limits = {
        "anthropic-ratelimit-requests-remaining": "7",
        "anthropic-ratelimit-requests-reset": "2999-01-01T00:00:00Z",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2001-01-01T00:00:00Z",
    }
    assert fail(run, refusal(429, "rate_limit_error", **limits)).retry_after == 0


def test_spending_that_is_at_its_limit_is_no_matter_of_waiting(run: Run) -> None:
    details = {"error_code": "enforced_spend_limit_reached"}
    error = {"type": "rate_limit_error", "message": "limit", "details": details}
    assert fail(run, Reply.json({"type": "error", "error": error}, 429)).code == "quota_exhausted"


def test_an_overloaded_server_in_the_middle_is_an_error_that_names_the_request(run: Run) -> None:
    body = (RECORDED / "overloaded.sse").read_bytes()
    error = fail(run, Reply(headers={"request-id": "req_012"}, body=[body]))
    assert error.code == "provider_unavailable"
    assert error.request_id == "req_012"


def call(run: Run, method: str, reply: Reply) -> Any:
    async def main(base_url: str) -> Any:
        provider = AnthropicProvider("claude", {"base_url": base_url, "api_key": SECRET})
        try:
            return await (provider.check() if method == "check" else provider.models(Attempt()))
        finally:
            await provider.aclose()

    with ScriptedServer(default=reply) as server:
        answered = run(main(server.url))
        assert server.requests[0].target == "/v1/models?limit=1000"
        return answered


def test_models_are_listed_and_checked(run: Run) -> None:
    assert call(run, "models", Reply.json(MODELS))["data"][0]["id"] == "claude-opus-4-6"
    health = call(run, "check", Reply.json(MODELS))
    assert health.ok
    assert health.models == ("claude-opus-4-6",)
    assert not call(run, "check", Reply.json({"hello": 1})).ok
    assert "check api_key" in call(run, "check", refusal(401, "authentication_error")).detail


def test_a_list_that_is_none_is_an_error(run: Run) -> None:
    with pytest.raises(TaskError) as caught:
        call(run, "models", Reply.json({"hello": 1}))
    assert caught.value.code == "provider_protocol"


def test_anthropic_without_a_key_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        AnthropicProvider("claude", {})
    made = AnthropicProvider("claude", {"headers": {"Authorization": f"Bearer {SECRET}"}})
    assert repr(made) == "AnthropicProvider('claude', base_url='https://api.anthropic.com/v1')"
