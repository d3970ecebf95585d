"""Workers on a real Redis, RQ's and ours, in this process and as processes; and a look at what they leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import structlog
from click.testing import CliRunner
from deadletters import deltabus, letters
from processes import Background
from rq import Queue, SimpleWorker
from rq.cli import main as rq_cli
from rq.command import send_shutdown_command
from rq.job import Job
from rq.results import Result
from rq.worker.base import BaseWorker

from deltabus import events, keys
from deltabus.events import AnyEvent, Terminal
from deltabus.settings import Settings, load
from deltabus.testing import Signal
from deltabus.worker import AsyncWorker
from deltabus.worker.intake import Intake
from deltabus.worker.ledger import EXECUTION_TTL
from deltabus_echo.provider import EchoProvider
from deltabus_echo.script import Script

__all__ = ["deltabus", "letters"]

#: Seconds after which a test that waits has failed.
DEADLINE = 60.0

CHAT = "deltabus.tasks.chat"

#: What nobody may see outside of the task's own keys.
PROMPT = "the quick brown prompt jumps"


KILLED_AT = """
import os, signal, sys
from deltabus.worker.ledger import Ledger
from deltabus.log import Log
from rq.cli import main
async def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{step} = die
main(sys.argv[1:])
"""


class Site:
    """A Redis, workers on it, and a look at what they leave there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url, socket_timeout=2 * DEADLINE)

    # What producers do.

    def queue(self, name: str = "chat") -> Queue:
        return Queue(name, connection=self.redis, serializer="json")

    def request(self, text: str = PROMPT, **script: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "stream": True}
        return {"request": body | ({"echo": script} if script else {})}

    def enqueue(self, queue: str = "chat", /, *, script: dict[str, Any] | None = None, **options: Any) -> Job:
        """A chat task from stock RQ; `script` is what the echo provider does, `options` are RQ's."""
        return self.queue(queue).enqueue(CHAT, self.request(**script or {}), **options)

    # What workers do.

    def settings(self, **overrides: Any) -> Settings:
        return replace(load(environ={}), **{"drain_timeout": 0.0, **overrides})

    def make(self, *queues: str, settings: Settings | None = None, **options: Any) -> AsyncWorker:
        connection = redis.Redis.from_url(self.url)
        return AsyncWorker(queues or ["chat"], connection=connection, settings=settings or self.settings(), **options)

    def work(self, *queues: str, settings: Settings | None = None, **options: Any) -> bool:
        """Run an AsyncWorker here until the queues are empty."""
        worker = self.make(*queues, settings=settings)
        try:
            return worker.work(**{"burst": True, **options})
        finally:
            worker.connection.close()

    def intake(self, client: redis.asyncio.Redis, worker: str = "w", *queues: str, lease: float = 10.0) -> Intake:
        """What takes jobs for a worker; its connections are the client's."""
        keys = [(queue, f"rq:queue:{queue}") for queue in queues or ["chat"]]
        limits = {"max_bytes": 10_000, "lease": lease, "execution_ttl": EXECUTION_TTL}
        return Intake(client, worker, keys, **limits, stopped=asyncio.Event())

    @contextlib.contextmanager
    def worker(
        self, *queues: str, settings: Settings | None = None, options: dict[str, Any] | None = None, **work: Any
    ) -> Iterator[AsyncWorker]:
        """An AsyncWorker in a thread, shut down at the end as RQ's command does it; what it raises is raised here."""
        worker = self.make(*queues, settings=settings, **options or {})
        errors: list[BaseException] = []

        def run() -> None:
            try:
                worker.work(**work)
            except BaseException as error:  # noqa: BLE001 # raised below
                errors.append(error)

        thread = threading.Thread(target=run, name="worker")
        thread.start()
        try:
            yield worker
        finally:
            self.stop(worker, thread)
            worker.connection.close()
        if errors:
            raise errors[0]

    def stop(self, worker: AsyncWorker, thread: threading.Thread) -> None:
        deadline = time.monotonic() + DEADLINE
        # Nobody hears the command before the worker has subscribed.
        while thread.is_alive() and not self.is_listening(worker):
            assert time.monotonic() < deadline, "the worker does not listen to commands"
            thread.join(0.005)
        send_shutdown_command(self.redis, worker.name)
        thread.join(DEADLINE)
        assert not thread.is_alive(), "the worker does not stop"

    def is_listening(self, worker: BaseWorker) -> bool:
        return self.redis.pubsub_numsub(worker.pubsub_channel_name)[0][1] > 0

    def work_simply(self, *queues: str, **options: Any) -> BaseWorker:
        """Run RQ's own SimpleWorker here until the queues are empty."""
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
        timer = signal.getitimer(signal.ITIMER_REAL)  # pytest's timeout
        worker = Deaf(queues or ["chat"], connection=self.redis, serializer="json", **options)
        try:
            worker.work(burst=True)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.setitimer(signal.ITIMER_REAL, *timer)
        return worker

    @contextlib.contextmanager
    def process(self, *arguments: str, fresh: bool = False, **environ: str) -> Iterator[Background]:
        """`rq <arguments>` as a process, killed at the end if it is still there."""
        command = [sys.executable, "-m", "rq.cli", *arguments, "--url", self.url]
        folder = Path(__file__).parent  # no deltabus.toml
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environ}
        with Background(command, folder=folder, environ=variables, fresh=fresh) as process:
            try:
                yield process
            finally:
                process.process.kill()

    def work_until_killed_at(self, step: str, *queues: str, **environ: str) -> None:
        """Run an AsyncWorker as a process that is killed when it comes to this method of its `Ledger` or `Log`."""
        command = [sys.executable, "-c", KILLED_AT.format(step=step), "worker", "--url", self.url]
        command += ["--worker-class", "deltabus.worker.AsyncWorker", *(queues or ["chat"])]
        with Background(command, environ={**os.environ, "PYTHONUNBUFFERED": "1", **environ}) as process:
            assert process.end() == -signal.SIGKILL, process.said

    def rq(self, *arguments: str) -> str:
        """What `rq <arguments>` prints; for commands that come to an end and change nothing in this process."""
        command, *rest = arguments
        result = CliRunner().invoke(rq_cli, [command, "--url", self.url, "--path", "/", *rest])
        assert result.exit_code == 0, result.output
        return result.output

    # What they leave.

    def log(self, task: str) -> list[AnyEvent]:
        return [events.decode(fields[b"event"]) for _, fields in self.redis.xrange(keys.log(task))]

    def types(self, task: str) -> list[str]:
        return [type(event).__name__.lower() for event in self.log(task)]

    def story(self, task: str) -> list[str]:
        """`types`, with deltas in a row as one: how they are cut depends on how fast Redis is."""
        types = self.types(task)
        return [kind for kind, former in zip(types, [None, *types], strict=False) if kind != "delta" or former != kind]

    def ending(self, task: str) -> Any:
        """The task's terminal event, waited for; and that it is the last one, and the only one."""
        self.reaches(task, lambda event: isinstance(event, Terminal))
        log = self.log(task)
        assert [event for event in log if isinstance(event, Terminal)] == log[-1:]
        return log[-1]

    def reaches(self, task: str, found: Callable[[AnyEvent], bool]) -> AnyEvent:
        """Block until there is such an event in the task's log."""
        last: Any = "0"
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            for _, entries in self.redis.xread({keys.log(task): last}, block=int(DEADLINE * 1000)) or ():
                for last, fields in entries:  # noqa: B007 # where the next read goes on
                    event = events.decode(fields[b"event"])
                    if found(event):
                        return event
        raise AssertionError(f"no such event: {self.types(task)}")

    def streams(self, task: str, attempt: int = 1) -> AnyEvent:
        """Block until that attempt has streamed something."""
        return self.reaches(task, lambda event: isinstance(event, events.Delta) and event.attempt == attempt)

    def until(self, seen: Callable[[], Any]) -> Any:
        """Block until `seen()` is true; it is asked again whenever one of RQ's keys has changed."""
        with self.redis.pubsub(ignore_subscribe_messages=True) as changes:
            changes.psubscribe("__keyspace@*__:rq:*")
            changes.get_message(timeout=DEADLINE)  # the subscription is there
            deadline = time.monotonic() + DEADLINE
            while not (value := seen()):
                changes.get_message(timeout=max(0.0, deadline - time.monotonic()))
                assert time.monotonic() < deadline, "it does not come to that"
            return value

    def booked(self, job: Job) -> Result:
        """RQ's record of how the job ended, waited for."""
        result = job.latest_result(timeout=int(DEADLINE))
        assert result is not None
        return result

    def fetch(self, job: Job | str) -> Job:
        return Job.fetch(getattr(job, "id", job), connection=self.redis, serializer="json")

    def leftovers(self) -> set[str]:
        """Keys that only exist while something waits, runs or is being cancelled."""
        passing = (":intermediate", "rq:wip:", "rq:execution", ":executions", "rq:queue:", "first_seen")
        found = {key.decode() for key in self.redis.keys("*")}
        return {key for key in found if any(part in key for part in passing) or key.endswith(":cancel")}


class Deaf(SimpleWorker):
    """RQ's own worker, without the thread that listens to commands: it takes a second to end."""

    def subscribe(self) -> None:
        pass


@pytest.fixture
def site(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The shared server, empty, and no configuration from outside: the echo provider answers."""
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "ANTHROPIC_", "GEMINI_", "GOOGLE_", "DELTABUS_")):
            monkeypatch.delenv(name)
    site = Site(redis_url)
    site.redis.config_set("notify-keyspace-events", "KA")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield site
    site.redis.config_set("notify-keyspace-events", "")
    site.redis.close()
    root.handlers[:] = handlers  # a worker sets the process' logging up
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Signal:
    """Once it is set, what the echo provider stalls at goes on: a stream lasts just as long as a test needs it."""
    opened, strike = Signal(), EchoProvider._strike

    async def stand(provider: EchoProvider, fault: str, script: Script) -> None:
        if fault == "stall":
            await opened.happened()
        else:
            await strike(provider, fault, script)

    monkeypatch.setattr(EchoProvider, "_strike", stand)
    return opened


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`install("acme", source, tasks={"name": "acme:function"})`: a distribution, as pip would leave it.

    Groups are named without their `deltabus.`; processes that are started find it too.
    """
    modules = set(sys.modules)

    def install(name: str, source: str, **groups: dict[str, str]) -> None:
        where = tmp_path / name
        info = where / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[deltabus.{group}]", *(f"{key} = {value}" for key, value in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (where / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(where)
        monkeypatch.setenv("PYTHONPATH", str(where), prepend=os.pathsep)

    yield install
    for module in set(sys.modules) - modules:
        del sys.modules[module]
