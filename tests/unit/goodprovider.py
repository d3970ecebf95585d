"""A provider that keeps every promise of the contract, the endpoint it talks to, and the contract for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec

from deltabus.provider import (
    Chunk,
    Completion,
    ConfigError,
    Health,
    Provider,
    ProviderProtocol,
    ProviderUnavailable,
    RateLimited,
    StreamTruncated,
)
from deltabus.testing import Case, ProviderContract

SECRET = "key-0123456789"
TEXT = "one two three"
ERRORS = {"rate_limited": RateLimited, "provider_unavailable": ProviderUnavailable}


class Endpoint:
    """What a server would be: it behaves as it is called, and sees connections come and go."""

    def __init__(self, behaviour: str | Callable[[], bytes]) -> None:
        self.behaviour = behaviour
        self.arrived = asyncio.Event()
        self.closed = asyncio.Event()

    async def words(self) -> AsyncIterator[str]:
        self.arrived.set()
        try:
            await asyncio.sleep(0)
            if self.behaviour == "silent":
                await asyncio.Event().wait()
            if callable(self.behaviour):
                yield f"?{self.behaviour().decode('latin-1')}"
                return
            if self.behaviour in ERRORS:
                yield f"!{self.behaviour}"
                return
            yield "one"
            if self.behaviour == "pausing":
                await asyncio.Event().wait()
            if self.behaviour == "breaking_off":
                return
            for word in (" two", " three", "."):
                await asyncio.sleep(0)
                yield word
        finally:
            self.closed.set()


ENDPOINTS: dict[str | bytes, Endpoint] = {}


class Said(msgspec.Struct):
    said: str


def chunk(content: str | None = None, reason: str | None = None, index: int = 0) -> Chunk:
    delta = {} if content is None else {"content": content}
    return Chunk.of({"choices": [{"index": index, "delta": delta, "finish_reason": reason}]})


def completion(text: str) -> Completion:
    message = {"role": "assistant", "content": text}
    return Completion({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


class Good(Provider):
    """Keeps every promise. The faulty ones below break one each."""

    def __init__(self, name, settings):
        unknown = set(settings) - {"endpoint", "api_key"}
        if unknown:
            raise ConfigError(f"unknown key {unknown.pop()}; did you mean `endpoint`?")
        self.endpoint = ENDPOINTS.get(settings["endpoint"])
        self.key = settings["api_key"]

    async def chat(self, request):
        words = self.endpoint.words()
        said = []
        try:
            async for word in words:
                if word.startswith("!"):
                    raise self.error(word[1:])
                if word.startswith("?"):
                    said.append(self.parsed(word[1:]))
                    continue
                if word == ".":
                    yield chunk(reason="stop") if request.stream else completion("".join(said))
                    return
                said.append(word)
                if request.stream:
                    yield chunk(word)
        finally:
            await words.aclose()
        raise StreamTruncated("ended too early")

    def error(self, code):
        return ERRORS[code](f"the endpoint says {code}")

    def parsed(self, body):
        """The text in an answer of the API: `{"said": "hello"}`."""
        try:
            return msgspec.json.decode(body, type=Said).said
        except (msgspec.MsgspecError, RecursionError) as exc:
            raise ProviderProtocol("this is no answer") from exc

    async def check(self):
        return Health(ok=self.endpoint.behaviour == "answering", detail="reachable or not")


class Contract(ProviderContract):
    plugin = Good
    secret = SECRET
    codes = tuple(ERRORS)
    answers = (b'{"said": "hello"}',)
    exempt: ClassVar[Mapping[str, str]] = {}
    patience = 0.3  # Silence, however busy the machine is.

    def settings(self):
        return {"endpoint": "none", "api_key": SECRET}

    @asynccontextmanager
    async def case(self, behaviour):
        endpoint = ENDPOINTS[behaviour] = Endpoint(behaviour)
        provider = self.plugin("kit", {"endpoint": behaviour, "api_key": SECRET})
        yield Case(
            provider=provider,
            request={"messages": [{"role": "user", "content": "hello"}]},
            text=TEXT,
            arrived=endpoint.arrived.wait,
            closed=endpoint.closed.wait,
        )

    def answering(self):
        return self.case("answering")

    def pausing(self):
        return self.case("pausing")

    def silent(self):
        return self.case("silent")

    def breaking_off(self):
        return self.case("breaking_off")

    def failing(self, code):
        return self.case(code)

    def garbage(self, body):
        return self.case(body)
