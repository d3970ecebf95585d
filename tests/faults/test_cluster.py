"""A Cluster of three nodes: logs on all of them, RQ on one, and nothing lost while nodes and slots come and go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from clustersite import PREFIX, Site
from faults import DURABLE, attempts
from processes import DELTABUS, PATIENCE, deltabus
from processes import run as run_to_its_end
from redis.client import Pipeline
from redis.exceptions import MovedError
from talker import Talker, talk, told

from chaos.nodes import Nodes, ask
from deltabus import Cancelled, Task, TaskFailed, keys
from deltabus.cli import exits
from deltabus.commit import pack_command
from deltabus.embedded import EmbeddedRedis
from deltabus.events import AnyEvent
from deltabus.look import look
from deltabus.testing import check_events
from deltabus.topology import clients
from deltabus.topology.ownconnection import own_connection


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes(args=DURABLE) as nodes:
        yield nodes


@pytest.fixture
def site(nodes: Nodes) -> Iterator[Site]:
    for server in nodes.servers:
        ask(server, "FLUSHALL")
    site = Site(nodes)
    yield site
    site.close()


def test_logs_lie_on_all_nodes_and_all_of_rq_on_one(site: Site) -> None:
    with site.worker() as worker:
        tasks = site.chat(30, words=10, interval=0.01)
        for task in tasks:
            assert site.completes(task, 10) == 1
        blob = site.bus.blob(b"bytes")
        assert b"".join(site.bus.read_blob(blob)) == b"bytes"
        every = [site.keys(server) for server in site.nodes.servers]
        assert all(any(key.endswith(b":log") for key in found) for found in every)
        assert sorted(any(key.startswith(b"{rq}:") for key in found) for found in every) == [False, False, True]
        assert "away" not in worker.said
        (running,) = site.chat(1, words=1000, interval=0.05)
        site.streams(running)
        deadline = time.monotonic() + PATIENCE
        # The others have ended, and are booked a moment later.
        while (seen := look(site.redis, PREFIX)).queues[0].running > 1:
            assert time.monotonic() < deadline, seen
            site.redis.blpop(["nothing"], timeout=0.05)
        running.cancel()
        assert [(queue.name, queue.waiting, queue.running) for queue in seen.queues] == [("chat", 0, 1)]
        assert [one.events > 0 for one in seen.tasks] == [one.running == 1 for one in seen.workers] == [True]


def test_a_transaction_that_would_reach_beyond_its_node_is_refused_and_leaves_the_line_as_it_was(site: Site) -> None:
    foreign = "a key of another slot"
    with site.redis.pipeline() as pipe:
        pipe.set(foreign, 1)
        with pytest.raises(redis.RedisClusterException, match="only have keys of RQ's slot"):
            pipe.execute()
    assert site.redis.set(foreign, 2)
    with site.redis.pipeline() as pipe:
        pipe.set("{rq}:x", 1)
        pipe.get("{rq}:x")
        assert pipe.execute() == [True, b"1"]


def test_a_refusal_of_several_nodes_is_one_answer(site: Site) -> None:
    """What comes next is the answer to what was asked next."""
    for _ in range(2):
        with pytest.raises(redis.ResponseError, match="compiling script"):
            site.redis.script_load("this is no Lua")
        assert [site.redis.set(key, key) for key in "abc"] == [True] * 3
        assert [site.redis.get(key) for key in "abc"] == [b"a", b"b", b"c"]


@contextlib.contextmanager
def paused(server: EmbeddedRedis) -> Iterator[None]:
    """Who writes waits for an answer."""
    ask(server, "CLIENT", "PAUSE", int(PATIENCE * 1000), "WRITE")
    try:
        yield
    finally:
        ask(server, "CLIENT", "UNPAUSE")


@pytest.mark.parametrize("whose", ["RQ's node", "another node"])
def test_whoever_is_cancelled_amid_answers_leaves_none_of_them_to_others(site: Site, whose: str) -> None:
    """The next one on the same connection is told what was asked last."""
    names = [f"{PREFIX}:a", *(f"key {number}" for number in range(20)), f"{PREFIX}:b"]
    places = {name: site.nodes.owner(site.nodes.slot(name)) for name in names}
    home = places[names[0]]
    slow = home if whose == "RQ's node" else next(server for server in places.values() if server is not home)

    async def main() -> None:
        async with clients.asynchronous(site.nodes.url, home=PREFIX, max_connections=1) as client:
            for name in names:
                assert await client.set(name, name)
            pipe = client.pipeline(transaction=False)
            for name in names:
                if places[name] is slow:
                    pipe.set(name, name)
            with paused(slow):
                asking = asyncio.create_task(pipe.execute())
                while not any(line._due for line in client.connection_pool._in_use_connections):
                    await asyncio.sleep(0)
                for _ in range(100):  # turns of the loop, until it has nothing to do but wait
                    await asyncio.sleep(0)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
            for name in reversed(names):
                assert await client.get(name) == name.encode()
            assert not client.connection_pool._in_use_connections

    asyncio.run(main())


def test_whoever_is_interrupted_amid_answers_leaves_none_of_them_to_others(site: Site) -> None:
    """As by RQ's time limits, which are signals."""

    class Interruption(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interruption

    def execute(pipe: Pipeline) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        pipe.execute()

    names = [f"key {number}" for number in range(20)]
    home = site.nodes.owner(site.nodes.slot(PREFIX))
    slow = next(server for server in site.nodes.servers if server is not home)
    away = [name for name in names if site.nodes.owner(site.nodes.slot(name)) is slow]
    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        with clients.blocking(site.nodes.url, home=PREFIX, max_connections=1) as client:
            for name in (PREFIX, *names):
                assert client.set(name, name)
            pipe = client.pipeline(transaction=False)
            for name in away:
                pipe.set(name, name)
            with paused(slow), pytest.raises(Interruption):
                execute(pipe)
            for name in (PREFIX, *names):
                assert client.get(name) == name.encode()
    finally:
        signal.signal(signal.SIGALRM, former)


def test_tasks_are_cancelled_wherever_they_are(site: Site) -> None:
    (waiting,) = site.chat(1)
    assert waiting.cancel("no more")
    assert isinstance(list(waiting.events())[-1], Cancelled)
    with site.worker():
        tasks = site.chat(5, words=3, stall_after=1)
        for task in tasks:
            site.streams(task)
            assert task.cancel("enough")
            assert isinstance(list(task.events())[-1], Cancelled)


def test_what_a_killed_worker_ran_runs_elsewhere(site: Site, talker: Talker) -> None:
    with site.worker(**talker.settings) as victim:
        tasks = talk(site.bus, 20)
        for task in tasks:
            site.streams(task)
        with site.worker(**talker.settings):
            victim.process.kill()
            talker.let_end()
            assert {told(task) for task in tasks} == {2}


def test_the_command_lines_work(site: Site, tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        done = run_to_its_end(words, environ=site.environ, folder=tmp_path)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def fails(task: Task) -> None:
        with pytest.raises(TaskFailed):
            task.result(timeout=PATIENCE)
        # RQ's records follow a moment after the log.
        site.until(lambda: site.redis.zscore(f"{PREFIX}:failed:chat", task.id), "the failure is not booked")

    rq = (sys.executable, "-m", "rq.cli", "info", "--config", "deltabus.rqsettings")
    with site.worker():
        (task,) = site.chat(1, words=3, fail_after=1, error="invalid_request")
        fails(task)
        assert task.id in run(*DELTABUS, "dead", "list")
        assert "1 requeued" in run(*DELTABUS, "dead", "requeue", task.id)
        fails(task)
        assert attempts(list(task.events())) == 2
        assert "1 purged" in run(*DELTABUS, "dead", "purge", task.id)
        assert not site.redis.exists(keys.log(task.id))
        assert "1 workers" in run(*rq)
        run(*DELTABUS, "check", code=exits.DONE)


def asked(site: Site, folder: Path, *words: str) -> str:
    done = deltabus("redis", *words, folder=folder, environ=site.environ)
    assert done.returncode == exits.DONE, done.stderr
    return done.stdout.decode()


def test_each_key_is_asked_of_the_node_that_owns_it(site: Site, tmp_path: Path) -> None:
    """Wherever its name stands in the command."""
    for number in range(9):
        log = keys.log(f"t{number}")
        assert asked(site, tmp_path, "XADD", log, "1-0", "event", "{}") == "1-0\n"
        assert asked(site, tmp_path, "OBJECT", "ENCODING", log) == "stream\n"
    assert len(asked(site, tmp_path, "--scan", "deltabus:{t?}:log").split()) == 9
    assert asked(site, tmp_path, "--each", "PING").count("PONG\n# 127.0.0.1:") == 2
    assert re.search("log +9 ", asked(site, tmp_path, "--memory"))
    assert asked(site, tmp_path, "EXISTS", "{rq}:suspended") == "0\n"
    done = deltabus("redis", "--each", "SCRIPT", "KILL", folder=tmp_path, environ=site.environ)
    assert done.returncode == exits.FAILED
    assert done.stdout.count(b"# 127.0.0.1:") == done.stderr.count(b"No scripts in execution") == 3, "each is asked"


def test_a_key_that_only_another_node_has_is_no_question_for_each(site: Site, tmp_path: Path) -> None:
    done = deltabus("redis", "--each", "GET", "a", folder=tmp_path, environ=site.environ)
    assert done.returncode == exits.FAILED
    assert done.stderr.count(b"(MOVED); ask without --each\n") == 2
    done = deltabus("redis", "MGET", "a", "b", folder=tmp_path, environ=site.environ)
    assert (done.returncode, done.stderr.count(b"\n")) == (exits.FAILED, 1)
    assert b"redis+cluster" not in done.stderr


def has(server: EmbeddedRedis, key: str) -> bool:
    """Whether the slot of the key is this node's."""
    with redis.Redis.from_url(server.url) as client:
        try:
            client.exists(key)
        except MovedError:
            return False
    return True


@pytest.mark.parametrize("words", [("chat", "hi"), ("stats",), ("dead", "list"), ("redis", "MGET", "a", "b")])
def test_who_takes_a_node_for_a_server_that_stands_alone_is_told(
    site: Site, tmp_path: Path, words: tuple[str, ...]
) -> None:
    node = next(server for server in site.nodes.servers if not has(server, "rq:queues"))
    alone = site.environ | {"DELTABUS_REDIS_URL": node.url, "RQ_KEY_PREFIX": "rq"}
    done = run_to_its_end([*DELTABUS, *words], folder=tmp_path, environ=alone)
    assert done.returncode == exits.FAILED
    assert "name that as redis+cluster://" in done.stderr


def test_streams_go_on_while_a_node_restarts(site: Site, talker: Talker) -> None:
    with site.worker(**talker.settings):
        tasks = talk(site.bus, 20)
        for task in tasks:
            site.streams(task)
        for server in site.nodes.servers:
            server.kill()
            server.start()
            site.nodes.settle()
        talker.let_end()
        for task in tasks:
            told(task)
        (task,) = site.chat(1, words=3)
        assert site.completes(task, 3) == 1


def test_streams_go_on_while_slots_move(site: Site, talker: Talker) -> None:
    """Those of their logs, and that of all of RQ's keys."""
    with site.worker(**talker.settings):
        tasks = talk(site.bus, 6)
        for task in tasks:
            site.streams(task)
        for key in (*(keys.log(task.id) for task in tasks[:3]), PREFIX):
            site.nodes.move(site.nodes.slot(key))
        talker.let_end()
        for task in tasks:
            assert told(task) == 1
        (task,) = site.chat(1, words=3)
        assert site.completes(task, 3) == 1


@pytest.fixture
def sharded(nodes: Nodes) -> Iterator[Site]:
    if "redis_version:6" in str(ask(nodes.servers[0], "INFO", "server")):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("Redis 6 has no sharded pub/sub")
    for server in nodes.servers:
        ask(server, "FLUSHALL")
    site = Site(nodes, "?sharded_pubsub=yes")
    yield site
    site.close()


def live(nodes: Nodes, kind: str) -> list[str]:
    """Channels of tasks that somebody listens to, at any node."""
    found = [ask(server, "PUBSUB", kind) for server in nodes.servers]
    return [channel for channels in found for channel in channels if channel.endswith(":events")]


class Reader(threading.Thread):
    """Follows a task from its first event to the last."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self.seen: list[AnyEvent] = []
        self.start()

    def run(self) -> None:
        self.seen.extend(self._task.events())


def test_messages_are_sharded_where_that_is_wanted(sharded: Site, tmp_path: Path, talker: Talker) -> None:
    with sharded.worker(**talker.settings) as worker:
        tasks = talk(sharded.bus, 9)
        readers = [Reader(task) for task in tasks]
        wanted = {keys.events(task.id) for task in tasks}
        listened: set[str] = set()
        deadline = time.monotonic() + PATIENCE
        while not wanted <= listened:  # not all at once where the machine is busy
            assert time.monotonic() < deadline, "nobody listens"
            listened |= set(live(sharded.nodes, "SHARDCHANNELS"))
            sharded.redis.blpop(["nothing"], timeout=0.05)
        assert listened == wanted
        assert live(sharded.nodes, "CHANNELS") == []
        for channel in wanted:
            assert asked(sharded, tmp_path, "PUBSUB", "SHARDNUMSUB", channel) == f"{channel}\n1\n"
        talker.let_end()
        # Sooner than a follower would look at the log who hears nothing.
        for reader in readers:
            reader.join(PATIENCE)
            check_events(reader.seen)
        assert "away" not in worker.said


def test_whoever_listens_at_another_node_at_the_same_time_shares_one_line_to_it(sharded: Site) -> None:
    """Also where nobody listened to anything when the connection was made."""
    url = f"{sharded.nodes.url}?sharded_pubsub=yes"
    home = sharded.nodes.owner(sharded.nodes.slot(PREFIX))
    names = (keys.events(f"t{number}") for number in range(100))
    away = next(server for server in sharded.nodes.masters if server is not home)
    channels = [name.encode() for name in names if sharded.nodes.owner(sharded.nodes.slot(name)) is away][:5]

    async def main() -> None:
        async with asyncio.timeout(PATIENCE), clients.asynchronous(url, home=PREFIX) as client:
            connection = own_connection(client, listens=True)
            await connection.connect()
            first = asyncio.create_task(connection.read_response(disable_decoding=True))
            await asyncio.sleep(0)  # it reads
            sending = (connection.send_packed_command([pack_command(b"SSUBSCRIBE", name)]) for name in channels)
            await asyncio.gather(*sending)
            told = [await first] + [await connection.read_response(disable_decoding=True) for _ in channels[1:]]
            assert sorted(channel for _, channel, _ in told) == sorted(channels)
            reading = asyncio.create_task(connection.read_response(disable_decoding=True))
            await asyncio.sleep(0)
            await connection.disconnect()
            with pytest.raises(redis.ConnectionError, match="given up"):  # whoever reads is told
                await reading

    asyncio.run(main())
    gc.collect()  # what was left open would be an error of this test


def test_followers_go_with_a_sharded_channel_that_moves(sharded: Site, talker: Talker) -> None:
    with sharded.worker(**talker.settings):
        tasks = talk(sharded.bus, 6)
        readers = [Reader(task) for task in tasks]
        for task in tasks:
            sharded.streams(task)
        for task in tasks[:3]:
            sharded.nodes.move(sharded.nodes.slot(keys.log(task.id)))
        talker.let_end()
        for reader in readers:
            reader.join(PATIENCE)
            check_events(reader.seen)
