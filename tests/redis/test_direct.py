"""A thread's own connection: what goes over it, and that nothing is lost or done twice where it fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from badline import BadLine
from redis.exceptions import ResponseError

from deltabus import Bus
from deltabus.commit import pack_command
from deltabus.direct import MAX_BYTES, DirectLine
from deltabus.errors import TaskExists
from deltabus.portal import portal

PING = pack_command(b"PING")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def line(redis_url: str) -> Iterator[DirectLine]:
    line = DirectLine(redis_url, home="rq", patience=10.0)
    yield line
    line.close()


def test_commands_are_answered_in_their_order(line):
    assert line.exchange([PING, pack_command(b"ECHO", "hello"), pack_command(b"EXISTS", "nothing")]) == [
        b"PONG",
        b"hello",
        0,
    ]


def test_a_refusal_is_an_error_and_the_line_goes_on(line, client):
    client.set("text", "x")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        line.exchange([pack_command(b"RPUSH", "text", "y"), PING])
    assert line.exchange([PING]) == [b"PONG"]


def test_what_is_large_goes_another_way(line, client):
    assert line.exchange([pack_command(b"SET", "large", "x" * MAX_BYTES)]) is None
    assert not client.exists("large")


def test_what_another_thread_is_using_is_left_to_it(line):
    with line._in_use:
        assert line.exchange([PING]) is None
    assert line.exchange([PING]) == [b"PONG"]


def test_a_closed_connection_is_no_answer_and_the_next_one_is_new(line, client):
    assert line.exchange([PING]) == [b"PONG"]
    client.client_kill_filter(_type="normal", skipme=True)
    assert line.exchange([PING]) is None
    assert line.exchange([PING]) == [b"PONG"]


@pytest.mark.parametrize("url", ["redis://127.0.0.1:9/0", "redis://:wrong@{where}"])
def test_a_redis_that_cannot_be_used_is_no_answer(redis_url, url):
    line = DirectLine(url.format(where=redis_url.removeprefix("redis://")), home="rq", patience=10.0)
    assert line.exchange([PING]) is None


def test_a_replica_and_a_script_that_is_not_known_are_no_answers(fresh_redis):
    line = DirectLine(fresh_redis.url, home="rq", patience=10.0)
    assert line.exchange([pack_command(b"EVALSHA", "0" * 40, 0)]) is None
    with redis.Redis.from_url(fresh_redis.url) as client:
        client.replicaof("127.0.0.1", "9")
        assert line.exchange([pack_command(b"SET", "key", "value")]) is None
        client.replicaof("NO", "ONE")
    assert line.exchange([pack_command(b"SET", "key", "value")]) == [b"OK"]
    line.close()


def test_tasks_are_put_on_the_queue_without_another_connection(redis_url, client):
    with Bus(redis_url) as bus:
        bus.chat(messages="the script is loaded by the group commit")
    before = {each["id"] for each in client.client_list()}
    with Bus(redis_url) as bus:
        bus.chat(messages="one")
        bus.chat_many([{"messages": "two"}, {"messages": "three"}])
        bus.enqueue("deltabus.tasks.chat", {"request": {}}, task_id="t1")
        with pytest.raises(TaskExists):
            bus.chat(messages="four", task_id="t1")
        assert len({each["id"] for each in client.client_list()} - before) == 1
    assert client.llen("rq:queue:chat") == 5


def test_a_lost_reply_enqueues_nothing_twice(redis_url, client):
    bad = BadLine(redis_url)
    url = portal().run(bad.start())
    try:
        with Bus(url) as bus:
            first = bus.chat(messages="one")
            bad.lose_replies = True
            second = bus.chat(messages="two")
            bad.lose_replies = True
            bus.chat(messages="three", task_id="t3")
            assert not bad.lose_replies
        assert client.lrange("rq:queue:chat", 0, -1) == [first.id.encode(), second.id.encode(), b"t3"]
    finally:
        portal().run(bad.stop())


def test_threads_that_use_a_bus_for_the_first_time_at_once_use_the_same_connections(redis_url):
    both = threading.Barrier(2, timeout=60)
    with Bus(redis_url) as bus:
        make = bus._make

        def slowly():
            both.wait()
            return make()

        bus._make = slowly
        before = len(portal().closers)
        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(lambda _: bus._here(), range(2))
        assert first is second
        assert len(portal().closers) == before + 1
