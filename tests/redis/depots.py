"""A depot on the tests' Redis, and a look at what it opens and leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import redis
import redis.asyncio

from deltabus.depot import Depot
from deltabus.provider import Content
from deltabus.settings import Settings


@asynccontextmanager
async def depot_at(url: str, **settings: Any) -> AsyncIterator[Depot]:
    async with redis.asyncio.Redis.from_url(url) as client:
        depot = Depot(client, replace(Settings(redis_url=url), **settings))
        try:
            yield depot
        finally:
            await depot.aclose()


async def all_of(content: Content, *part: int) -> bytes:
    async with aclosing(content.read(*part)) as pieces:
        return b"".join([piece async for piece in pieces])


def keys_at(url: str) -> list[bytes]:
    with redis.Redis.from_url(url) as client:
        return client.keys("*")


async def fetched(depot: Depot, source: Any, **options: Any) -> bytes:
    async with depot.open(source, param="source", **options) as content:
        return await all_of(content)


async def pieces_of(*pieces: bytes, error: Exception | None = None) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece
    if error is not None:
        raise error
