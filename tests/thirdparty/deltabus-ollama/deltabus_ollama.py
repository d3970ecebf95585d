"""Ollama's own chat API for deltabus: https://github.com/ollama/ollama/blob/main/docs/api.md"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import msgspec
from deltabus.provider import (
    Authentication,
    Capabilities,
    ChatRequest,
    Chunk,
    Completion,
    Health,
    InvalidRequest,
    NotFound,
    Provider,
    ProviderProtocol,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    StreamTruncated,
    TaskError,
    read_settings,
)

STATUS = {401: Authentication, 404: NotFound, 408: ProviderTimeout, 429: RateLimited}


class OllamaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The table `[providers.<name>]`."""

    base_url: str = "http://localhost:11434"
    api_key: str | None = None
    connect_timeout: float = 5.0
    #: Seconds that the server may be silent; it may have to load the model first.
    read_timeout: float = 300.0


class Message(msgspec.Struct):
    content: str = ""


class Answer(msgspec.Struct):
    """One line of a streamed answer, or all of one that is not streamed."""

    model: str = ""
    message: Message = msgspec.field(default_factory=Message)
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int = 0
    eval_count: int = 0
    error: str | None = None


class OllamaProvider(Provider):
    capabilities = Capabilities(tools=False, logprobs=False, max_n=1, file_ids=False, strict_ranges=False)

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._settings = read_settings(OllamaSettings, settings)
        key = self._settings.api_key
        timeout = httpx.Timeout(self._settings.read_timeout, connect=self._settings.connect_timeout)
        self._client = httpx.AsyncClient(
            base_url=self._settings.base_url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
            limits=httpx.Limits(max_connections=None),
        )

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        body = _body(request)
        finished = False
        try:
            # Leaving this block closes the connection, also when we are cancelled.
            async with self._client.stream("POST", "/api/chat", json=body, headers=dict(request.headers)) as response:
                if response.status_code != 200:
                    raise self._refusal(response.status_code, await response.aread())
                async for line in _lines(response):
                    answer = self._parse(line)
                    finished = answer.done
                    yield _chunk(request, answer) if request.stream else _completion(request, answer)
        except httpx.TimeoutException as exc:
            raise ProviderTimeout("Ollama took too long", provider=self._name) from exc
        except httpx.ConnectError as exc:
            raise ProviderUnavailable("cannot connect to Ollama: is it running?", provider=self._name) from exc
        except httpx.HTTPError as exc:
            raise StreamTruncated("Ollama broke the connection off", provider=self._name) from exc
        if not finished:
            raise StreamTruncated("the answer ended without `done`", provider=self._name)

    async def check(self) -> Health:
        try:
            response = await self._client.get("/api/tags", timeout=10)
            response.raise_for_status()
            models = [model["name"] for model in response.json()["models"]]
        except httpx.HTTPStatusError as exc:
            return Health(ok=False, detail=f"Ollama answers with HTTP {exc.response.status_code}: check base_url")
        except httpx.HTTPError as exc:
            return Health(ok=False, detail=f"cannot reach Ollama ({type(exc).__name__}): is it running?")
        except (ValueError, LookupError, TypeError):
            return Health(ok=False, detail="it answers, but not as Ollama does: check base_url")
        return Health(ok=True, detail=f"{len(models)} models", models=models)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _parse(self, line: bytes) -> Answer:
        try:
            answer = msgspec.json.decode(line, type=Answer)
        except msgspec.MsgspecError as exc:
            raise ProviderProtocol("this is not how Ollama answers: check base_url", provider=self._name) from exc
        if answer.error is not None:
            raise ProviderUnavailable(self._hidden(answer.error), provider=self._name)
        return answer

    def _refusal(self, status: int, body: bytes) -> TaskError:
        try:
            message = msgspec.json.decode(body, type=Answer).error or f"HTTP {status}"
        except msgspec.MsgspecError:
            message = f"HTTP {status}"
        kind = STATUS.get(status, ProviderUnavailable if status >= 500 else InvalidRequest)
        return kind(self._hidden(message), status=status, provider=self._name)

    def _hidden(self, message: str) -> str:
        # A server may quote what it was sent, and an error goes to whoever sent the task.
        key = self._settings.api_key
        return message.replace(key, "***") if key else message


def _body(request: ChatRequest) -> dict[str, Any]:
    """The request in Ollama's words: sampling parameters are `options` there."""
    names = {
        "temperature": "temperature",
        "top_p": "top_p",
        "seed": "seed",
        "stop": "stop",
        "max_tokens": "num_predict",
    }
    options = {theirs: request.body[ours] for ours, theirs in names.items() if request.body.get(ours) is not None}
    messages = [{"role": message["role"], "content": message["content"]} for message in request.body["messages"]]
    return {"model": request.body["model"], "messages": messages, "stream": request.stream, "options": options}


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    # Not aiter_lines(): it also splits at U+2028 and the like, which may stand inside JSON.
    rest = b""
    async for data in response.aiter_bytes():
        *lines, rest = (rest + data).split(b"\n")
        for line in filter(None, lines):
            yield line
    if rest:
        yield rest


def _chunk(request: ChatRequest, answer: Answer) -> Chunk:
    delta = {"role": "assistant", "content": answer.message.content}
    choice = {"index": 0, "delta": delta, "finish_reason": _finish_reason(answer)}
    return Chunk.of({**_head(request, "chat.completion.chunk", answer), "choices": [choice]})


def _completion(request: ChatRequest, answer: Answer) -> Completion:
    message = {"role": "assistant", "content": answer.message.content}
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(answer)}
    return Completion({**_head(request, "chat.completion", answer), "choices": [choice]})


def _head(request: ChatRequest, kind: str, answer: Answer) -> dict[str, Any]:
    head = {"id": f"chatcmpl-{request.task}", "object": kind, "created": int(time.time()), "model": answer.model}
    if answer.done:
        prompt, completion = answer.prompt_eval_count, answer.eval_count
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        head["usage"] = usage
    return head


def _finish_reason(answer: Answer) -> str | None:
    return (answer.done_reason or "stop") if answer.done else None
