"""OpenAI, and every server that speaks its API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from typing import Any

from deltabus.http import Exchange, Timeouts, Transport, Watchdog, errors, headers
from deltabus.provider import (
    Authentication,
    ChatRequest,
    Chunk,
    Completion,
    DeadlineExceeded,
    Health,
    NotFound,
    Permission,
    Provider,
    ProviderTimeout,
    StreamTruncated,
    TaskError,
)
from deltabus_openai import config, wire

#: Seconds to wait for what does not change the outcome: `[DONE]` or the usage chunk once every choice has its
#: finish_reason, the rest of an error's body.
LAST_WORDS = 10.0
#: Seconds to wait for the end of a body whose content is complete, so that the connection can serve again.
DRAIN = 2.0
#: Bytes of an error's body that are read.
MAX_ERROR_BYTES = 64 * 1024
#: Seconds within which a check wants its answer.
CHECK = 10.0
#: Models that a check names.
MAX_MODELS = 50


class OpenAIProvider(Provider):
    """One endpoint. Its settings are in `deltabus_openai.config`; what holds of it, in `deltabus.provider.Provider`."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._config = config.read(settings)
        self.capabilities = self._config.capabilities
        self._chat_url = self._config.endpoint.url("chat/completions")
        self._models_url = self._config.endpoint.url("models")
        self._headers = _fixed_headers(self._config)
        self._transport: Transport | None = None
        self._drains: dict[asyncio.Task[None], Exchange] = {}

    def __repr__(self) -> str:
        return f"OpenAIProvider({self._name!r}, base_url={self._config.endpoint.root!r})"

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        settings = self._config
        exchange: Exchange | None = None
        decoder = wire.AnswerDecoder(settings.max_answer_bytes, choices=request.body.get("n") or 1)
        try:
            body = wire.encode(
                request.body, model=settings.model, defaults=settings.params, forced=settings.force_params
            )
            watchdog = Watchdog(settings.timeouts, request.deadline)
            exchange = await self._connections().send(
                "POST", self._chat_url, headers.merge(request.headers, self._headers), body, watchdog
            )
            if not 200 <= exchange.status < 300:
                raise await self._refusal(exchange)
            while not decoder.done:
                try:
                    data = await (exchange.read(LAST_WORDS) if decoder.settled else exchange.read())
                except (StreamTruncated, ProviderTimeout, DeadlineExceeded):
                    if not decoder.settled:
                        raise
                    break  # All choices have ended: whatever the connection does is the end of the answer.
                if not data:
                    break
                for chunk in decoder.feed(data):
                    yield chunk
            for item in decoder.finish():
                yield item
        except TaskError as exc:
            self._sign(exc, exchange)
            raise
        finally:
            if exchange is not None:
                if decoder.done and not exchange.ended:
                    self._drain(exchange)
                else:
                    await exchange.aclose()

    async def check(self) -> Health:
        limits = Timeouts(connect=self._config.timeouts.connect, first_byte=CHECK, total=CHECK)
        exchange: Exchange | None = None
        try:
            exchange = await self._connections().send("GET", self._models_url, self._headers, b"", Watchdog(limits))
            if not 200 <= exchange.status < 300:
                raise await self._refusal(exchange)
            return _health(await _read(exchange, self._config.max_answer_bytes))
        except TaskError as exc:
            self._sign(exc, exchange)
            return Health(ok=False, detail=_advice(exc))
        finally:
            if exchange is not None:
                await exchange.aclose()

    async def aclose(self) -> None:
        drains = dict(self._drains)
        for drain in drains:
            drain.cancel()
        await asyncio.gather(*drains, return_exceptions=True)
        for exchange in drains.values():
            await exchange.aclose()  # A task that is cancelled before its first step closes nothing.
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    def _connections(self) -> Transport:
        # Not in __init__: aiohttp's connector belongs to the loop that runs when it is made.
        if self._transport is None:
            self._transport = Transport(self._config)
        return self._transport

    async def _refusal(self, exchange: Exchange) -> TaskError:
        """The error that an answer's status and body say."""
        try:
            body = await _read(exchange, MAX_ERROR_BYTES)
        except TaskError:
            body = b""  # The status says enough.
        error = errors.from_answer(exchange.status, exchange.headers, body)
        if isinstance(error, NotFound) and not self._config.endpoint.versioned:
            error.message += f" (base_url names no version; perhaps it should be {self._config.endpoint.root}/v1)"
        return error

    def _sign(self, error: TaskError, exchange: Exchange | None) -> None:
        """Add what only this place knows, and take out what nobody may see."""
        error.provider = self._name
        error.message = errors.redact(error.message, self._config.secrets)
        error.args = (error.message,)
        if exchange is not None:
            error.request_id = errors.request_id(exchange.headers)

    def _drain(self, exchange: Exchange) -> None:
        """Read the end of a body in the background: nobody waits for it, and the connection can be used again."""
        task = asyncio.create_task(_drained(exchange))
        self._drains[task] = exchange
        task.add_done_callback(self._drains.pop)


def _fixed_headers(settings: config.Config) -> dict[str, str]:
    """The headers of every request: those configured over our own, credentials over both."""
    fixed = {
        "Accept": "application/json",
        # Compression would hold back a stream, and an answer can grow a thousandfold when it is undone.
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": f"deltabus/{version('deltabus')}",
    }
    credentials = {}
    if settings.organization:
        credentials["OpenAI-Organization"] = settings.organization
    if settings.project:
        credentials["OpenAI-Project"] = settings.project
    if settings.api_key:
        bearer = settings.auth_header.lower() == "authorization"
        credentials[settings.auth_header] = f"Bearer {settings.api_key}" if bearer else settings.api_key
    return headers.overlay(headers.overlay(fixed, settings.headers), credentials)


async def _read(exchange: Exchange, limit: int) -> bytes:
    """The body, or its first `limit` bytes."""
    body = bytearray()
    while len(body) < limit and (data := await exchange.read(LAST_WORDS)):
        body += data
    return bytes(body[:limit])


async def _drained(exchange: Exchange) -> None:
    try:
        async with asyncio.timeout(DRAIN):
            await _read(exchange, MAX_ERROR_BYTES)
    except (TaskError, TimeoutError):
        return  # The answer was complete; only the connection is lost.
    finally:
        await exchange.aclose()


def _health(body: bytes) -> Health:
    """What a list of models says."""
    try:
        listed = json.loads(body)
    except (ValueError, RecursionError):
        return Health(ok=False, detail="it answers, but not with JSON: base_url is probably wrong")
    found = listed.get("data", listed.get("models")) if isinstance(listed, dict) else listed
    if (error := errors.find(listed)) is not None:
        return Health(ok=False, detail=_advice(errors.from_body(error)))
    if not isinstance(found, list):
        return Health(ok=False, detail="it answers, but not with a list of models: base_url is probably wrong")
    names = [str(model.get("id") or model.get("name")) for model in found if isinstance(model, dict)]
    return Health(ok=True, detail=f"{len(names)} models", models=tuple(names[:MAX_MODELS]))


def _advice(error: TaskError) -> str:
    """What is wrong, and how to mend it."""
    match error:
        case Authentication():
            return f"the key is not accepted: check api_key ({error.message})"
        case Permission():
            return f"the key may not list models, or not from here ({error.message})"
        case NotFound():
            return f"reached, but it has no list of models there: check base_url ({error.message})"
    return error.message
