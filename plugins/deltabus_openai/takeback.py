"""Takes back what was begun at the endpoint and cannot be finished: bounded in time, and not to be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from urllib.parse import quote

from deltabus.http import Client, Timeouts
from deltabus.provider import Request, TaskError
from deltabus_openai.config import Config

#: Seconds that it may take.
PATIENCE = 3.0


class Takeback:
    """The requests that undo others. They have their own time: the task's may be over."""

    def __init__(self, client: Client, config: Config) -> None:
        self._client = client
        self._config = config
        self._limits = Timeouts(connect=PATIENCE, first_byte=PATIENCE, between_bytes=PATIENCE, total=PATIENCE)
        #: Those that nobody waits for any more.
        self._running: set[asyncio.Task[None]] = set()

    async def file(self, file_id: str, request: Request) -> None:
        """Delete a file that is not what was sent."""
        await self._shielded(self._ask("DELETE", f"files/{quote(file_id, safe='')}", request))

    async def upload(self, upload_id: str, request: Request) -> None:
        """Cancel an upload."""
        await self._shielded(self._ask("POST", f"uploads/{quote(upload_id, safe='')}/cancel", request))

    async def aclose(self) -> None:
        """Give up what is under way."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _ask(self, method: str, path: str, request: Request) -> None:
        headers = Request(headers=request.headers)
        try:
            await self._client.json(method, self._config.endpoint.url(path), headers, timeouts=self._limits)
        except TaskError:
            return  # What went wrong first is what is reported; uploads and most files expire by themselves.

    async def _shielded(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for it; whoever is cancelled meanwhile goes, and it goes on."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)
