"""Room for what is held in memory: the inline attachments of all chats of a process.

Who begins to fetch takes as much as it may come to, and gives back what it did not need once it knows. So many
chats with small pictures run at once, and a few with large ones; the others wait for their turn, first come, first
served, and hold nothing meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Share:
    """What somebody holds of the room."""

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self.size = size

    def shrink(self, size: int) -> None:
        """Give back all but so much."""
        spare = max(0, self.size - size)
        self.size -= spare
        self._room.give(spare)


class Room:
    """So many bytes, on one asyncio loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def share(self, size: int) -> AsyncGenerator[Share]:
        """So much of it, or all of it where there is no more, for as long as the block lasts."""
        share = Share(self, min(size, self._size))
        await self._take(share.size)
        try:
            yield share
        finally:
            share.shrink(0)

    def give(self, size: int) -> None:
        """There is so much more; those who wait get it, in their order."""
        self._free += size
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)

    async def _take(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)  # it came in the moment in which it was not wanted any more
            else:
                turn.cancel()
                self.give(0)
            raise
