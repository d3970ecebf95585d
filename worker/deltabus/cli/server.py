"""The Redis server, as the command line meets it: reached at once or not at all; by workers, in the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from deltabus.errors import BusUnavailable
from deltabus.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    from deltabus.servicemanager import ServiceManager


#: First and longest pause, in seconds, between two tries of a worker to reach Redis.
BACKOFF: Final = (0.1, 2.0)


def client(settings: Settings) -> Redis:
    """A client that retries nothing, so that a person is not kept waiting; it has not been connected yet.

    Its commands fail after `redis_timeout`.
    """
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from deltabus.topology.clients import blocking

    found = blocking(
        settings.redis_url,
        home=settings.rq_key_prefix,
        socket_connect_timeout=settings.redis_timeout,
        socket_timeout=settings.redis_timeout,
        retry=Retry(NoBackoff(), 0),
    )
    # Bytes, whatever the URL says of decoding: not everything in Redis is text.
    found.connection_pool.connection_kwargs["decode_responses"] = False
    return found


def connect(settings: Settings) -> Redis:
    """As `client`, and it has been answered.

    Raises:
        BusUnavailable: the server cannot be reached, or does not let us in.
    """
    from redis.exceptions import RedisError

    from deltabus.topology.certificates import misfit

    answered = client(settings)
    try:
        answered.ping()
    except RedisError as exc:
        answered.close()
        raise BusUnavailable(
            f"cannot reach Redis at {settings.redis_address}: {misfit(exc, fresh=True) or exc}"
        ) from exc
    return answered


def wait_for(
    settings: Settings,
    manager: ServiceManager,
    waiting: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
) -> Redis:
    """As `connect`, for what an orchestrator starts: a Redis that is away is waited for, and that is said.

    Args:
        manager: is told, at each try, that the start takes longer.
        waiting: a block to be in meanwhile. It is entered only where there is something to wait for.

    Raises:
        BusUnavailable: the server is there, and does not let us in, or is none of the kind that the URL says: that is
            mended by no waiting.
    """
    from redis import exceptions

    from deltabus.outage import Outage
    from deltabus.topology.certificates import misfit
    from deltabus.topology.guides import Misled

    final = (exceptions.AuthenticationError, exceptions.AuthorizationError, Misled)
    outage = Outage(settings.redis_address)
    pause, longest = BACKOFF
    with contextlib.ExitStack() as stack:
        while True:
            try:
                client = connect(settings)
            except BusUnavailable as exc:
                cause = exc.__cause__
                away = isinstance(cause, exceptions.ConnectionError | exceptions.TimeoutError)
                if not away or isinstance(cause, final) or misfit(exc, fresh=True):
                    raise
                if pause == BACKOFF[0]:
                    stack.enter_context(waiting())
                outage.meets("start", cause)
                manager.starting(f"waits for Redis at {settings.redis_address}")
                time.sleep(pause)
                pause = min(2 * pause, longest)
            else:
                outage.is_over_for("start")
                return client
