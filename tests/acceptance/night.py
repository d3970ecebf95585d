"""A bus that runs at night, and somebody with ops/runbook.md in a shell."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import warm
from documents import ROOT, Block, Reader, blocks
from observed import fetch
from processes import DELTABUS, PATIENCE, Background, environ, patient
from redis.exceptions import RedisError
from rq.job import Job
from rq.registry import FailedJobRegistry
from talker import MODEL, Talker

from deltabus import Bus, BusError, Task, TaskFailed, TaskNotFound, events
from deltabus.embedded import EmbeddedRedis
from deltabus.testing.server import Reply, ScriptedServer

DOCUMENT = ROOT / "ops" / "runbook.md"
HEADING = re.compile(r"^#{2,3} (.+)$")

CONFIG = """
[providers.vllm]
base_url = "{url}"
api_key = "sk-not-the-key"
models = ["llama-*"]

[providers.talker]
plugin = "openai"
base_url = "{talker}/v1"
models = ["{model}"]

[providers.echo]
"""

#: Where the others of ops/deploy have it: beside the URL.
PASSWORD = "p@ss/w:rd"

#: It keeps what it has, and never waits for the disk: where that is busy, a worker would find it away.
ARGUMENTS = ("--appendonly", "yes", "--appendfsync", "no")

#: An answer without end, until somebody cancels it.
ENDLESS = {"echo": {"words": 100_000, "interval": 0.05}}
#: Two slots to fill; and a lease and a drain that no scene outlives, however busy the machine.
SETTINGS = {
    "DELTABUS_LEASE": "30",
    "DELTABUS_HEARTBEAT_INTERVAL": "1",
    "DELTABUS_DRAIN_TIMEOUT": "600",
    "DELTABUS_CONCURRENCY": "2",
}


def sections() -> dict[str, list[Block]]:
    """The blocks of each section, by its heading."""
    headings = {
        number: match[1]
        for number, line in enumerate(DOCUMENT.read_text(encoding="utf-8").splitlines(), 1)
        if (match := HEADING.match(line))
    }
    found: dict[str, list[Block]] = {heading: [] for heading in headings.values()}
    for block in blocks(DOCUMENT):
        found[headings[max(number for number in headings if number < block.line)]].append(block)
    return found


class Night:
    """A bus that runs, and somebody with the runbook; scenes put symptoms on."""

    def __init__(self, server: EmbeddedRedis, talker: Talker, reader: Reader, folder: Path) -> None:
        self.server = server
        self.talker = talker
        self.reader = reader
        self.folder = folder
        #: As ops/deploy sets it: a URL without its password, and the port that all processes of a host would have.
        self.environ = {
            "DELTABUS_CONFIG": str(folder / "deltabus.toml"),
            "DELTABUS_REDIS_URL": server.url.replace(f":{quote(PASSWORD, safe='')}@", ""),
            "DELTABUS_REDIS_PASSWORD_FILE": str(folder / "admin-password"),
            "DELTABUS_METRICS_PORT": reader.here("9464"),
            "DELTABUS_METRICS_HOST": "127.0.0.1",
            "DELTABUS_LOG_FORMAT": "json",
        }
        (folder / "admin-password").write_text(PASSWORD, encoding="utf-8")
        reader.environ |= {**self.environ, "ADMIN": self.environ["DELTABUS_REDIS_URL"]}
        self.redis = patient(server.url)
        self.bus = Bus(server.url)
        self.worker = self.start()

    def start(self, *options: str, **more: str) -> Background:
        """A worker process; without options, the one whose port the runbook names."""
        variables = environ(**{**self.environ, **SETTINGS, **more})
        worker = Background([*DELTABUS, "worker", "chat", "file", *options], folder=self.folder, environ=variables)
        try:
            worker.wait_for("worker started")
        except AssertionError:
            worker.stop()
            raise
        return worker

    def health(self, path: str = "healthz") -> str:
        with contextlib.suppress(OSError):
            return fetch(int(self.reader.here("9464")), f"/{path}").body
        return ""

    def until(self, seen: Callable[[], bool]) -> None:
        """Look until it is seen. Each look is a round trip, which takes its time."""
        deadline = time.monotonic() + PATIENCE
        while not seen():
            assert time.monotonic() < deadline, self.worker.said

    def well(self) -> bool:
        return '"ok"' in self.health("readyz")

    def show(self, **variables: str | int) -> None:
        self.reader.environ |= {name: str(value) for name, value in variables.items()}

    def done(self) -> Task:
        task = self.bus.chat(messages="hello there")
        task.result(timeout=PATIENCE)
        return task

    def running(self, **request: Any) -> Task:
        task = self.bus.chat(**{"messages": "hello", **(request or ENDLESS)})
        for event in task.events():
            if isinstance(event, events.Delta):
                break
        return task

    def talking(self, topic: str) -> Task:
        """It runs until `talker.let_end(topic)`."""
        return self.running(messages=topic, model=MODEL)

    def failed(self, **request: Any) -> Task:
        task = self.bus.chat(messages="hello", **(request or {"model": "llama-3"}))
        self.fails(task)
        return task

    def fails(self, task: Task) -> None:
        with pytest.raises(TaskFailed):
            task.result(timeout=PATIENCE)
        self.until(lambda: Job.fetch(task.id, connection=self.redis, serializer="json").is_failed)

    def tidy(self) -> None:
        """Leave an idle worker, and nothing that waits, runs or has failed."""
        self.until(self.well)
        self.until(self.cancelled)
        registry = FailedJobRegistry("chat", connection=self.redis, serializer="json")
        for task in registry.get_job_ids():
            registry.remove(task, delete_job=True)

    def cancelled(self) -> bool:
        """Cancel what runs and waits; whether that was nothing. One that is on its way from the queue is seen later."""
        tasks = (*self.redis.zrange("rq:wip:chat", 0, -1), *self.redis.lrange("rq:queue:chat", 0, -1))
        for task in tasks:
            with contextlib.suppress(TaskNotFound):  # it has ended by itself
                self.bus.task(task.decode().partition(":")[0]).cancel()
        return not tasks and not self.redis.exists("rq:queue:chat:intermediate")

    def succeeded(self) -> None:
        """The worker has left in good order; another one is there."""
        assert self.worker.end() == 0
        self.worker.stop()
        self.worker = self.start()
        self.show(PID=self.worker.process.pid)

    def close(self) -> None:
        with contextlib.suppress(BusError, RedisError):  # as where a scene has failed that has none, or a full one
            self.cancelled()
        self.worker.stop()
        self.bus.close()
        self.redis.close()


@contextlib.contextmanager
def begun(folder: Path) -> Iterator[Night]:
    """A night, in an empty folder."""
    refusal = Reply.json({"error": {"message": "wrong key", "type": "authentication_error"}}, 401)
    with (
        EmbeddedRedis(args=(*ARGUMENTS, "--requirepass", PASSWORD)) as server,
        ScriptedServer(default=lambda _: refusal) as provider,
        Talker(folder) as talker,
        Reader(folder) as reader,
        warm.programs() as programs,
    ):
        reader.environ["PATH"] = f"{programs}{os.pathsep}{reader.environ['PATH']}"
        config = CONFIG.format(url=provider.url, talker=talker.url, model=MODEL)
        (folder / "deltabus.toml").write_text(config, encoding="utf-8")
        night = Night(server, talker, reader, folder)
        try:
            night.show(PID=night.worker.process.pid)
            yield night
        finally:
            night.close()
