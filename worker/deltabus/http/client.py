"""What a provider does over HTTP: ask, read the answer as it comes, say what went wrong. One for each provider."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Protocol, TypeVar

import httpx

from deltabus import telemetry
from deltabus.http import body, download, errors, headers
from deltabus.http.config import Config, Timeouts
from deltabus.http.outgoing import Outgoing
from deltabus.http.pace import Pace
from deltabus.http.transport import PIECE, Exchange, Transport
from deltabus.http.watchdog import Watchdog
from deltabus.provider import (
    Authentication,
    ChatRequest,
    Chunk,
    Completion,
    DeadlineExceeded,
    Download,
    Health,
    NotFound,
    Permission,
    ProviderProtocol,
    ProviderTimeout,
    Request,
    StreamTruncated,
    TaskError,
)

_T = TypeVar("_T")

#: Seconds to wait for what does not change the outcome: `[DONE]` or the usage chunk once every choice has its
#: finish_reason, the rest of an error's body.
LAST_WORDS = 10.0
#: Seconds to wait for the end of a body whose content is complete, so that the connection can serve again.
DRAIN = 2.0
#: Bytes of an error's body that are read.
MAX_ERROR_BYTES = 64 * 1024
#: Seconds within which a check wants its answer.
CHECK = 10.0
#: Ports of URLs that name none.
_PORTS = {"http": 80, "https": 443}
#: Models that a check names.
MAX_MODELS = 50


class Decoder(Protocol):
    """Turns the body of one successful answer to a chat request into chunks or a completion. Pure."""

    @property
    def done(self) -> bool:
        """The API has said that the answer has ended: what may follow is of no interest."""
        ...

    @property
    def settled(self) -> bool:
        """What may still come is not missed where it does not: the connection may break."""
        ...

    def feed(self, data: bytes) -> Iterable[Chunk | Completion]:
        """What is whole now. May raise `TaskError`, after what came before it."""
        ...

    def finish(self) -> Iterable[Chunk | Completion]:
        """The body has ended, or the answer has: what was still to come, or `StreamTruncated`."""
        ...


class Client:
    """The connections to one endpoint, its headers and its errors.

    Every error that leaves it is signed: it names the provider and the endpoint's id of the request,
    and no credential that is configured.

    Args:
        name: of the provider.
        config: its settings.
        fixed: headers of every request; those configured win.
    """

    def __init__(self, name: str, config: Config, fixed: Mapping[str, str] | None = None) -> None:
        #: Of the provider.
        self.name = name
        self._config = config
        self._headers = _headers(config, fixed or {})
        self._pace = Pace()
        self._transport: Transport | None = None
        self._drains: dict[asyncio.Task[None], Exchange] = {}

    async def chat(
        self,
        request: ChatRequest,
        prepare: Callable[[dict[str, Any]], tuple[httpx.URL, Any]],
        decoder: Decoder,
    ) -> AsyncGenerator[Chunk | Completion]:
        """All of a provider's `chat`: `return client.chat(request, …)`, in a method that is no generator itself.

        Args:
            request: what the provider was asked.
            prepare: called with the request's body and what the settings add to it: where to, and the document
                that the API wants. It may raise `InvalidRequest` and `Unsupported`.
            decoder: of this answer.
        """
        settings = self._config
        exchange: Exchange | None = None
        try:
            url, document = prepare(
                body.merge(request.body, model=settings.model, defaults=settings.params, forced=settings.force_params)
            )
            exchange = await self._send("POST", url, request, body.encode(document))
            while not decoder.done:
                try:
                    data = await (exchange.read(LAST_WORDS) if decoder.settled else exchange.read())
                except (StreamTruncated, ProviderTimeout, DeadlineExceeded):
                    if not decoder.settled:
                        raise
                    break  # All choices have ended: whatever the connection does is the end of the answer.
                if not data:
                    break
                chunks = 0
                for item in decoder.feed(data):
                    chunks += 1
                    yield item
                    del item  # While the stream waits for more, others find its memory in the CPU's cache.
                drained = len(data) < PIECE
                del data
                # Where there is more to read, or no chunk was whole, a rest would only make a large answer slow.
                if chunks and drained and (rest := self._pace.rest(chunks)) and not (decoder.settled or decoder.done):
                    await exchange.rest(rest)
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

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: httpx.URL,
        request: Request | None = None,
        content: bytes | Outgoing = b"",
        *,
        extra: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> AsyncIterator[Exchange]:
        """Ask, and read the answer in the block; leaving it closes the connection at once, unless all was read.

        Args:
            method: GET, POST, …
            url: see `Endpoint.url`.
            request: the producer's headers and deadline count.
            content: the body, which is closed with the exchange where it is streamed.
            extra: headers of this request alone, such as its Content-Type; they win.
            timeouts: in place of those configured.

        Raises:
            TaskError: there is no answer, or it is not 2xx.
        """
        exchange: Exchange | None = None
        try:
            exchange = await self._send(method, url, request, content, extra=extra, timeouts=timeouts)
            yield exchange
        except TaskError as exc:
            if not isinstance(content, Outgoing) or exc is not content.failure:
                self._sign(exc, exchange)
            raise
        finally:
            if exchange is not None:
                await exchange.aclose()
            if isinstance(content, Outgoing):
                await content.aclose()

    async def json(
        self,
        method: str,
        url: httpx.URL,
        request: Request | None = None,
        document: Any = None,
        *,
        extra: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        limit: int | None = None,
        read: Callable[[Any], _T] | None = None,
    ) -> _T | Any:
        """Ask, and return the answer, decoded; None where it is a 204.

        Args:
            method, url, request, extra, timeouts: see `open`.
            document: what is sent as JSON; an `Outgoing` as it is.
            limit: bytes of the answer, in place of `max_answer_bytes`.
            read: what makes of the answer what is returned; what it raises is signed like any other error.

        Raises:
            TaskError: also where the answer is not JSON, too large, or an error in a 200.
        """
        content = document if isinstance(document, Outgoing) else b"" if document is None else body.encode(document)
        async with self.open(method, url, request, content, extra=extra, timeouts=timeouts) as exchange:
            answer = None
            if exchange.status != HTTPStatus.NO_CONTENT:
                answer = body.decode(await exchange.whole(limit or self._config.max_answer_bytes))
            return answer if read is None else read(answer)

    async def download(
        self,
        method: str,
        url: httpx.URL,
        request: Request,
        content: bytes = b"",
        *,
        judge: Callable[[Exchange, bytes], Awaitable[None]] | None = None,
    ) -> Download:
        """Ask for bytes, of any type. Arguments and errors are those of `open` and `deltabus.http.download.begin`."""
        return await download.begin(self.open(method, url, request, content, extra={"Accept": "*/*"}), judge)

    async def models(
        self, url: httpx.URL, request: Request, models: Callable[[Any], list[dict[str, Any]] | None]
    ) -> dict[str, Any]:
        """All of a provider's `models`; arguments as in `check`, errors as in `json`."""

        def read(listed: Any) -> dict[str, Any]:
            if (found := models(listed)) is None:
                raise ProviderProtocol("it answers, but not with a list of models")
            return {"object": "list", "data": found}

        answer: dict[str, Any] = await self.json("GET", url, request, read=read)
        return answer

    async def check(self, url: httpx.URL, models: Callable[[Any], Sequence[Mapping[str, Any]] | None]) -> Health:
        """All of a provider's `check`: ask for the list of models.

        Args:
            url: of the list.
            models: those in what came, each with an `id`; None where it is no list of models.
        """
        limits = Timeouts(connect=self._config.timeouts.connect, first_byte=CHECK, total=CHECK)
        try:
            found = models(await self.json("GET", url, timeouts=limits))
        except TaskError as exc:
            return Health(ok=False, detail=_advice(exc))
        if found is None:
            return Health(ok=False, detail="it answers, but not with a list of models: base_url is probably wrong")
        return Health(
            ok=True, detail=f"{len(found)} models", models=tuple(str(model["id"]) for model in found[:MAX_MODELS])
        )

    async def aclose(self) -> None:
        """Close all connections; a later request opens new ones."""
        drains = dict(self._drains)
        for drain in drains:
            drain.cancel()
        await asyncio.gather(*drains, return_exceptions=True)
        for exchange in drains.values():
            await exchange.aclose()  # A task that is cancelled before its first step closes nothing.
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def _send(
        self,
        method: str,
        url: httpx.URL,
        request: Request | None,
        content: bytes | Outgoing,
        *,
        extra: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> Exchange:
        """The answer, which is 2xx."""
        if self._transport is None:
            # Not in __init__: aiohttp's connector belongs to the loop that runs when it is made.
            self._transport = Transport(self._config)
        watchdog = Watchdog(timeouts or self._config.timeouts, request.deadline if request else None)
        fixed = headers.overlay(self._headers, extra) if extra else self._headers
        watch = telemetry.watch()
        if watch is not None:
            watch.server = (url.host, url.port or _PORTS[url.scheme])
            if self._config.propagate_trace:
                fixed = headers.overlay(fixed, watch.trace_headers)
        merged = headers.merge(request.headers if request else {}, fixed)
        exchange = await self._transport.send(method, url, merged, content, watchdog)
        telemetry.observer().answered(self.name, exchange.status)
        if 200 <= exchange.status < 300:
            return exchange
        try:
            error = await self._refusal(exchange)
            self._sign(error, exchange)
        finally:
            await exchange.aclose()
        raise error

    async def _refusal(self, exchange: Exchange) -> TaskError:
        """The error that an answer's status and body say."""
        try:
            data = await _read(exchange, MAX_ERROR_BYTES, LAST_WORDS)
        except TaskError:
            data = b""  # The status says enough.
        error = errors.from_answer(exchange.status, exchange.headers, data)
        if isinstance(error, NotFound) and not self._config.endpoint.versioned:
            error.message += f" (base_url names no version; perhaps it should be {self._config.endpoint.root}/v1)"
        return error

    def _sign(self, error: TaskError, exchange: Exchange | None) -> None:
        """Add what only this place knows, and take out what nobody may see."""
        error.provider = self.name
        error.message = errors.redact(error.message, self._config.secrets)
        error.args = (error.message,)
        if exchange is not None:
            error.request_id = errors.request_id(exchange.headers)

    def _drain(self, exchange: Exchange) -> None:
        """Read the end of a body in the background: nobody waits for it, and the connection can be used again."""
        task = asyncio.create_task(_drained(exchange))
        self._drains[task] = exchange
        task.add_done_callback(self._drains.pop)


def _headers(config: Config, fixed: Mapping[str, str]) -> dict[str, str]:
    """The headers of every request: those configured over our own and the plugin's, the key over all."""
    ours = {
        "Accept": "application/json",
        # Compression would hold back a stream, and an answer can grow a thousandfold when it is undone.
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": f"deltabus/{version('deltabus')}",
        **fixed,
    }
    credentials = {}
    if config.api_key:
        bearer = config.auth_header.lower() == "authorization"
        credentials[config.auth_header] = f"Bearer {config.api_key}" if bearer else config.api_key
    return headers.overlay(headers.overlay(ours, config.headers), credentials)


async def _read(exchange: Exchange, limit: int, most: float = math.inf) -> bytes:
    """The body, or its first `limit` bytes; `most`: seconds to wait for more of it."""
    data = bytearray()
    while len(data) < limit and (piece := await exchange.read(most)):
        data += piece
    return bytes(data[:limit])


async def _drained(exchange: Exchange) -> None:
    try:
        async with asyncio.timeout(DRAIN):
            await _read(exchange, MAX_ERROR_BYTES, LAST_WORDS)
    except (TaskError, TimeoutError):
        return  # The answer was complete; only the connection is lost.
    finally:
        await exchange.aclose()


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
