"""Bytes on their way between the depot and a provider: counted, told, and closed whatever happens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from deltabus.calls import Heard
from deltabus.context import Context
from deltabus.files import Upload
from deltabus.provider import Download
from deltabus.tasks.meter import Meter, Metered


@asynccontextmanager
async def outgoing(context: Context, wanted: Upload | Heard) -> AsyncGenerator[tuple[Metered, Meter]]:
    """The bytes that a request wants sent, and how far they are."""
    async with context.depot.open(
        wanted.source, param="request.source", name=wanted.name, media_type=wanted.media_type
    ) as content:
        meter = Meter(context, content.size)
        try:
            yield Metered(content, meter), meter
        finally:
            await meter.aclose()


async def incoming(context: Context, ask: Callable[[], Awaitable[Download]], to: Any) -> dict[str, Any]:
    """Ask a provider for bytes, and keep them where the request wants them; what is said of them is the result."""
    await context.depot.check(to, param="request.to")  # Before anything is asked for that costs.
    download = await ask()
    meter = Meter(context, download.size)
    try:
        kept = await context.depot.keep(download, to, param="request.to", progress=meter.reach)
        try:
            await meter.finish()
        except BaseException:
            # The attempt is over: nobody will hear of these bytes.
            await context.depot.forget(kept)
            raise
    finally:
        await meter.aclose()
    return kept
