"""What all tests share: a private Redis per test process, emptied for each test, and a loop to run coroutines on."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings

from deltabus.embedded import EmbeddedRedis

# Whoever starts the tests may have these ignored (nohup, a shell's &), and the processes that tests start would
# inherit that: they could not be told to leave.
for _ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, signal.default_int_handler if _ignored == signal.SIGINT else signal.SIG_DFL)


# How long an example takes says more of the machine than of what it is an example for.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


# What is made until the tests begin stays to the end, in every test process: looking among it for garbage takes half
# of the time of a collection, and a part of every look later on.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """The test process's own server, one for each xdist worker; tests that harm one take `fresh_redis`."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The shared server's URL, with nothing in it."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def fresh_redis() -> Iterator[EmbeddedRedis]:
    """A server for this test alone, to kill, pause, restart or reconfigure."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """`run(main())` runs a coroutine to its end; all of one test on the same loop."""
    with asyncio.Runner() as runner:
        yield runner.run
