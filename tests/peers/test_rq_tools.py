"""rq-dashboard and rq-exporter on a live bus: what they show, and what follows from the dashboard's buttons."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from documents import Reader
from processes import DELTABUS, PATIENCE, Background, environ, free_port
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from rq import Queue
from rq.job import Job

from deltabus import Bus, Task, TaskFailed, events
from deltabus.embedded import EmbeddedRedis

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".cache" / "peers"
SETTINGS = ("--config", "described_jobs", "--extra-path", str(ROOT / "ops" / "peers" / "rq-dashboard"))

#: Tasks that the worker runs at once, so that others wait.
SLOTS = 3
#: What nobody sees who looks at workers and queues.
PROMPT = "the-marker-of-a-prompt"
#: Answers without end, while nobody stops them.
ENDLESS = {"echo": {"words": 100_000, "interval": 0.05}}


@dataclass(frozen=True)
class Site:
    """A bus with one worker, and a dashboard."""

    bus: Bus
    redis: Redis
    dashboard: str

    def page(self, path: str, method: str = "GET") -> tuple[int, str]:
        request = urllib.request.Request(self.dashboard + path, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def data(self, path: str) -> Any:
        status, body = self.page(f"/0/data/{path}.json")
        assert status == 200, body
        return json.loads(body)

    def listed(self, registry: str) -> dict[str, Any]:
        jobs = self.data(f"jobs/chat/{registry}/100/asc/1")["jobs"]
        return {job["id"]: job for job in jobs}

    def press(self, path: str) -> None:
        status, body = self.page(path, "POST")
        assert (status, json.loads(body)["status"]) == (200, "OK")

    def running(self, count: int = 1) -> list[Task]:
        tasks = [self.bus.chat(messages=PROMPT, **ENDLESS) for _ in range(count)]
        for task in tasks:
            assert isinstance(next(iter(task.events())), events.Started)
        return tasks

    def failed(self) -> Task:
        task = self.bus.chat(messages=PROMPT, echo={"error": "authentication"})
        with pytest.raises(TaskFailed):
            task.result(timeout=PATIENCE)
        until(lambda: Job.fetch(task.id, connection=self.redis, serializer="json").is_failed)
        return task


def until(seen: Callable[[], bool]) -> None:
    """Look until it is seen. Each look is a round trip, which takes its time."""
    deadline = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < deadline


@contextlib.contextmanager
def dashboard(redis_url: str, *options: str) -> Iterator[str]:
    program = PEERS / "rq-dashboard" / "bin" / "rq-dashboard"
    if not program.exists():
        pytest.fail("rq-dashboard is not installed: run `make peers`")
    port = str(free_port())
    command = [str(program), "--json", "--bind", "127.0.0.1", "--port", port, "--redis-url", redis_url, *options]
    with Background(command, environ=environ()) as process:
        process.wait_for("Running on")  # said before it listens
        until(lambda: answers(int(port)))
        yield f"http://127.0.0.1:{port}"


def answers(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="module")
def serving(server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    variables = {"DELTABUS_CONCURRENCY": str(SLOTS), "DELTABUS_LEASE": "3", "DELTABUS_HEARTBEAT_INTERVAL": "1"}
    folder = tmp_path_factory.mktemp("worker")
    with (
        Background([*DELTABUS, "worker", "chat"], folder=folder, environ=environ(server.url, **variables)) as worker,
        dashboard(server.url, *SETTINGS) as url,
        Bus(server.url) as bus,
        Redis.from_url(server.url) as redis,
    ):
        worker.wait_for("worker started")
        yield Site(bus, redis, url)


@pytest.fixture
def site(serving: Site) -> Iterator[Site]:
    """The site with an idle worker; what a test leaves running is cancelled."""
    yield serving
    for registry in ("started", "queued"):
        for task in serving.listed(registry):
            serving.bus.task(task).cancel()
    until(lambda: not serving.listed("started") and not serving.listed("queued"))


def test_the_dashboard_shows_queues_jobs_errors_and_the_worker(site: Site) -> None:
    done = site.bus.chat(messages="hello")
    done.result(timeout=PATIENCE)
    failed = site.failed()
    running = site.running(SLOTS)
    waiting = site.bus.chat(messages=PROMPT)

    [queue] = site.data("queues")["queues"]
    counts = {name: queue[f"{name}_job_registry_count"] for name in ("started", "failed", "finished", "scheduled")}
    assert (queue["name"], queue["count"]) == ("chat", 1)
    assert counts == {"started": SLOTS, "failed": 1, "finished": 1, "scheduled": 0}

    assert site.listed("started").keys() == {task.id for task in running}
    assert site.listed("queued").keys() == {waiting.id}
    assert done.id in site.listed("finished")
    assert site.listed("failed")[failed.id]["description"] == "deltabus.tasks.chat"
    assert "authentication: failed, as the script asks" in site.listed("failed")[failed.id]["exc_info"]

    details = {task.id: site.data(f"job/{task.id}") for task in (done, failed, waiting, *running)}
    states = {task: job["status"] for task, job in details.items()}
    assert states == {done.id: "finished", failed.id: "failed", waiting.id: "queued"} | dict.fromkeys(
        (task.id for task in running), "started"
    )
    assert details[done.id]["result"]["choices"][0]["message"]["content"] == "hello"

    [worker] = site.data("workers")["workers"]
    assert (worker["queues"], worker["state"], worker["failed_job_count"]) == (["chat"], "busy", 1)
    assert worker["current_job"]["job_id"] in {task.id for task in running}
    assert worker["current_job"]["call_string"] == "deltabus.tasks.chat"
    for path in ("", "view/workers", "view/jobs", "view/jobs/chat/failed/8/asc/1", f"view/job/{done.id}"):
        assert site.page(f"/0/{path}")[0] == 200
    seen = [site.page(f"/0/data/{path}.json")[1] for path in ("workers", "queues", "jobs/chat/started/8/asc/1")]
    assert PROMPT not in "".join(seen)


def test_without_our_settings_its_page_of_workers_fails_for_stock_workers_as_for_ours(
    site: Site, server: EmbeddedRedis, fresh_redis: EmbeddedRedis
) -> None:
    """Should this fail one day, rq-dashboard is mended, and ops/peers/README.md has something to say less."""
    site.running()
    with dashboard(server.url) as url:
        assert Site(site.bus, site.redis, url).page("/0/data/workers.json")[0] == 500

    words = (sys.executable, "-m", "rq.cli", "worker", "-S", "json", "-u", fresh_redis.url, "chat")
    with (
        Background(words, environ=environ(fresh_redis.url)) as worker,
        dashboard(fresh_redis.url) as url,
        Bus(fresh_redis.url) as bus,
        Redis.from_url(fresh_redis.url) as redis,
    ):
        worker.wait_for("Listening on")
        stock = Site(bus, redis, url)
        assert stock.page("/0/data/workers.json")[0] == 200
        [task] = stock.running()
        assert stock.page("/0/data/workers.json")[0] == 500
        task.cancel()


def test_a_requeued_task_runs_again_as_its_next_attempt(site: Site) -> None:
    one, other = site.failed(), site.failed()
    site.press(f"/job/{one.id}/requeue")
    with pytest.raises(TaskFailed):
        one.result(timeout=PATIENCE)
    until(lambda: any(isinstance(event, events.Started) and event.attempt == 2 for event in one.events()))

    site.press("/requeue/chat")
    until(lambda: any(isinstance(event, events.Started) and event.attempt == 2 for event in other.events()))
    until(lambda: {one.id, other.id} <= site.listed("failed").keys())


class Follower:
    """Somebody who follows a task from a thread of its own, to whatever end."""

    def __init__(self, site: Site, task: Task) -> None:
        self.last: events.AnyEvent | Exception | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(task,), daemon=True)
        self._thread.start()
        channel = f"deltabus:{{{task.id}}}:events"
        until(lambda: site.redis.pubsub_numsub(channel)[0][1] > 0)

    def _follow(self, task: Task) -> None:
        try:
            for event in task.events():
                self.last = event
        except Exception as exc:  # noqa: BLE001 # whatever it is, the test looks at it
            self.last = exc

    @property
    def end(self) -> str:
        """How it ended: the kind of the last event or of the error, and the reason of a cancel."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "a log without end"
        return f"{type(self.last).__name__} {getattr(self.last, 'reason', None) or ''}".strip()


DELETED = "Cancelled the job was deleted"


@pytest.mark.parametrize("button", ["/job/{task}/delete", "/queue/chat/queued/empty"])
def test_whoever_follows_a_waiting_task_that_is_deleted_is_told(site: Site, button: str) -> None:
    site.running(SLOTS)
    task = site.bus.chat(messages="waits")
    follower = Follower(site, task)
    site.press(button.format(task=task.id))
    assert follower.end == "TaskNotFound"


@pytest.mark.parametrize("button", ["/job/{task}/delete", "/queue/chat/started/empty"])
def test_a_running_task_that_is_deleted_is_stopped(site: Site, button: str) -> None:
    [task] = site.running()
    follower = Follower(site, task)
    site.press(button.format(task=task.id))
    assert follower.end == DELETED
    until(lambda: site.data("workers")["workers"][0]["state"] == "idle")
    assert not site.redis.exists(f"rq:job:{task.id}")


def test_a_task_that_is_deleted_between_two_tries_ends(site: Site) -> None:
    task = site.bus.chat(messages="later", echo={"error": "rate_limited", "retry_after": 3000})
    follower = Follower(site, task)
    until(lambda: task.id in site.listed("scheduled"))
    site.press("/queue/chat/scheduled/empty")
    assert follower.end == DELETED


def test_a_task_that_is_deleted_while_it_waits_for_another_is_told(site: Site) -> None:
    [first] = site.running()
    queue = Queue("chat", connection=site.redis, serializer="json")
    request = {"messages": [{"role": "user", "content": "after"}]}
    second = queue.enqueue("deltabus.tasks.chat", {"request": request}, depends_on=queue.fetch_job(first.id))
    follower = Follower(site, site.bus.task(second.id))
    site.press("/queue/chat/deferred/empty")
    assert follower.end == "TaskNotFound"
    assert next(iter(first.events())).task == first.id  # and the other one has not noticed


def test_the_log_of_a_task_outlives_its_deleted_job(site: Site) -> None:
    done = site.bus.chat(messages="hello")
    done.result(timeout=PATIENCE)
    failed = site.failed()
    until(lambda: done.id in site.listed("finished"))
    site.press("/queue/chat/finished/empty")
    site.press(f"/job/{failed.id}/delete")
    assert not site.redis.exists(f"rq:job:{done.id}", f"rq:job:{failed.id}")
    assert isinstance(list(done.events())[-1], events.Completed)
    assert isinstance(list(failed.events())[-1], events.Failed)


def test_the_exporter_names_queues_jobs_and_the_worker(site: Site, server: EmbeddedRedis) -> None:
    site.failed()
    site.running(2)
    program = PEERS / "rq-exporter" / "bin" / "rq-exporter"
    port = str(free_port())
    words = (str(program), "--host", "127.0.0.1", "--port", port, "--redis-url", server.url)
    with Background(words, environ=environ()) as process:
        process.wait_for("Serving")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            page = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    jobs = {sample.labels["status"]: sample.value for sample in samples if sample.name == "rq_jobs"}
    assert {sample.labels["queue"] for sample in samples if sample.name == "rq_jobs"} == {"chat"}
    assert (jobs["started"], jobs["queued"]) == (2, 0)
    assert jobs["failed"] == len(site.listed("failed"))
    [worker] = site.data("workers")["workers"]
    [seen] = [sample for sample in samples if sample.name == "rq_workers"]
    assert seen.labels == {"name": worker["name"], "queues": "chat", "state": "busy"}
    [failures] = [sample.value for sample in samples if sample.name == "rq_workers_failed_total"]
    assert failures == worker["failed_job_count"]


def test_every_block_of_the_document_does_what_it_says(redis_url: str, tmp_path: Path) -> None:
    programs = os.pathsep.join(str(PEERS / name / "bin") for name in ("rq-dashboard", "rq-exporter"))
    with (
        Background([*DELTABUS, "worker"], folder=tmp_path, environ=environ(redis_url)) as worker,
        Reader(tmp_path, redis_url) as reader,
    ):
        worker.wait_for("worker started")
        reader.environ["PATH"] += os.pathsep + programs
        reader.follow(ROOT / "ops" / "peers" / "README.md")
