"""Worker processes to kill, freeze and drain, and a check of what they leave."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import DELTABUS, PATIENCE, Background, environ

from deltabus import Bus, Task, keys
from deltabus.embedded import EmbeddedRedis
from deltabus.events import AnyEvent, Completed, Delta, Started
from deltabus.testing import ScriptedServer, check_events
from deltabus.topology import clients

#: Of a Redis that remembers everything when its process dies. It never waits for the disk: where that is busy, short
#: leases would run out.
DURABLE = ("--appendonly", "yes", "--appendfsync", "no")

#: Leases as short as a machine with a busy neighbour keeps them.
FAST = {"DELTABUS_LEASE": "2", "DELTABUS_HEARTBEAT_INTERVAL": "0.5", "DELTABUS_RETRY_DELAY": "0.05"}


class Scene:
    """A Redis of its own, workers on it, tasks, and what must be true at the end."""

    def __init__(self, server: EmbeddedRedis, url: str | None = None) -> None:
        self.server = server
        #: By which everybody reaches the server; another one leads there by some way round.
        self.url = url or server.url
        self.redis = clients.blocking(self.url, socket_timeout=PATIENCE)
        self.bus = Bus(self.url)
        self._ends = socket.socketpair()
        self._silence = self._ends[0]

    def close(self) -> None:
        self.bus.close()
        self.redis.close()
        for end in self._ends:
            end.close()

    @contextlib.contextmanager
    def worker(self, *options: str, **settings: str) -> Iterator[Background]:
        """A worker process that is ready; killed at the end, if it is still there."""
        command = (*DELTABUS, "worker", "chat", *options)
        with Background(command, environ=environ(self.url, **(FAST | settings))) as process:
            process.wait_for("worker started")
            try:
                yield process
            finally:
                process.process.send_signal(signal.SIGCONT)
                process.process.kill()
                print(process.said)  # noqa: T201 # shown where the test fails

    def chat(self, count: int = 1, *, retry: dict[str, Any] | None = None, **script: Any) -> list[Task]:
        """Tasks that the echo provider carries out as `script` says."""
        request = {"messages": [{"role": "user", "content": "hello"}], "stream": True, "echo": script}
        envelope: dict[str, Any] = {"request": request} | ({"retry": retry} if retry else {})
        return [self.bus.enqueue("deltabus.tasks.chat", envelope) for _ in range(count)]

    def reaches(self, task: Task, found: Callable[[AnyEvent], bool]) -> AnyEvent:
        """Follow the task up to such an event."""
        return next(event for event in task.events() if found(event))

    def streams(self, task: Task, attempt: int = 1) -> None:
        """Wait until that attempt has streamed something."""
        self.reaches(task, lambda event: isinstance(event, Delta) and event.attempt == attempt)

    def ending(self, task: Task) -> AnyEvent:
        """The task's terminal event, waited for; its log is in order."""
        events = list(task.events())
        check_events(events)
        return events[-1]

    def until(self, holds: Callable[[], object], otherwise: Callable[[], object] = lambda: None) -> None:
        """Wait until something holds that no message tells of; `otherwise` says what there is instead."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < deadline, f"it does not come to that: {otherwise()}"
            self.redis.blpop("a list that nobody writes", timeout=0.05)

    def words(self, task: Task, count: int) -> list[AnyEvent]:
        """The task completes with so many words, and its log is in order; its events."""
        events = list(task.events())
        check_events(events)
        ending = events[-1]
        assert isinstance(ending, Completed), ending
        content = ending.result["choices"][0]["message"]["content"]
        assert len(content.split()) == count
        streamed = "".join(
            chunk["choices"][0]["delta"].get("content") or ""
            for event in events
            if isinstance(event, Delta) and event.attempt == attempts(events)
            for chunk in event.chunks
            if chunk["choices"]
        )
        assert streamed == content
        return events

    def completes(self, task: Task, count: int) -> int:
        """The task completes with so many words, whatever became of its log in between; how many attempts it took."""
        events = list(task.events())
        check_events(events)
        ending = events[-1]
        assert isinstance(ending, Completed), ending
        assert len(ending.result["choices"][0]["message"]["content"].split()) == count
        return max(event.attempt or 0 for event in events)

    def takes_new_work(self) -> None:
        """A worker that has survived something has not fallen silent (peers.md, 13)."""
        (task,) = self.chat(words=3)
        self.words(task, 3)
        self.nothing_is_left()
        assert self.redis.hget(f"rq:job:{task.id}", "status") == b"finished"

    def refuses(self, error: str, times: int) -> None:
        """Wait until Redis has refused so many commands with this error."""
        name, deadline = f"errorstat_{error}", time.monotonic() + PATIENCE
        while self._refused(name) < times:
            assert time.monotonic() < deadline, f"{error} is not met"
            # Nothing tells; this waits a moment on a socket on which nothing comes.
            select.select([self._silence], [], [], 0.05)

    def _refused(self, name: str) -> int:
        found = self.redis.info("errorstats").get(name)
        return int(found["count"]) if isinstance(found, dict) else 0

    def nothing_is_left(self) -> None:
        """No list, lease or intent remembers a task that has ended; a moment after its end, which comes first."""
        self.until(lambda: not self._left(), self._left)

    def _left(self) -> set[bytes]:
        patterns = ("rq:queue:*", "rq:wip:*", "rq:execution*", "rq:worker:*:executions", f"{keys.PREFIX}:*:cancel")
        return {key for pattern in patterns for key in self.redis.scan_iter(pattern) if b"first_seen" not in key}


def attempts(events: list[AnyEvent]) -> int:
    """How many attempts have begun."""
    return max(event.attempt or 0 for event in events if isinstance(event, Started))


@pytest.fixture
def provider() -> Iterator[ScriptedServer]:
    """A server that says what a test scripts."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def scene(fresh_redis: EmbeddedRedis) -> Iterator[Scene]:
    """A Redis of this test's own."""
    scene = Scene(fresh_redis)
    yield scene
    scene.close()


@pytest.fixture
def durable() -> Iterator[Scene]:
    """A Redis that remembers everything over a restart."""
    with EmbeddedRedis(args=DURABLE) as server:
        scene = Scene(server)
        yield scene
        scene.close()
