"""Whoever is asked where a server is may not have heard of a change, and never hear of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import liars
import pytest
import redis

from chaos.nodes import PATIENT, Nodes, ask, port
from deltabus.embedded import EmbeddedRedis
from deltabus.topology import clients

PREFIX = "{rq}"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes(PATIENT) as nodes:
        yield nodes


@pytest.mark.parametrize("key", [f"{PREFIX}:key", "a key of another node"])
def test_a_node_that_knows_nothing_of_a_change_leads_astray_once(nodes: Nodes, key: str) -> None:
    owner = nodes.owner(nodes.slot(key))
    other = next(server for server in nodes.servers if server is not owner)
    if key.startswith(PREFIX):
        wrong = other
    else:  # where RQ's keys are right, and the others are not
        wrong = nodes.owner(nodes.slot(PREFIX))
        assert wrong is not owner
    with liars.node(port(wrong)) as node:
        url = f"redis+cluster://127.0.0.1:{node},127.0.0.1:{port(other)}"
        with clients.blocking(url, home=PREFIX) as client:
            with contextlib.suppress(redis.ConnectionError):  # who asks again is led elsewhere
                client.set(key, 1)
            assert client.set(key, 1)

        async def main() -> None:
            async with clients.asynchronous(url, home=PREFIX) as client:
                with contextlib.suppress(redis.ResponseError):
                    await client.set(key, 2)
                assert await client.set(key, 2)

        asyncio.run(main())
    assert ask(owner, "GET", key) == "2"


def test_a_sentinel_that_names_a_former_master_leads_astray_once(redis_server: EmbeddedRedis) -> None:
    master = port(redis_server)
    with (
        EmbeddedRedis(args=["--replicaof", "127.0.0.1", str(master)]) as replica,
        liars.sentinel(port(replica)) as stale,
        liars.sentinel(master) as current,
    ):
        url = f"redis+sentinel://127.0.0.1:{stale},127.0.0.1:{current}/mymaster"
        with clients.blocking(url) as client:
            with pytest.raises(redis.ConnectionError, match="is a slave"):
                client.ping()
            assert client.ping()

        async def main() -> None:
            async with clients.asynchronous(url) as client:
                with pytest.raises(redis.ConnectionError, match="is a slave"):
                    await client.ping()
                assert await client.ping()

        asyncio.run(main())
