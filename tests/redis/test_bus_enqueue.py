"""The bus, for producers: jobs as RQ has them, each once, and each mistake told before anything is sent."""

from __future__ import annotations

import time
from uuid import UUID

import msgspec
import pytest
import redis
import redis.asyncio
import rq
from bench import bench
from rq.job import Job

from deltabus import keys
from deltabus.enqueue import Order
from deltabus.errors import (
    BusError,
    InvalidRequest,
    PayloadTooLarge,
    TaskExists,
)
from deltabus.events import Completed
from deltabus.settings import Settings


def test_stock_rq_reads_a_job_of_the_bus(redis_url, run):
    async def main():
        async with bench(redis_url, job_timeout=77, result_ttl=88, failure_ttl=99) as b:
            task = await b.bus.chat(messages="hi", model="m", temperature=0.5, reply_to="r", queue="fast")
        with redis.Redis.from_url(redis_url) as client:
            job = Job.fetch(task.id, connection=client, serializer="json")
            assert job.func_name == "deltabus.tasks.chat"
            assert job.args == [
                {
                    "request": {
                        "temperature": 0.5,
                        "messages": [{"role": "user", "content": "hi"}],
                        "model": "m",
                        "stream": True,
                    },
                    "reply_to": "r",
                }
            ]
            assert job.kwargs == {}
            assert (job.origin, job.timeout, job.result_ttl, job.failure_ttl) == ("fast", 77, 88, 99)
            assert job.get_status() == "queued"
            assert job.description == "deltabus.tasks.chat"
            assert job.get_position() == 0
            assert abs(job.created_at.timestamp() - time.time()) < 60
            assert abs(job.enqueued_at.timestamp() - time.time()) < 60
            queue = rq.Queue("fast", connection=client, serializer="json")
            assert queue.job_ids == [task.id]
            assert [q.name for q in rq.Queue.all(connection=client)] == ["fast"]

    run(main())


def test_a_job_of_the_bus_has_the_fields_of_a_stock_one(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            with redis.Redis.from_url(redis_url) as client:
                queue = rq.Queue("chat", connection=client, serializer="json")
                stock = queue.enqueue("deltabus.tasks.chat", {"request": {}}, result_ttl=1, failure_ttl=1)
            assert set(await b.job(task.id)) == set(await b.job(stock.id))
            assert list(await b.job(task.id)).count("data") == 1

    run(main())


def test_the_prompt_is_nowhere_but_in_the_data(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="my secret plan")
            fields = await b.job(task.id)
            assert [key for key, value in fields.items() if b"secret" in value] == ["data"]
            assert "secret" not in repr(task)

    run(main())


def test_a_taken_id_is_refused_and_nothing_is_enqueued(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.bus.chat(messages="one", task_id="t1")
            with pytest.raises(TaskExists, match="t1"):
                await b.bus.chat(messages="two", task_id="t1")
            assert await b.redis.lrange("rq:queue:chat", 0, -1) == [b"t1"]
            assert b"one" in (await b.job("t1"))["data"]
            # Also one of which only the log is left.
            await b.settle(Completed(task="t2", at=1.0, result=None))
            with pytest.raises(TaskExists, match="t2"):
                await b.bus.chat(messages="two", task_id="t2")
            assert await b.redis.llen("rq:queue:chat") == 1

    run(main())


def test_many_tasks_go_out_in_one_pipeline_in_their_order(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.bus.chat(messages="first")
            before = (await b.redis.info("stats"))["total_reads_processed"]
            tasks = await b.bus.chat_many(({"messages": f"m{n}"} for n in range(200)), tenant="acme", queue="many")
            reads = (await b.redis.info("stats"))["total_reads_processed"] - before
            assert await b.redis.lrange("rq:queue:many", 0, -1) == [task.id.encode() for task in tasks]
            assert b'"tenant":"acme"' in (await b.job(tasks[7].id))["data"]
            assert reads < 20
            with pytest.raises(InvalidRequest):
                await b.bus.chat_many([{"messages": "good"}, {"temperature": 1}], queue="none")
            assert await b.redis.exists("rq:queue:none") == 0

    run(main())


def test_any_task_function_can_be_enqueued(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.enqueue(
                "deltabus.tasks.file", {"request": {"op": "list"}}, queue="file", result_ttl=-1, job_timeout=5
            )
            fields = await b.job(task.id)
            assert msgspec.json.decode(fields["data"]) == [
                "deltabus.tasks.file",
                None,
                [{"request": {"op": "list"}}],
                {},
            ]
            assert (fields["result_ttl"], fields["timeout"], fields["origin"]) == (b"-1", b"5", b"file")
            timed = await b.bus.enqueue("deltabus.tasks.file", {"request": {}, "timeout": 12.2})
            assert (await b.job(timed.id))["timeout"] == b"13"

    run(main())


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "x", "task_id": "a b"}, "task_id"),
        ({"messages": "x", "task_id": "a" * 129}, "task_id"),
        ({"messages": "x", "queue": "a b"}, "queue"),
        ({"messages": "x", "reply_to": "a b"}, "reply_to"),
        ({"messages": "x", "timeout": -1}, "timeout"),
        ({"messages": "x", "headers": {"Authorization": "Bearer x"}}, "headers.Authorization"),
        ({"messages": "x", "metadata": {"when": object()}}, "envelope"),
        ({"messages": "x", "deadline": "soon"}, "deadline"),
        ({"messages": "x", "retry": "\ud800"}, "envelope"),
        ({"messages": "x", "queue": ""}, "queue"),
        ({"messages": "x", "queue": 5}, "queue"),
        ({"messages": "x", "task_id": UUID(int=1)}, "task_id"),
        ({"messages": 5}, "messages"),
        ({"messages": b"x"}, "messages"),
        ({"messages": {"role": "user", "content": "x"}}, "messages"),
    ],
)
def test_a_mistake_is_told_to_the_caller_before_anything_is_sent(redis_url, run, options, param):
    async def main():
        async with bench(redis_url) as b:
            with pytest.raises(InvalidRequest) as caught:
                await b.bus.chat(**options)
            assert caught.value.param == param
            assert await b.redis.dbsize() == 0

    run(main())


def test_an_envelope_over_the_limit_is_refused(redis_url, run):
    async def main():
        async with bench(redis_url, max_request_bytes=1000) as b:
            with pytest.raises(PayloadTooLarge, match="max_request_bytes"):
                await b.bus.chat(messages="x" * 1000)
            with pytest.raises(InvalidRequest, match="dotted"):
                await b.bus.enqueue("rm -rf", {"request": {}})
            with pytest.raises(InvalidRequest) as caught:
                await b.bus.enqueue("deltabus.tasks.chat", {"request": {}, "prvider": "x"})
            assert caught.value.param == "prvider"
            for wrong in (5, None, "{}"):
                with pytest.raises(InvalidRequest, match="mapping"):
                    await b.bus.enqueue("deltabus.tasks.chat", wrong)
            for limit in ({"result_ttl": "60"}, {"result_ttl": -2}, {"job_timeout": 0}, {"job_timeout": 1.5}):
                with pytest.raises(InvalidRequest, match="whole number of seconds") as caught:
                    await b.bus.enqueue("deltabus.tasks.chat", {"request": {}}, **limit)
                assert caught.value.param in limit
            for number in (5, UUID(int=1)):
                with pytest.raises(InvalidRequest, match="string of 1 to 128"):
                    b.bus.task(number)

    run(main())


def test_a_lost_reply_does_not_enqueue_twice(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            # The same calls arrive twice, as they do when the first replies are lost; the second time with more to do.
            order = Order("f.g", [{"request": {}}] * 150, queue="chat", task=None, settings=Settings())
            await order.send(b.bus._exchange, b.bus._names)
            await b.redis.delete(f"rq:job:{order.tasks[7]}")
            await b.redis.lrem("rq:queue:chat", 0, order.tasks[7])
            await order.send(b.bus._exchange, b.bus._names)
            assert sorted(await b.redis.lrange("rq:queue:chat", 0, -1)) == sorted(map(str.encode, order.tasks))

    run(main())


def test_a_queue_that_is_no_list_takes_nothing_and_says_so(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.set("rq:queue:chat", "mine")
            with pytest.raises(BusError, match="`chat`"):
                await b.bus.chat_many([{"messages": "one"}, {"messages": "two"}])
            assert await b.redis.keys("*") == [b"rq:queue:chat"]

    run(main())


@pytest.mark.parametrize("key", ["rq:queue:chat", "rq:queues"])
def test_where_a_key_is_of_another_type_nothing_is_written(redis_url, run, key):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.set(key, "of another program")
            with pytest.raises(BusError, match="a key of deltabus or RQ is of another type"):
                await b.bus.chat_many([{"messages": "hi"}] * 3)
            assert await b.redis.keys("rq:*") == [key.encode()]

    run(main())


@pytest.mark.parametrize("bad", ["hi", None, {}, {"messages": object()}, {"messages": "x" * 2000}])
def test_of_many_requests_the_wrong_one_is_named_and_none_is_sent(redis_url, run, bad):
    async def main():
        async with bench(redis_url, max_request_bytes=1000) as b:
            requests = [{"messages": "hi"}] * 9
            with pytest.raises((InvalidRequest, PayloadTooLarge), match="request 7 of 10, counted from 0: "):
                await b.bus.chat_many([*requests[:7], bad, *requests[7:]])
            assert await b.redis.dbsize() == 0

    run(main())


def test_no_tasks_are_no_tasks(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            assert await b.bus.chat_many([]) == []
            assert await b.redis.dbsize() == 0

    run(main())


def test_large_requests_go_out_in_calls_that_are_not_too_large(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.config_resetstat()
            big = "x" * 200_000
            tasks = await b.bus.chat_many({"messages": f"{n}{big}"} for n in range(5))
            assert await b.redis.lrange("rq:queue:chat", 0, -1) == [task.id.encode() for task in tasks]
            calls = (await b.redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            assert calls == 3

    run(main())


def test_a_cancel_that_was_left_by_an_earlier_task_is_not_meant_for_the_new_one(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.set(keys.cancel("t1"), "of another task that was deleted")
            await b.bus.chat(messages="hi", task_id="t1")
            assert not await b.redis.exists(keys.cancel("t1"))
            # While there is such a task, the cancel is its own.
            await b.redis.set(keys.cancel("t1"), "please")
            with pytest.raises(TaskExists):
                await b.bus.chat(messages="hi", task_id="t1")
            assert await b.redis.get(keys.cancel("t1")) == b"please"

    run(main())
