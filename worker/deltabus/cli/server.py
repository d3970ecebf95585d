"""The Redis server, as the command line meets it: reached at once or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltabus.errors import BusUnavailable
from deltabus.settings import Settings

if TYPE_CHECKING:
    from redis import Redis


def connect(settings: Settings) -> Redis:
    """A client that has been answered; it retries nothing, so that a person is not kept waiting.

    Its commands fail after `redis_timeout`.

    Raises:
        BusUnavailable: the server cannot be reached, or does not let us in.
    """
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
    from redis.retry import Retry

    from deltabus.clients import blocking

    client = blocking(
        settings.redis_url,
        home=settings.rq_key_prefix,
        socket_connect_timeout=settings.redis_timeout,
        socket_timeout=settings.redis_timeout,
        retry=Retry(NoBackoff(), 0),
    )
    # Bytes, whatever the URL says of decoding: not everything in Redis is text.
    client.connection_pool.connection_kwargs["decode_responses"] = False
    try:
        client.ping()
    except RedisError as exc:
        client.close()
        raise BusUnavailable(f"cannot reach Redis at {settings.redis_address}: {exc}") from exc
    return client
