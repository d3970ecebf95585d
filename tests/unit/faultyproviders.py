"""Providers that break one promise of the contract each."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any, ClassVar

import msgspec
from goodprovider import ERRORS, Good, Said, chunk

from deltabus.provider import (
    ConfigError,
    Health,
    Internal,
    Provider,
    ProviderProtocol,
    RateLimited,
    StreamTruncated,
)
from deltabus.testing.situations import PROMPT


class Unregistered(Good):
    pass


class Abstract(Provider):
    def __init__(self, name, settings):
        pass


class Looks(Good):
    def __init__(self, name, settings):
        super().__init__(name, settings)
        socket.getaddrinfo("localhost", 80)


class NeedsLoop(Good):
    def __init__(self, name, settings):
        super().__init__(name, settings)
        asyncio.get_running_loop()


class EatsSettings(Good):
    def __init__(self, name, settings):
        super().__init__(name, settings)
        settings.clear()


class TakesAnySetting(Good):
    def __init__(self, name, settings):
        super().__init__(name, {"endpoint": settings["endpoint"], "api_key": settings["api_key"]})


class RefusesWithoutName(Good):
    def __init__(self, name, settings):
        try:
            super().__init__(name, settings)
        except ConfigError:
            raise ConfigError("bad settings") from None


class RefusesWithoutHint(Good):
    def __init__(self, name, settings):
        try:
            super().__init__(name, settings)
        except ConfigError:
            raise ConfigError(f"unknown: {sorted(set(settings) - {'endpoint', 'api_key'})}") from None


class RefusesWithSecret(Good):
    def __init__(self, name, settings):
        try:
            super().__init__(name, settings)
        except ConfigError as exc:
            raise ConfigError(f"{exc} in {settings}") from None


class Yields(Good):
    """Says something of its own instead of what the endpoint says."""

    items: ClassVar[list[Any]] = []

    async def chat(self, request):
        for item in self.items:
            yield item


def saying(*items: Any) -> type[Good]:
    return type("Yields", (Yields,), {"items": items})


class ChangesBody(Good):
    async def chat(self, request):
        request.body.pop("messages")
        async for item in super().chat(request):
            yield item


class OneAtATime(Good):
    def __init__(self, name, settings):
        super().__init__(name, settings)
        self.lock = asyncio.Lock()

    async def chat(self, request):
        async with self.lock:
            async for item in super().chat(request):
                yield item


class Mixes(Good):
    """Keeps the state of a request on the instance."""

    async def chat(self, request):
        self.said = []
        async for word in self.endpoint.words():
            self.said.append(word)
        for word in self.said[:-1]:
            yield chunk(word)
        yield chunk(reason="stop")


class Buffers(Good):
    async def chat(self, request):
        for item in [item async for item in super().chat(request)]:
            yield item


class Leaves(Good):
    """Forgets the connection when it is cancelled."""

    async def chat(self, request):
        words = self.endpoint.words()
        LEFT.append(words)
        while True:
            task = asyncio.ensure_future(anext(words))
            LEFT.append(task)
            word = await asyncio.shield(task)
            yield chunk(word)


LEFT: list[Any] = []


class Dawdles(Good):
    """Says goodbye before it hangs up."""

    #: Seconds that each takes, one answer after the other.
    goodbyes: ClassVar[Iterator[float]] = itertools.repeat(1.05 * PROMPT)

    async def chat(self, request):
        async with aclosing(super().chat(request)) as items:
            try:
                async for item in items:
                    yield item
            finally:
                await asyncio.sleep(next(self.goodbyes))


class Swallows(Good):
    async def chat(self, request):
        try:
            async for item in super().chat(request):
                yield item
        except asyncio.CancelledError:
            return


class Stubborn(Good):
    async def chat(self, request):
        async for item in super().chat(request):
            yield item
            while self.endpoint.behaviour == "pausing":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    STUBBORN.append(1)
                    if len(STUBBORN) > 3:
                        raise


STUBBORN: list[int] = []


class NoIterator(Good):
    def chat(self, request):
        inner = super().chat(request)

        class Bare:
            def __aiter__(self):
                return self

            def __anext__(self):
                return inner.__anext__()

        return Bare()


class EndsQuietly(Good):
    async def chat(self, request):
        try:
            async for item in super().chat(request):
                yield item
        except StreamTruncated:
            return


class RaisesForeign(Good):
    def error(self, code):
        return OSError("connection refused")


class Misclassifies(Good):
    def error(self, code):
        return Internal("no idea")


class OwnClass(Good):
    def error(self, code):
        return type("Mine", (ERRORS[code],), {})("mine")


class SaysNothing(Good):
    def error(self, code):
        return ERRORS[code](" ")


class ShowsKey(Good):
    def error(self, code):
        return ERRORS[code](f"refused the key {self.key}")


class ShowsKeyInCause(Good):
    def error(self, code):
        error = ERRORS[code]("refused")
        error.__cause__ = ValueError(f"Bearer {self.key}")
        return error


class LetsTheParserOut(Good):
    def parsed(self, body):
        return msgspec.json.decode(body, type=Said).said


class ExpectsObjects(Good):
    """Knows that there may be no JSON, and takes for granted what is in it."""

    def parsed(self, body):
        try:
            return json.loads(body)["said"]
        except (ValueError, RecursionError) as exc:
            raise ProviderProtocol("this is no JSON") from exc


class ExpectsText(Good):
    """Finds out by chance whether it is an object, and never whether it holds a text."""

    def parsed(self, body):
        try:
            return "" + json.loads(body)["said"]
        except (ValueError, LookupError, RecursionError) as exc:
            raise ProviderProtocol("this is no answer") from exc
        except TypeError as exc:
            if not isinstance(json.loads(body), dict):
                raise ProviderProtocol("this is no answer") from exc
            raise


class TakesAnything(Good):
    async def chat(self, request):
        try:
            async for item in super().chat(request):
                yield item
        except (ProviderProtocol, StreamTruncated):
            yield chunk(reason="stop")


class JamsAtGarbage(Good):
    """Reports garbage as it should, and then waits for ever."""

    jammed = False

    def parsed(self, body):
        self.jammed = True
        return super().parsed(body)

    async def chat(self, request):
        if self.jammed:
            await asyncio.Event().wait()
        async for item in super().chat(request):
            yield item


class CheckParses(Good):
    async def check(self):
        if callable(self.endpoint.behaviour):
            json.loads(self.endpoint.behaviour())
        return await super().check()


class CheckShowsKey(Good):
    async def check(self):
        return Health(ok=True, detail=f"key {self.key}")


class CheckSaysNothing(Good):
    async def check(self):
        return Health(ok=True, detail="")


class CheckSaysTooMuch(Good):
    async def check(self):
        return Health(ok=True, detail="a\nb")


class CheckReturnsBool(Good):
    async def check(self):
        return True


class CheckRaises(Good):
    async def check(self):
        if self.endpoint.behaviour != "answering":
            raise RateLimited("no")
        return await super().check()


class Forgets(Good):
    async def chat(self, request):
        async for item in super().chat(request):
            yield item
        self.endpoint.closed.clear()  # the connection is kept for the next request, and nobody closes it


class ClosesOnce(Good):
    closed = False

    async def aclose(self):
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True
