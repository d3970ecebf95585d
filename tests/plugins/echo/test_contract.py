"""The echo provider passes the contract, like any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from deltabus.testing import Case, ProviderContract
from deltabus_echo import EchoProvider
from deltabus_echo.script import ERRORS

TEXT = "every word, in order"


class TestEcho(ProviderContract):
    plugin = EchoProvider
    codes = tuple(ERRORS)
    exempt: ClassVar[Mapping[str, str]] = {
        "closed": "it answers by itself: there is no connection",
        "garbage": "it answers by itself: there is no endpoint to say it",
    }

    def settings(self) -> dict[str, Any]:
        return {"interval": 0, "chunk_words": 1}

    def case(self, **script: Any) -> Case:
        request = {"messages": [{"role": "user", "content": TEXT}], "echo": script}
        return Case(
            provider=EchoProvider("kit", self.settings()),
            request=request,
            text=TEXT,
            arrived=lambda: asyncio.sleep(0),
        )

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[Case]:
        yield self.case()

    @asynccontextmanager
    async def pausing(self) -> AsyncIterator[Case]:
        yield self.case(stall_after=2)

    @asynccontextmanager
    async def silent(self) -> AsyncIterator[Case]:
        yield self.case(stall_after=0)

    @asynccontextmanager
    async def breaking_off(self) -> AsyncIterator[Case]:
        yield self.case(truncate_after=2)

    @asynccontextmanager
    async def failing(self, code: str) -> AsyncIterator[Case]:
        yield self.case(error=code)
