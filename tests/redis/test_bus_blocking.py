"""The bus for code that blocks: the same, from any thread and after a fork."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import pytest
import redis

import deltabus
from deltabus import AsyncBus, AsyncTask, Bus, Task
from deltabus.errors import BusUnavailable, InvalidRequest, TaskCancelled, TaskNotFound
from deltabus.events import Completed
from deltabus.log import Log
from deltabus.portal import portal
from deltabus.settings import Settings


class Worker:
    """Plays a worker, on the loop that blocking callers share."""

    def __init__(self, url: str) -> None:
        self.log = portal().run(self._open(url))

    async def _open(self, url: str) -> Log:
        self.redis = redis.asyncio.Redis.from_url(url)
        return Log(self.redis, Settings())

    def answer(self, task: str, *pieces: str) -> None:
        portal().run(self._answer(task, *pieces))

    async def _answer(self, task: str, *pieces: str) -> None:
        attempt = await self.log.begin(task, worker="w", queue="chat", on_interrupt=lambda _: None)
        for piece in pieces:
            await attempt.write(msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": piece}}]}))
        message = {"role": "assistant", "content": "".join(pieces)}
        await attempt.seal(Completed(task=task, at=1.0, result={"choices": [{"index": 0, "message": message}]}))
        await self.redis.hset(f"rq:job:{task}", "status", "finished")

    def close(self) -> None:
        portal().run(self._close())

    async def _close(self) -> None:
        await self.log.aclose()
        await self.redis.aclose()


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    worker = Worker(redis_url)
    yield worker
    worker.close()


def test_a_task_is_made_followed_and_finished_without_asyncio(redis_url, worker):
    with Bus(redis_url) as bus:
        task = bus.chat(messages="hi")
        assert task.status().state == "queued"
        with ThreadPoolExecutor() as pool:
            text = pool.submit(lambda: "".join(task.text()))
            kinds = pool.submit(lambda: [type(event).__name__ for event in task.events()])
            result = pool.submit(task.result, timeout=60)
            worker.answer(task.id, "Hello ", "there")
            assert text.result() == "Hello there"
            assert result.result()["choices"][0]["message"]["content"] == "Hello there"
            assert kinds.result() == ["Started", "Delta", "Completed"]
        assert len(list(task.messages(after="1-0"))) == 2
        assert task.cancel() is False
        assert repr(task) == f"Task({task.id!r})"


def test_everything_else_is_there_too(redis_url):
    with Bus(redis_url, queue="q") as bus:
        many = bus.chat_many([{"messages": "a"}, {"messages": "b"}])
        other = bus.enqueue("deltabus.tasks.chat", {"request": {}}, task_id="mine")
        assert [task.status().position for task in (*many, other)] == [0, 1, 2]
        assert bus.task("mine").cancel("no") is True
        with pytest.raises(TaskCancelled, match="no"):
            other.result()
        with pytest.raises(TaskNotFound):
            bus.task("nobody").result()
        with pytest.raises(TimeoutError, match=rf"task {many[0].id} has not ended after 0\.01 s"):
            many[0].result(timeout=0.01)
        with pytest.raises(InvalidRequest, match="must be a number of seconds"):
            many[0].result(timeout=-1)


def test_an_iteration_that_is_left_early_listens_no_longer(redis_url):
    with Bus(redis_url) as bus, redis.Redis.from_url(redis_url) as client:
        task = bus.chat(messages="hi")
        client.xadd(
            f"deltabus:{{{task.id}}}:log",
            {"event": f'{{"type":"started","task":"{task.id}","id":"1-0","at":1}}'},
            id="1-0",
        )
        events = task.events()
        next(events)
        events.close()
        assert client.pubsub_channels() == []


def test_many_threads_share_one_bus(redis_url, worker):
    before = threading.active_count()  # tests that ran before may have left some
    with Bus(redis_url) as bus, ThreadPoolExecutor(16) as pool:
        tasks = list(pool.map(lambda n: bus.chat(messages=str(n)), range(32)))
        results = [pool.submit(task.result) for task in tasks[:16]]
        for task in tasks[:16]:
            worker.answer(task.id, task.id)
        for task, result in zip(tasks[:16], results, strict=True):
            assert result.result()["choices"][0]["message"]["content"] == task.id
        with redis.Redis.from_url(redis_url) as client:
            assert client.llen("rq:queue:chat") == 32
    assert threading.active_count() <= before + 1  # the loop's


FORK = """
import os, sys
from deltabus import Bus
bus = Bus(sys.argv[1])
first = bus.chat(messages="parent")
following = first.events()
child = os.fork()
if child == 0:
    ok = bus.task(first.id).status().state == "queued" and bus.chat(messages="child").status().position == 1
    os._exit(0 if ok else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert bus.chat(messages="parent again").status().position == 2
print("good")
"""

EXIT = """
import sys
from deltabus import Bus
bus = Bus(sys.argv[1])
task = bus.chat(messages="x")
print("good")
"""


@pytest.mark.parametrize("program", [FORK, EXIT])
def test_a_fork_and_an_exit_without_close_do_no_harm(redis_url, program):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, redis_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


def test_a_redis_that_is_not_there_is_an_error_here_too():
    settings = replace(Settings(), redis_url="redis://127.0.0.1:9/0", redis_timeout=0.3)
    with Bus(settings=settings) as bus, pytest.raises(BusUnavailable):
        bus.chat(messages="x")


def test_the_two_colours_have_the_same_methods_and_signatures():
    def public(kind: type) -> set[str]:
        names = {name for each in kind.__mro__[:-1] for name in vars(each)}
        return {name for name in names if not name.startswith("_")} - {"aclose", "close"}

    assert public(AsyncBus) == public(Bus)
    assert public(AsyncTask) == public(Task)
    for one, other in ((AsyncBus, Bus), (AsyncTask, Task)):
        for name in public(one) - {"id", "task"}:
            assert inspect.signature(getattr(one, name)) == inspect.signature(getattr(other, name))
            assert inspect.getdoc(getattr(one, name)) == inspect.getdoc(getattr(other, name))


def test_the_front_door_has_what_it_names_and_nothing_else():
    assert deltabus.__all__ == [
        "AnyEvent",
        "AsyncBus",
        "AsyncTask",
        "BlobNotFound",
        "Bus",
        "BusError",
        "BusUnavailable",
        "Cancelled",
        "Completed",
        "ConfigError",
        "Delta",
        "DeltabusError",
        "ErrorInfo",
        "Failed",
        "InvalidRequest",
        "PayloadTooLarge",
        "Progress",
        "Retrying",
        "Snapshot",
        "Started",
        "Task",
        "TaskCancelled",
        "TaskExists",
        "TaskFailed",
        "TaskNotFound",
        "TaskRestarted",
        "TaskStatus",
    ]
    for name in deltabus.__all__:
        assert getattr(deltabus, name) is not None
        assert name in dir(deltabus)
    with pytest.raises(AttributeError, match="nothing_here"):
        deltabus.nothing_here  # noqa: B018


def loaded_by(program):
    program = f"{program}; import sys; print(*sys.modules)"
    # Where coverage is measured, it would load half of the standard library into the process.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_front_door_or_the_blocking_bus_loads_none_of_what_it_will_need():
    heavy = {"asyncio", "dataclasses", "hiredis", "logging", "msgspec", "redis", "ssl", "tomllib"}
    assert loaded_by("import deltabus").isdisjoint(heavy)
    assert loaded_by("from deltabus import Bus, Task").isdisjoint(heavy)


def test_making_a_bus_loads_all_that_its_calls_will_need_and_nothing_of_a_worker(redis_url):
    made = f"from deltabus import Bus; bus = Bus({redis_url!r})"
    at_once, later = loaded_by(made), loaded_by(f"{made}; bus.chat(messages='Hello')")
    assert later.isdisjoint({"rq", "httpx", "aiohttp", "uvloop", "structlog", "deltabus.engine", "deltabus.log"})
    assert not {name for name in later - at_once if name.startswith(("deltabus", "redis"))}


def test_the_methods_of_the_blocking_bus_are_described_as_those_of_the_asyncio_one():
    from deltabus import AsyncBus, Bus

    class Derived(Bus):
        """The first look at a method may be through a derived class."""

    assert Derived.images.__doc__ == AsyncBus.images.__doc__
    for name in ("chat", "chat_many", "read_blob", "upload"):
        assert inspect.signature(getattr(Bus, name)) == inspect.signature(getattr(AsyncBus, name))


def test_an_interrupted_wait_leaves_nothing_behind(redis_url):
    program = """
import signal, sys, threading
import redis
from deltabus import Bus

def interrupt():
    client = redis.Redis.from_url(sys.argv[1])
    while not client.pubsub_channels():
        pass
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

bus = Bus(sys.argv[1])
task = bus.chat(messages="x")
threading.Thread(target=interrupt).start()
try:
    task.result()
except KeyboardInterrupt:
    print("interrupted")
print(task.status().state)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, redis_url], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "interrupted\nqueued\n"
