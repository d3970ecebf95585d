"""What a bus does, on a server that refuses whatever touches keys of two slots: a Redis Cluster of one node.

RQ's keys are in one slot, by a hash tag in their prefix; each task's own keys are in another.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from bench import bench, completed, delta
from processes import DELTABUS, Background, environ

from deltabus import Bus, events, keys
from deltabus.dead import DeadLetters
from deltabus.embedded import EmbeddedRedis
from deltabus.errors import CancelRequested, ErrorInfo, TaskCancelled, TaskExists
from deltabus.events import Cancelled, Failed, Started
from deltabus.scripts import FORGET, REOPEN
from deltabus.settings import Settings

PREFIX = "{rq}"
SLOTS = 16384


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The URL of a cluster of one node, which has all slots."""
    with EmbeddedRedis(args=("--cluster-enabled", "yes")) as server, redis.Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS))
        while client.cluster("info")["cluster_state"] != "ok":
            pass  # it takes a moment, of which there is no event
        with pytest.raises(redis.ResponseError, match="same slot"):
            client.mset({f"{PREFIX}:a": 1, keys.log("t"): 2})
        yield server.url


@pytest.fixture
def cluster_url(cluster: str) -> str:
    with redis.Redis.from_url(cluster) as client:
        client.flushall()
    return cluster


def test_tasks_are_enqueued_followed_and_settled(cluster_url, run):
    async def main():
        async with bench(cluster_url, rq_key_prefix=PREFIX) as b:
            many = await b.bus.chat_many([{"messages": f"m{n}"} for n in range(150)])
            assert await b.redis.lrange(f"{PREFIX}:queue:chat", 0, -1) == [task.id.encode() for task in many]
            await b.redis.set(keys.cancel("t1"), "of another task that was deleted")
            task = await b.bus.chat(messages="hi", task_id="t1")
            with pytest.raises(TaskExists):
                await b.bus.chat(messages="hi", task_id="t1")
            assert (await task.status()).position == 150
            attempt = await b.begin("t1")
            await attempt.write(delta("x"))
            await attempt.seal(completed("done"))
            assert await task.result() == "done"
            assert [piece async for piece in task.text()] == ["x"]

    run(main())


def test_tasks_are_cancelled_wherever_they_are(cluster_url, run):
    async def main():
        async with bench(cluster_url, rq_key_prefix=PREFIX) as b:
            waits = await b.bus.chat(messages="hi")
            assert await waits.cancel("no") is True
            with pytest.raises(TaskCancelled, match="no"):
                await waits.result()
            assert await waits.cancel() is False
            taken = await b.bus.chat(messages="hi")
            await b.redis.lpop(f"{PREFIX}:queue:chat")
            assert await taken.cancel("stop") is True
            with pytest.raises(CancelRequested, match="stop"):
                await b.begin(taken.id)

    run(main())


def test_threads_and_blobs_do_as_well(cluster_url):
    with Bus(settings=Settings(redis_url=cluster_url, rq_key_prefix=PREFIX)) as bus:
        task = bus.chat(messages="hi", task_id="t1")
        with pytest.raises(TaskExists):
            bus.chat(messages="hi", task_id="t1")
        assert b"".join(bus.read_blob(bus.blob(b"x" * 3_000_000))) == b"x" * 3_000_000
        assert task.cancel() is True


def test_dead_letters_are_requeued_and_purged(cluster_url, run):
    async def fail(task_id: str) -> None:
        async with bench(cluster_url, rq_key_prefix=PREFIX) as b:
            task = await b.bus.chat(messages="hi", task_id=task_id)
            await b.redis.lpop(f"{PREFIX}:queue:chat")
            attempt = await b.begin(task.id)
            await attempt.seal(Failed(task=task.id, at=1.0, error=ErrorInfo(code="internal", message="no")))
            await b.redis.hset(f"{PREFIX}:job:{task.id}", "status", "failed")
            await b.redis.zadd(f"{PREFIX}:failed:chat", {task.id: -1})
            await b.redis.set(keys.cancel(task.id), "too late")

    with redis.Redis.from_url(cluster_url) as client:
        letters = DeadLetters(client, PREFIX)
        run(fail("t1"))
        assert letters.requeue(list(letters.find(["t1"]).values())) == ["requeued"]
        assert client.lrange(f"{PREFIX}:queue:chat", 0, -1) == [b"t1"]
        assert [events.decode(fields[b"event"]).id for _, fields in client.xrange(keys.log("t1"))] == ["1-0", "1-1"]
        assert not client.exists(keys.cancel("t1"))
        client.flushall()
        run(fail("t2"))
        assert letters.purge(list(letters.find(["t2"]).values())) == ["purged"]
        assert client.keys("*") == [f"{PREFIX}:queues".encode()]


def test_what_has_begun_anew_is_neither_reopened_nor_forgotten(cluster_url, run):
    async def main():
        async with bench(cluster_url, rq_key_prefix=PREFIX) as b:
            await b.begin("t1")
            before = await b.messages("t1")
            for script, names, arguments in (
                (REOPEN, [keys.log("t1")], ["0" * 40, "", "", "", "", 60]),
                (FORGET, [keys.log("t1"), keys.cancel("t1")], []),
            ):
                assert await b.redis.eval(script.source, len(names), *names, *arguments) == 0
            assert await b.messages("t1") == before

    run(main())


def test_a_worker_runs_cancels_and_buries_without_touching_two_slots(cluster_url):
    there = Settings(redis_url=cluster_url, rq_key_prefix=PREFIX)
    quick = {"DELTABUS_LEASE": "1", "DELTABUS_HEARTBEAT_INTERVAL": "0.2", "DELTABUS_DRAIN_TIMEOUT": "0"}
    with Bus(settings=there) as bus, redis.Redis.from_url(cluster_url) as client:
        # A worker that died, and what it ran was deleted.
        client.zadd(keys.workers(PREFIX), {"dead": 1})
        client.sadd(f"{PREFIX}:worker:dead:executions", "gone:e1")
        started = events.encode(Started(task="gone", id="1-0", at=1.0))
        client.xadd(keys.log("gone"), {"event": started}, id="1-0")
        client.config_resetstat()
        environment = environ(cluster_url, RQ_KEY_PREFIX=PREFIX, **quick)
        with Background([*DELTABUS, "worker", "chat"], environ=environment) as worker:
            assert bus.chat(messages="hello", provider="echo").result()["object"] == "chat.completion"
            endless = {"words": 100_000, "interval": 0.02}
            running = bus.chat(messages="hello", provider="echo", echo=endless)
            next(running.text())
            assert running.cancel("enough") is True
            with pytest.raises(TaskCancelled, match="enough"):
                running.result()
            *_, last = bus.task("gone").events()
            assert isinstance(last, Cancelled)
            worker.process.terminate()
            assert worker.end() == 0, worker.said
        assert not {name for name in client.info("errorstats") if "CROSSSLOT" in name}, worker.said
        assert client.zcard(f"{PREFIX}:finished:chat") == 1
        assert client.zcard(keys.workers(PREFIX)) == 0
        assert client.keys("rq:*") == []
