"""A worker that waits for Redis before it can begin answers whoever asks: what does not would be restarted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from observed import fetch
from processes import DELTABUS, PATIENCE, Background, environ, free_port

from deltabus.embedded import EmbeddedRedis


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["alone", "supervised"])
def test_a_worker_that_waits_for_redis_is_live_and_says_what_it_waits_for(
    stack: ExitStack, options: tuple[str, ...]
) -> None:
    port, where = free_port(), free_port()
    command = [*DELTABUS, "worker", "chat", "--metrics-port", str(port), *options]
    worker = stack.enter_context(Background(command, environ=environ(f"redis://127.0.0.1:{where}")))
    worker.wait_for("is away")
    assert fetch(port, "/livez").status == 200
    healthz = fetch(port, "/healthz")
    assert healthz.status == 503
    assert {problem["reason"] for problem in healthz.json["problems"]} == {"redis"}
    assert "deltabus_redis_up 0.0" in fetch(port, "/metrics").body
    stack.enter_context(EmbeddedRedis(port=where))
    worker.wait_for("worker started")
    assert fetch(port, "/livez").status == 200
    # What Redis has answered, or has not, serves whoever asks within a second.
    deadline = time.monotonic() + PATIENCE
    while "deltabus_redis_up 1.0" not in fetch(port, "/metrics").body:
        assert time.monotonic() < deadline, worker.said
