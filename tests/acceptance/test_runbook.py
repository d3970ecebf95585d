"""ops/runbook.md at night: each symptom is put on, and its commands are typed as they stand, and answer as it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, Block, Reader, blocks
from observed import fetch
from processes import DELTABUS, PATIENCE, Background, environ, free_port
from redis import Redis
from rq.job import Job
from rq.registry import FailedJobRegistry

from deltabus import Bus, Task, TaskFailed, errors, events, keys
from deltabus.embedded import EmbeddedRedis
from deltabus.testing.server import Reply, ScriptedServer

DOCUMENT = ROOT / "ops" / "runbook.md"
HEADING = re.compile(r"^## (.+)$")

CONFIG = """
[providers.vllm]
base_url = "{url}"
api_key = "sk-not-the-key"
models = ["llama-*"]

[providers.echo]
"""

#: An answer without end, until somebody cancels it.
ENDLESS = {"echo": {"words": 100_000, "interval": 0.05}}
#: Leases as short as a machine with a busy neighbour keeps them, and two slots to fill.
SETTINGS = {"DELTABUS_LEASE": "4", "DELTABUS_HEARTBEAT_INTERVAL": "1", "DELTABUS_CONCURRENCY": "2"}

pytestmark = pytest.mark.skipif(
    shutil.which("redis-cli") is None and os.environ.get("CI") != "true", reason="redis-cli is not installed"
)


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

    def __init__(self, server: EmbeddedRedis, reader: Reader, folder: Path) -> None:
        self.server = server
        self.reader = reader
        self.folder = folder
        self.redis = Redis.from_url(server.url)
        self.bus = Bus(server.url)
        self.worker = self.start()

    def start(self, *options: str) -> Background:
        """A worker process; without options, the one whose port the runbook names."""
        options = options or ("--metrics-port", self.reader.here("9464"))
        variables = environ(self.server.url, **SETTINGS)
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
        task = self.bus.chat(messages="hello", **(request or ENDLESS))
        for event in task.events():
            if isinstance(event, events.Delta):
                break
        return task

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
        for task in (*self.redis.zrange("rq:wip:chat", 0, -1), *self.redis.lrange("rq:queue:chat", 0, -1)):
            self.bus.task(task.decode().partition(":")[0]).cancel()
        self.until(lambda: not self.redis.exists("rq:wip:chat", "rq:queue:chat"))
        registry = FailedJobRegistry("chat", connection=self.redis, serializer="json")
        for task in registry.get_job_ids():
            registry.remove(task, delete_job=True)

    def close(self) -> None:
        self.worker.stop()
        self.bus.close()
        self.redis.close()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    folder = tmp_path_factory.mktemp("night")
    refusal = Reply.json({"error": {"message": "wrong key", "type": "authentication_error"}}, 401)
    with (
        EmbeddedRedis(args=("--appendonly", "yes")) as server,
        ScriptedServer(default=lambda _: refusal) as provider,
        Reader(folder, server.url) as reader,
    ):
        (folder / "deltabus.toml").write_text(CONFIG.format(url=provider.url), encoding="utf-8")
        night = Night(server, reader, folder)
        try:
            night.show(PID=night.worker.process.pid)
            yield night
        finally:
            night.close()


Scene = Callable[[Night], contextlib.AbstractContextManager[None]]
#: What puts a section's symptom on, by its heading; where a section has none, all is well.
SCENES: dict[str, Scene] = {}


def scene(*headings: str) -> Callable[[Callable[[Night], Iterator[None]]], None]:
    def add(play: Callable[[Night], Iterator[None]]) -> None:
        SCENES.update(dict.fromkeys(headings, contextlib.contextmanager(play)))

    return add


@scene("Where to look first")
def a_bus_at_work(night: Night) -> Iterator[None]:
    night.done()
    night.failed()
    night.running()
    yield


@scene("Nobody works on that queue")
def a_mistyped_queue(night: Night) -> Iterator[None]:
    task = night.bus.chat(messages="hello", queue="chta")
    yield
    task.result(timeout=PATIENCE)
    night.redis.srem("rq:queues", "rq:queue:chta")


@scene("Work is suspended")
def suspended(night: Night) -> Iterator[None]:
    night.redis.set("rq:suspended", 1)
    night.until(lambda: '"suspended"' in night.health())
    yield
    night.done()


@scene("Workers look alive and do nothing")
def stopped(night: Night) -> Iterator[None]:
    night.worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        night.worker.process.send_signal(signal.SIGCONT)


@scene("The queue grows")
def too_few_slots(night: Night) -> Iterator[None]:
    for _ in range(2):
        night.running()
    waiting = [night.bus.chat(messages="hello") for _ in range(3)]
    night.until(lambda: 'deltabus_queue_depth{queue="chat"} 3.0' in night.health("metrics"))
    yield
    for task in waiting:
        task.result(timeout=PATIENCE)


@scene("A provider fails", "A secret was changed")
def a_key_that_is_refused(night: Night) -> Iterator[None]:
    task = night.failed()
    yield
    night.until(lambda: [event.id for event in task.events()][-2:-1] == ["2-0"])
    night.fails(task)


@scene("Tasks fail")
def a_failed_task(night: Night) -> Iterator[None]:
    night.show(TASK=night.failed().id)
    yield


@scene("Dead tasks")
def failed_tasks(night: Night) -> Iterator[None]:
    night.failed(echo={"error": "provider_unavailable"}, retry={"max": 0})
    yield


@scene("Redis is away")
def no_redis(night: Night) -> Iterator[None]:
    night.server.kill()
    try:
        night.until(lambda: "Redis does not answer" in night.health())
        yield
    finally:
        night.server.start()


@scene("Redis is full")
def no_memory(night: Night) -> Iterator[None]:
    night.redis.config_set("maxmemory", 1)
    try:
        yield
    finally:
        night.redis.config_set("maxmemory", 0)


@scene("Redis is read-only")
def a_replica(night: Night) -> Iterator[None]:
    night.redis.replicaof("127.0.0.1", free_port())
    try:
        yield
    finally:
        night.redis.replicaof("NO", "ONE")


@scene("Memory grows", "Something came twice")
def a_task_that_is_done(night: Night) -> Iterator[None]:
    night.show(TASK=night.done().id)
    yield


@scene("A worker was killed or froze")
def killed(night: Night) -> Iterator[None]:
    for _ in range(2):
        night.running()
    with night.start("--name", "unlucky") as unlucky:
        task = night.running(echo={"words": 60, "interval": 0.1})
        unlucky.process.kill()
    for other in night.redis.zrange("rq:wip:chat", 0, -1):
        if (name := other.decode().partition(":")[0]) != task.id:
            night.bus.task(name).cancel()
    night.show(TASK=task.id)
    yield


@scene("One task kills its workers")
def poison(night: Night) -> Iterator[None]:
    task = "poison-1"
    data = json.dumps(
        ["deltabus.tasks.chat", None, [{"request": {"messages": [{"role": "user", "content": "x"}]}}], {}]
    )
    fields = {"data": data, "origin": "chat", "status": "queued", "deltabus_lost": "5"}
    night.redis.hset(f"rq:job:{task}", mapping=fields)
    night.redis.rpush("rq:queue:chat", task)
    night.fails(night.bus.task(task))
    night.show(TASK=task)
    yield
    assert not night.redis.exists(f"rq:job:{task}")
    assert (night.folder / "evidence.txt").stat().st_size


@scene("A task hangs", "Which worker runs a task", "What a task has said", "Subscribers get nothing")
def a_task_that_runs(night: Night) -> Iterator[None]:
    night.show(TASK=night.running().id)
    yield


@scene("A cancel does not act")
def a_wish_that_nobody_sees(night: Night) -> Iterator[None]:
    task = night.bus.chat(messages="hello", queue="elsewhere")
    night.redis.set(keys.cancel(task.id), "too late")
    night.show(TASK=task.id, DONE=night.done().id)
    yield
    night.redis.delete("rq:queue:elsewhere")
    night.redis.srem("rq:queues", "rq:queue:elsewhere")


@scene("Send a worker home")
def a_worker_with_work(night: Night) -> Iterator[None]:
    task = night.running()
    yield
    task.cancel()
    assert night.worker.end() == 0
    night.worker.stop()
    night.worker = night.start()
    night.show(PID=night.worker.process.pid)


SECTIONS = sections()


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_symptom_is_what_its_commands_say(night: Night, heading: str) -> None:
    night.tidy()
    with SCENES.get(heading, contextlib.nullcontext)(*([night] if heading in SCENES else [])):
        for block in SECTIONS[heading]:
            night.reader.run(block)


def test_every_scene_has_its_section_and_every_section_commands() -> None:
    assert SCENES.keys() <= SECTIONS.keys()
    assert all(SECTIONS.values())


def test_every_link_leads_to_something() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    places = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in SECTIONS}
    for file, place in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        assert not file or (DOCUMENT.parent / file).exists(), file
        assert file or place in places, place


def test_every_code_has_a_meaning_and_a_cure() -> None:
    codes = {cls.code for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.TaskError)}
    table = DOCUMENT.read_text(encoding="utf-8").partition("| code | meaning | cure |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert all(len(row) == 3 and all(row) for row in rows)
    assert {row[0].strip("`") for row in rows} == codes
