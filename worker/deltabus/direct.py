"""The short way to Redis: a connection on which a calling thread sends its commands and reads the replies itself.

It is for when all is well. Where anything is not, there are no replies, and the caller goes the long
way, a group commit, which knows what to do about it: as it sends the same bytes, nothing is done twice.

From thread to loop and back takes as long as all the rest of putting a task on a queue, or, where others want the
processor, much longer: 240 to 500 us were measured for what takes 100 here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from deltabus.bus import AsyncBus
from deltabus.commit import is_not_now
from deltabus.portal import portal
from deltabus.topology import clients

#: Bytes for which it is worth it.
MAX_BYTES: Final = 64 * 1024

#: Seconds that the replies may take, and part of the patience with Redis that they may take at the most.
TIMEOUT: Final = 1.0
PART: Final = 1 / 4


class DirectLine:
    """For one thread at a time. It connects when it is needed.

    Args:
        url: of Redis.
        home: prefix of RQ's keys.
        patience: seconds for which Redis may be away.
    """

    def __init__(self, url: str, *, home: str, patience: float) -> None:
        timeout = min(TIMEOUT, patience * PART)
        options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 0)}
        pool = clients.blocking(url, home=home).connection_pool
        self._connection = pool.connection_class(**{**pool.connection_kwargs, **options, "protocol": 2})
        self._in_use = threading.Lock()

    def exchange(self, packed: Sequence[bytes]) -> list[Any] | None:
        """Send commands, and wait for the replies.

        Returns:
            the replies, in the same order; None: they have to be sent another way. Some may have been executed.

        Raises:
            ResponseError: Redis refuses.
        """
        if sum(map(len, packed)) > MAX_BYTES or not self._in_use.acquire(blocking=False):
            return None
        try:
            return self._exchange(packed)
        finally:
            self._in_use.release()

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def _exchange(self, packed: Sequence[bytes]) -> list[Any] | None:
        replies = None
        try:
            self._connection.send_packed_command(packed, check_health=False)
            replies = [self._reply() for _ in packed]
        except (RedisError, OSError):
            return None
        finally:
            if replies is None or any(map(is_not_now, replies)):
                # What comes on it later belongs to nobody; and a server that is a replica now need not stay one.
                self._connection.disconnect()
        for reply in replies:
            if is_not_now(reply):
                return None
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def _reply(self) -> Any:
        try:
            return self._connection.read_response(disable_decoding=True)
        except ResponseError as exc:
            return exc


class DirectBus(AsyncBus):
    """An `AsyncBus` on the private loop, through which other threads put tasks on queues the short way.

    In them, a method that waits for nothing else never suspends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A client may find its server in ways that are its own.
        known = self._client is None
        url, home, patience = self._settings.redis_url, self._settings.rq_key_prefix, self._settings.redis_timeout
        self._line = DirectLine(url, home=home, patience=patience) if known else None

    async def aclose(self) -> None:
        if self._line is not None:
            self._line.close()
        await super().aclose()

    async def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        if portal().is_current:
            return await super()._exchange(packed)
        replies = None if self._line is None else self._line.exchange(packed)
        return portal().run(super()._exchange(packed)) if replies is None else replies
