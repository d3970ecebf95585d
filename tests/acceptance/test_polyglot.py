"""Producers and subscribers of other making, the files of ops/examples as they stand: all see the same bytes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from processes import PATIENCE, Background, environ
from rq import Queue
from rq.job import Job

from deltabus import Bus, events, keys
from deltabus.embedded import EmbeddedRedis
from deltabus.errors import ErrorInfo
from deltabus.events import Completed, Failed, Progress
from deltabus.log import Log
from deltabus.settings import Settings

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "ops" / "examples"
PROTOCOL = ROOT / "ops" / "protocol.md"

#: Multi-byte characters, quotes, and what JSON in JavaScript trips over.
PROMPT = 'Grüße, 日本語 🙂 "quoted" \\ \u2028 end'

WORKERS = ["deltabus.worker.AsyncWorker", "rq.SimpleWorker"]


@pytest.fixture(scope="session")
def node() -> Callable[[str], list[str | Path]]:
    """`node("producer.mjs")`: the command that runs an example. What it needs is installed once, into .cache."""
    if not shutil.which("node") or not shutil.which("npm"):
        # CI installs it: see .ci/run.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("Node.js with npm is not installed")
    wanted = [file for file in sorted(EXAMPLES.iterdir()) if file.suffix in {".mjs", ".json"} or file.name == ".npmrc"]
    digest = sha256(b"".join(file.read_bytes() for file in wanted)).hexdigest()[:16]
    folder = ROOT / ".cache" / "node" / digest
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # Test processes share the folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".installed").exists():
            for file in wanted:
                shutil.copy(file, folder)
            subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=PATIENCE)
            (folder / ".installed").touch()
    return lambda script: ["node", folder / script]


class Stage:
    """A Redis, and processes that know its URL."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url, socket_timeout=PATIENCE)
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._workers: list[Background] = []
        self.environment = environ(REDIS_URL=url)

    def start(self, command: list[Any], **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._processes.append(process)
        return process

    def start_worker(self, kind: str) -> None:
        command = [sys.executable, "-m", "rq.cli", "worker", "-w", kind, "-S", "json", "-u", self.url, "chat"]
        self._workers.append(Background(command, folder=self._folder, environ=self.environment))

    def produce(self, command: list[Any], **environment: str) -> str:
        """Run a producer to its end; the id it prints."""
        return ended(self.start([*command, PROMPT], **environment)).decode().strip()

    @contextlib.contextmanager
    def until_subscribed(self, task: str) -> Iterator[None]:
        """Leave when a subscription to the task, begun inside, is there."""
        with self.redis.monitor() as monitor:
            yield
            wanted = re.compile(f"(?i:subscribe) {re.escape(keys.events(task))}")
            next(seen for seen in monitor.listen() if wanted.fullmatch(seen["command"]))

    def log(self, task: str) -> bytes:
        """The log's events, one a line."""
        return b"".join(fields[keys.EVENT_FIELD.encode()] + b"\n" for _, fields in self.redis.xrange(keys.log(task)))

    def close(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)
        for worker in self._workers:
            # Told at an unlucky moment, RQ's own goes on all the same, until it is told again.
            worker.process.kill()
            worker.stop()
        self.redis.close()


@pytest.fixture
def stage(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(redis_url, tmp_path)
    yield stage
    stage.close()


def ended(process: subprocess.Popen[bytes], code: int = 0) -> bytes:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err.decode()
    return out


@pytest.mark.parametrize("kind", WORKERS)
def test_a_task_from_node_is_seen_alike_by_node_python_and_the_log(stage, node, kind):
    task = stage.produce(node("producer.mjs"))
    with stage.until_subscribed(task):
        early = stage.start([*node("subscriber.mjs"), task])
    stage.start_worker(kind)

    seen = ended(early)
    assert seen == stage.log(task)
    assert ended(stage.start([*node("subscriber.mjs"), task])) == seen
    lines = seen.splitlines(keepends=True)
    cursor = json.loads(lines[0])["id"]
    assert ended(stage.start([*node("subscriber.mjs"), task, cursor])) == b"".join(lines[1:])
    with Bus(stage.url) as bus:
        happened = list(bus.task(task).events())
        assert happened == [events.decode(line) for line in lines]
        assert isinstance(happened[-1], Completed)
        assert bus.task(task).result(timeout=PATIENCE) == happened[-1].result
        assert "".join(bus.task(task).text()) == happened[-1].result["choices"][0]["message"]["content"]


@pytest.mark.parametrize("kind", WORKERS)
def test_stock_rq_and_node_get_the_same_answer(stage, node, kind):
    stage.start_worker(kind)
    tasks = [stage.produce(node("producer.mjs")), stage.produce([sys.executable, EXAMPLES / "producer.py"])]

    for task in tasks:
        ended(stage.start([*node("subscriber.mjs"), task]))
    with Bus(stage.url) as bus:
        from_node, from_rq = (bus.task(task).result(timeout=PATIENCE) for task in tasks)
        assert answer(from_node) == answer(from_rq)
        kinds = [grammar(bus.task(task).events()) for task in tasks]
        assert kinds[0] == kinds[1] == ["started", "delta", "completed"]


def answer(completion: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on when and for whom it was made."""
    return {name: value for name, value in completion.items() if name not in {"id", "created"}}


def grammar(happened: Iterator[events.AnyEvent]) -> list[str]:
    """The types of the events; several deltas on end count as one, as their number is a matter of speed."""
    names = [type(event).__name__.lower() for event in happened]
    return [name for place, name in enumerate(names) if place == 0 or name != names[place - 1]]


def test_a_job_from_node_is_whole_to_rqs_eyes(stage, node):
    task = stage.produce(node("producer.mjs"))

    job = Job.fetch(task, connection=stage.redis, serializer="json")
    assert (job.func_name, job.origin, job.get_status(), job.timeout) == ("deltabus.tasks.chat", "chat", "queued", 3600)
    assert job.args[0]["request"]["messages"] == [{"role": "user", "content": PROMPT}]
    assert job.created_at == job.enqueued_at
    assert Queue("chat", connection=stage.redis, serializer="json").job_ids == [task]
    shown = subprocess.run(
        [Path(sys.executable).with_name("rq"), "info", "-u", stage.url], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"chat .* 1, 0 executing, 0 finished, 0 failed", shown), shown


@pytest.mark.parametrize("kind", WORKERS)
def test_a_job_may_have_no_field_but_its_data(stage, node, kind):
    request = {"messages": [{"role": "user", "content": PROMPT}]}
    stage.redis.hset("rq:job:bare", "data", json.dumps(["deltabus.tasks.chat", None, [{"request": request}], {}]))
    stage.redis.sadd("rq:queues", "rq:queue:chat")
    stage.redis.rpush("rq:queue:chat", "bare")
    stage.start_worker(kind)

    assert ended(stage.start([*node("subscriber.mjs"), "bare"])) == stage.log("bare")


def test_producers_keep_to_rqs_prefix(stage, node):
    for command in (node("producer.mjs"), [sys.executable, EXAMPLES / "producer.py"]):
        task = stage.produce(command, RQ_KEY_PREFIX="other")
        assert stage.redis.hget(f"other:job:{task}", "origin") == b"chat"
        assert stage.redis.lrange("other:queue:chat", 0, -1)[-1] == task.encode()
    assert not stage.redis.keys("rq:*")


def test_a_subscriber_in_node_that_is_cut_off_three_times_misses_nothing(stage, node, run):
    task = "cut-off"
    stage.redis.hset(f"rq:job:{task}", "status", "started")
    with stage.until_subscribed(task):
        subscriber = stage.start([*node("subscriber.mjs"), task])

    async def write() -> None:
        async with redis.asyncio.Redis.from_url(stage.url) as connection:
            log = Log(connection, Settings(redis_url=stage.url))
            for cut in range(3):
                attempt = await log.begin(task, worker="test", queue="chat", on_interrupt=print)
                for n in range(10):
                    await attempt.write(b'{"cut":%d,"n":%d}' % (cut, n))
                    await attempt.emit(Progress(task=task, at=1.5, done=n))
                with stage.until_subscribed(task):
                    assert await connection.client_kill_filter(_type="pubsub") == 1
                    # What is written until it is back, it can have only from the log.
                    for n in range(10, 20):
                        await attempt.emit(Progress(task=task, at=1.5, done=n))
            await attempt.seal(Completed(task=task, at=2.5, result=None))
            await log.aclose()

    run(write())
    seen = ended(subscriber)
    assert seen == stage.log(task)
    assert len(seen.splitlines()) >= 3 * (1 + 10 + 10 + 10) + 1


def test_a_subscriber_in_node_tells_how_it_ended(stage, node, run):
    async def settle() -> None:
        async with redis.asyncio.Redis.from_url(stage.url) as connection:
            log = Log(connection, Settings(redis_url=stage.url))
            failed = Failed(task="bad", at=1.5, error=ErrorInfo(code="internal", message="a bug"))
            await log.settle("bad", failed, queue="chat")
            await log.aclose()

    run(settle())
    stage.redis.hset("rq:job:expired", "status", "finished")
    for task, said in [("bad", "failed"), ("expired", "its log has expired"), ("nobody", "unknown task")]:
        process = stage.start([*node("subscriber.mjs"), task])
        assert process.wait(PATIENCE) == 1
        assert said in process.stderr.read().decode()


@pytest.mark.parametrize("script", ["producer.mjs", "subscriber.mjs"])
def test_an_example_without_arguments_says_how_to_call_it(stage, node, script):
    process = stage.start(node(script))

    assert process.wait(PATIENCE) == 2
    assert "usage: node" in process.stderr.read().decode()


@pytest.mark.parametrize("script", ["producer.mjs", "subscriber.mjs", "producer.py"])
def test_an_example_is_short_enough_to_read(script):
    assert len((EXAMPLES / script).read_text(encoding="utf-8").splitlines()) < 60


def test_the_permissions_in_the_document_are_enough(fresh_redis: EmbeddedRedis, tmp_path, node, run):
    stage = Stage(fresh_redis.url, tmp_path)
    try:
        for line in re.findall(r"redis> (ACL SETUSER .*)", PROTOCOL.read_text(encoding="utf-8")):
            stage.redis.execute_command(*line.split())
        urls = {user: stage.url.replace("://", f"://{user}:change-me@") for user in ("producer", "subscriber")}
        task = stage.produce(node("producer.mjs"), REDIS_URL=urls["producer"])
        with stage.until_subscribed(task):
            subscriber = stage.start([*node("subscriber.mjs"), task], REDIS_URL=urls["subscriber"])
        stage.start_worker("deltabus.worker.AsyncWorker")
        assert ended(subscriber) == stage.log(task)
        with redis.Redis.from_url(urls["producer"]) as producer, pytest.raises(redis.exceptions.NoPermissionError):
            producer.xrange(keys.log(task))
    finally:
        stage.close()
