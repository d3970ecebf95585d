"""Whoever is asked where a server is may not have heard of a change, and never hear of it."""

from __future__ import annotations

import asyncio
import contextlib
import socketserver
import threading
from collections.abc import Iterator

import pytest
import redis

from chaos.nodes import Nodes, ask, port
from deltabus.topology import clients

PREFIX = "{rq}"


class Stale(socketserver.StreamRequestHandler):
    """A node that was taken out of its Cluster: it says that all slots are at one node; its port is the class's."""

    port: int

    def handle(self) -> None:
        while line := self.rfile.readline():
            if line.startswith(b"SLOTS"):
                self.wfile.write(b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % self.port)
            elif line.startswith((b"SETINFO", b"HELLO")):
                self.wfile.write(b"-ERR unknown\r\n")


@contextlib.contextmanager
def stale(owner: int) -> Iterator[int]:
    kind = type("Node", (Stale,), {"port": owner})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes() as nodes:
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
    with stale(port(wrong)) as node:
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
