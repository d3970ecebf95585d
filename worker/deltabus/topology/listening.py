"""Listens on a Cluster for messages that are sharded: at all nodes at once, as each has those of its own slots."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import redis

from deltabus.topology.routing import AsyncRouting


class Listening(AsyncRouting):
    """Listens at all nodes at once: for what is published where, and on the home node for the rest.

    Replies and messages come as they come, from whichever line.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._ears: dict[Any, asyncio.Task[None]] = {}
        self._introduced = False

    @property
    def sharded(self) -> bool:
        """Whether it has to be listened for sharded messages."""
        return self._cluster.sharded

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        self._introduced = True
        if self.sharded:
            self._due = deque(maxlen=0)  # nothing is due from anybody: each line is listened to
            self._listen_to(self)

    async def _send_down(self, line: Any, batch: list[bytes]) -> None:
        await super()._send_down(line, batch)
        # Not before: what comes while it connects is for whoever connects it.
        if self._introduced and self.sharded and line in self._lines.values():
            self._listen_to(line)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if not self._ears:
            return await super().read_response(*args, **kwargs)
        heard = await self._heard.get()
        if isinstance(heard, Exception):
            raise heard
        return heard

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        ears, self._ears = list(self._ears.values()), {}
        for ear in ears:
            ear.cancel()
        # Whoever reads is told, whoever it was that disconnected.
        self._heard.put_nowait(redis.ConnectionError("the connection to the Cluster was given up"))
        self._heard = asyncio.Queue()
        self._introduced = False
        self._due = deque()
        await super().disconnect(*args, **kwargs)

    def _listen_to(self, line: Any) -> None:
        if line not in self._ears:
            self._ears[line] = asyncio.create_task(self._hear(line), name="deltabus shard")

    async def _hear(self, line: Any) -> None:
        read = super().read_response if line is self else line.read_response
        while True:
            try:
                self._heard.put_nowait(await read(disable_decoding=True))
            except Exception as exc:  # noqa: BLE001 # whoever reads gets it
                self._heard.put_nowait(exc)
                return
