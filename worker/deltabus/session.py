"""What a bus holds while it is in use: one connection for commands, one for channels."""

from __future__ import annotations

import redis.asyncio

from deltabus.blobs import Blobs
from deltabus.commit import GroupCommit
from deltabus.feed import Feed
from deltabus.follow import Follower
from deltabus.records import Records, RQKeys
from deltabus.scripts import BUS
from deltabus.settings import Settings
from deltabus.topology import clients


class Session:
    """The connections of one bus, on the loop on which it was made. They are opened when they are needed.

    Args:
        client: gives address and credentials; by default, `settings.redis_url` does.
    """

    def __init__(self, settings: Settings, client: redis.asyncio.Redis | None = None) -> None:
        if client is None:
            client = clients.asynchronous(settings.redis_url, home=settings.rq_key_prefix)
        self.settings = settings
        self.names = RQKeys(settings.rq_key_prefix)
        self.commit = GroupCommit(client, BUS, patience=settings.redis_timeout)
        self.blobs = Blobs(self.commit)
        self.records = Records(self.commit, self.names)
        self._feed = Feed(client)
        self.follower = Follower(self.commit, self._feed, self.records)

    async def aclose(self) -> None:
        """Close the connections. Whoever still waits for something gets `BusUnavailable`."""
        await self.commit.aclose()
        await self._feed.aclose()
