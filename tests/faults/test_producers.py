"""What a producer meets where Redis is away: one clear error in bounded time, and no task twice."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis
from detour import Detour
from processes import DELTABUS, PATIENCE, environ, run

from chaos.proxy import Point, Then
from deltabus import AsyncBus, Bus, BusUnavailable, TaskCancelled, TaskExists, keys
from deltabus.embedded import EmbeddedRedis
from deltabus.scripts import ENQUEUE, SEAL, WITHDRAW
from deltabus.settings import Settings

#: Seconds for which these producers wait: enough for a Redis that is there, on a busy machine.
TIMEOUT = 1.0

#: The same where a Redis that is there must not be taken for one that is not, whatever the machine is at.
LONGER = 4.0

#: Redis has the task, and the producer has not heard of it.
AFTER_ENQUEUE = Point((ENQUEUE.sha,), done=True)
#: The same of its cancel: it is in no queue any more, and its log says why.
AFTER_CANCEL = {script.name: Point((script.sha,), done=True) for script in (WITHDRAW, SEAL)}


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """An address on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{bound.getsockname()[1]}/0"


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """A server that says this to each command; to nothing, nothing: it accepts, and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_: list[socket.socket] = []

        def serve(line: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := line.recv(65536):
                    # One reply a command; a nested array is none.
                    line.sendall(reply * data.count(b"*"))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    line, _ = server.accept()
                    open_.append(line)
                    threading.Thread(target=serve, args=(line,), daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for line in open_:
                line.close()
            thread.join(PATIENCE)


@contextlib.contextmanager
def configured(*command: str) -> Iterator[str]:
    """A real server that takes no writes."""
    with EmbeddedRedis() as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command(*command)
        yield server.url


AWAY: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[str]], str]] = {
    "nobody listens": (nobody, "refused|reset|Connect"),
    "hangs": (lambda: answering(b""), "does not answer"),
    "loading": (lambda: answering(b"-LOADING Redis is loading the dataset in memory\r\n"), "loading"),
    "replica": (lambda: configured("REPLICAOF", "127.0.0.1", "1"), "read only replica"),
    "out of memory": (lambda: configured("CONFIG", "SET", "maxmemory", "1"), "maxmemory"),
}

#: Those of which not even reading comes of anything.
DEAF = ("nobody listens", "hangs", "loading")


@pytest.fixture(params=AWAY)
def away(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, str]]:
    """Name, URL and sign of a Redis that takes nothing."""
    make, sign = AWAY[request.param]
    with make() as url:
        yield request.param, url, sign


def settings(url: str, timeout: float = TIMEOUT) -> Settings:
    return replace(Settings(), redis_url=url, redis_timeout=timeout)


def test_every_call_of_a_producer_ends_in_one_clear_error(away: tuple[str, str, str]) -> None:
    name, url, sign = away

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), AsyncBus(settings=settings(url)) as bus:
            with pytest.raises(BusUnavailable, match=sign) as refused:
                await bus.chat(messages="a prompt", task_id="t")
            assert url.removeprefix("redis://").removesuffix("/0") in str(refused.value)
            assert "a prompt" not in str(refused.value)
            if name in DEAF:
                task = bus.task("t")
                calls = (task.cancel(), task.status(), task.result())
                for told in await asyncio.gather(*calls, return_exceptions=True):
                    assert isinstance(told, BusUnavailable)
            # Many at once wait no longer than one.
            with pytest.raises(BusUnavailable):
                await bus.chat_many([{"messages": [{"role": "user", "content": "x"}]}] * 1000)

    asyncio.run(main())


def test_the_blocking_bus_raises_the_same(away: tuple[str, str, str]) -> None:
    _, url, sign = away
    with Bus(settings=settings(url)) as bus, pytest.raises(BusUnavailable, match=sign):
        bus.chat(messages="x")


def test_the_command_line_says_it_in_one_line(away: tuple[str, str, str]) -> None:
    name, url, sign = away
    envelope = '{"request": {"messages": [{"role": "user", "content": "a prompt"}]}}'
    commands = [["enqueue", "deltabus.tasks.chat", envelope]]
    if name in DEAF:
        commands += [["cancel", "t"], ["result", "t"], ["dead", "list"]]
    for words in commands:
        done = run([*DELTABUS, *words], environ=environ(url, DELTABUS_REDIS_TIMEOUT=str(TIMEOUT)))
        assert done.returncode == 3, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ")
        if name in {"loading", "replica", "out of memory"}:
            assert sign in done.stderr
            assert "start one with" not in done.stderr


def test_a_producer_works_again_as_soon_as_redis_does(fresh_redis: EmbeddedRedis) -> None:
    with Bus(settings=settings(fresh_redis.url, LONGER)) as bus, redis.Redis.from_url(fresh_redis.url) as client:
        bus.chat(messages="x", task_id="before")
        client.config_set("maxmemory", 1)
        with pytest.raises(BusUnavailable):
            bus.chat(messages="x", task_id="during")
        assert bus.task("before").status().state == "queued"
        client.config_set("maxmemory", 0)
        bus.chat(messages="x", task_id="after")
        assert client.lrange("rq:queue:chat", 0, -1) == [b"before", b"after"]


def test_a_reply_that_is_lost_on_the_way_makes_no_second_task(fresh_redis: EmbeddedRedis) -> None:
    with Detour(fresh_redis.url) as detour, Bus(detour.url) as bus, redis.Redis.from_url(fresh_redis.url) as client:
        bus.chat(messages="x", task_id="first")  # Redis knows the script from now on
        struck = detour.strike_at(AFTER_ENQUEUE, lambda: None, Then.LOSE)
        bus.chat(messages="x", task_id="once")
        struck()
        assert client.lrange("rq:queue:chat", 0, -1) == [b"first", b"once"]


@pytest.mark.parametrize("step", AFTER_CANCEL)
def test_a_cancel_goes_through_where_a_reply_is_lost_on_the_way(fresh_redis: EmbeddedRedis, step: str) -> None:
    with Detour(fresh_redis.url) as detour, Bus(detour.url) as bus, redis.Redis.from_url(fresh_redis.url) as client:
        task = bus.chat(messages="x")
        struck = detour.strike_at(AFTER_CANCEL[step], lambda: None, Then.LOSE)
        assert task.cancel("no")
        struck()
        assert client.lrange("rq:queue:chat", 0, -1) == []
        with pytest.raises(TaskCancelled, match="no"):
            task.result()
        assert not client.exists(keys.cancel(task.id))


def test_a_producer_that_was_told_nothing_and_tries_again_makes_no_second_task(fresh_redis: EmbeddedRedis) -> None:
    with (
        Detour(fresh_redis.url) as detour,
        Bus(settings=settings(detour.url, LONGER)) as bus,
        redis.Redis.from_url(fresh_redis.url) as client,
    ):
        bus.chat(messages="x", task_id="first")  # Redis knows the script from now on
        detour.strike_at(AFTER_ENQUEUE, lambda: None, Then.HOLD)
        with pytest.raises(BusUnavailable, match="does not answer"):
            bus.chat(messages="x", task_id="once")
        detour.resume()
        with pytest.raises(TaskExists):
            bus.chat(messages="x", task_id="once")
        assert bus.task("once").status().position == 1
        assert client.lrange("rq:queue:chat", 0, -1) == [b"first", b"once"]
