"""A server's end, at which nobody is left on the threshold."""

from __future__ import annotations

import asyncio
from typing import Final

#: Turns of the loop in which what has been accepted becomes a connection, and in which what is closed is gone.
_TURNS: Final = 5


async def shut(server: asyncio.Server) -> None:
    """Take nobody in any more, and return when all who were have become connections.

    Where a server is closed between the two, asyncio (3.11) leaves the socket open: its protocol never hears of it.
    """
    loop = asyncio.get_running_loop()
    for listening in server.sockets:
        loop.remove_reader(listening.fileno())
    await settle()
    server.close()


async def settle() -> None:
    """Let the loop do what it has been told to do by now."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
