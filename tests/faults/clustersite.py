"""A bus on a Cluster: producers, worker processes, and what must be true at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import redis
from faults import FAST, attempts
from processes import DELTABUS, PATIENCE, Background, environ
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.nodes import Nodes
from deltabus import Bus, Completed, Delta, Task
from deltabus.embedded import EmbeddedRedis
from deltabus.settings import Settings
from deltabus.testing import check_events
from deltabus.topology import clients

PREFIX = "{rq}"


class Site:
    """A bus on the Cluster."""

    def __init__(self, nodes: Nodes, options: str = "") -> None:
        self.nodes = nodes
        url = nodes.url + options
        self.environ = environ(url, RQ_KEY_PREFIX=PREFIX, **FAST)
        self.bus = Bus(settings=Settings(redis_url=url, rq_key_prefix=PREFIX, redis_timeout=PATIENCE))
        # A node that has handed over says so once to each connection.
        self.redis = clients.blocking(url, home=PREFIX, retry=Retry(NoBackoff(), 3))

    def close(self) -> None:
        self.bus.close()
        self.redis.close()

    @contextlib.contextmanager
    def worker(self, **settings: str) -> Iterator[Background]:
        with Background([*DELTABUS, "worker", "chat", "file"], environ=self.environ | settings) as process:
            process.wait_for("worker started")
            yield process

    def chat(self, count: int, **script: object) -> list[Task]:
        return [self.bus.chat({"echo": script}, messages="hello") for _ in range(count)]

    def streams(self, task: Task) -> None:
        next(event for event in task.events() if isinstance(event, Delta))

    def completes(self, task: Task, words: int) -> int:
        """The task completes with so many words, and its log is in order; how many attempts it took."""
        events = list(task.events())
        check_events(events)
        assert isinstance(events[-1], Completed), events[-1]
        assert len(events[-1].result["choices"][0]["message"]["content"].split()) == words
        return attempts(events)

    def keys(self, server: EmbeddedRedis) -> list[bytes]:
        with redis.Redis.from_url(server.url) as client:
            return client.keys()

    def until(self, holds: Callable[[], object], otherwise: str) -> None:
        """Wait until something holds that no message tells of."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, otherwise
            self.redis.blpop(["a list that nobody writes"], timeout=0.05)

    def synchronise(self, master: EmbeddedRedis) -> None:
        """Everything that was written there so far is on its replica."""
        with redis.Redis.from_url(master.url) as client:
            client.set(f"{PREFIX}:synchronised", 1)
            assert client.wait(1, int(PATIENCE * 1000)) == 1
