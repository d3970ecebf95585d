"""The bus: enqueue, wait, cancel and ask, from asyncio; a worker is played by the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import redis
import redis.asyncio
import rq
from rq.job import Job

from deltabus import events, keys
from deltabus.bus import AsyncBus
from deltabus.errors import (
    BusError,
    BusUnavailable,
    CancelRequested,
    ErrorInfo,
    InvalidRequest,
    PayloadTooLarge,
    TaskCancelled,
    TaskExists,
    TaskFailed,
    TaskNotFound,
    TaskRestarted,
)
from deltabus.events import Cancelled, Completed, Failed
from deltabus.log import Attempt, Log
from deltabus.settings import Settings

DEADLINE = 30.0


class Bench:
    def __init__(self, url: str, client: redis.asyncio.Redis, log: Log, bus: AsyncBus) -> None:
        self.url = url
        self.redis = client
        self.log = log
        self.bus = bus

    async def begin(self, task: str, **options: Any) -> Attempt:
        return await self.log.begin(task, worker="w", queue="chat", on_interrupt=lambda _: None, **options)

    async def job(self, task: str) -> dict[str, bytes]:
        return {key.decode(): value for key, value in (await self.redis.hgetall(f"rq:job:{task}")).items()}


@asynccontextmanager
async def bench(url: str, **settings: Any) -> AsyncIterator[Bench]:
    settings = {"redis_url": url, **settings}
    async with redis.asyncio.Redis.from_url(url) as client, AsyncBus(settings=Settings(**settings)) as bus:
        log = Log(client, Settings(**settings))
        try:
            async with asyncio.timeout(DEADLINE):
                yield Bench(url, client, log, bus)
        finally:
            await log.aclose()


def completion(text: str | None) -> dict[str, Any]:
    return {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


def delta(text: str) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": text}}]})


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
            await b.log.settle("t2", Completed(task="t2", at=1.0, result=None), queue="chat")
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

    run(main())


def test_the_result_is_what_the_provider_returned(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            early = asyncio.create_task(task.result())
            attempt = await b.begin(task.id)
            await attempt.write(delta("ok"))
            late = asyncio.create_task(b.bus.task(task.id).result(timeout=20))
            await attempt.seal(Completed(task=task.id, at=1.0, result=completion("ok")))
            assert await early == await late == await task.result() == completion("ok")

    run(main())


def test_a_failure_and_a_cancel_are_raised_with_what_is_known(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            error = ErrorInfo(code="rate_limited", message="slow down", retryable=True, status=429)
            await b.log.settle("t1", Failed(task="t1", at=1.0, error=error), queue="chat")
            with pytest.raises(TaskFailed, match="rate_limited: slow down") as failed:
                await b.bus.task("t1").result()
            assert failed.value.info == error
            await b.log.settle("t2", Cancelled(task="t2", at=1.0, reason="enough"), queue="chat")
            with pytest.raises(TaskCancelled, match="enough"):
                await b.bus.task("t2").result()
            with pytest.raises(TaskCancelled):
                [_ async for _ in b.bus.task("t2").text()]
            with pytest.raises(TaskNotFound):
                await b.bus.task("t3").result()

    run(main())


def test_waiting_for_a_result_has_an_end_when_asked_to(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            with pytest.raises(TimeoutError):
                await task.result(timeout=0.05)
            assert (await task.status()).state == "queued"

    run(main())


def test_the_text_is_told_as_it_streams_and_once(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            text = task.text()
            attempt = await b.begin(task.id)
            for piece in ("The ", "sky ", "is "):
                await attempt.write(delta(piece))
                assert await anext(text) == piece
            await attempt.write(delta("blue."))
            await attempt.seal(Completed(task=task.id, at=1.0, result=completion("The sky is blue.")))
            assert [piece async for piece in text] == ["blue."]
            assert "".join([piece async for piece in task.text()]) == "The sky is blue."

    run(main())


def test_the_text_of_an_answer_that_did_not_stream_is_one_piece(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.log.settle("t1", Completed(task="t1", at=1.0, result=completion("whole")), queue="chat")
            assert [piece async for piece in b.bus.task("t1").text()] == ["whole"]
            await b.log.settle("t2", Completed(task="t2", at=1.0, result=completion(None)), queue="chat")
            assert [piece async for piece in b.bus.task("t2").text()] == []

    run(main())


def test_text_that_a_new_attempt_contradicts_is_an_error_and_asking_again_helps(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            first = await b.begin(task.id)
            await first.write(delta("Hello"))
            text = task.text()
            assert await anext(text) == "Hello"
            second = await b.begin(task.id)
            await second.write(delta("Good "))
            with pytest.raises(TaskRestarted, match=task.id):
                await anext(text)
            again = task.text()
            assert await anext(again) == "Good "
            await second.write(delta("day"))
            await second.seal(Completed(task=task.id, at=1.0, result=completion("Good day")))
            assert [piece async for piece in again] == ["day"]
            assert "".join([piece async for piece in task.text()]) == "Good day"

    run(main())


def test_cancelling_a_task_that_waits_settles_it_at_once(redis_url, run):
    async def main():
        async with bench(redis_url) as b, b.redis.pubsub() as results:
            await results.subscribe(keys.results("chat"), "replies")
            task = await b.bus.chat(messages="hi", reply_to="replies")
            following = asyncio.create_task(task.result())
            assert await task.cancel("changed my mind") is True
            with pytest.raises(TaskCancelled, match="changed my mind"):
                await following
            assert await b.redis.llen("rq:queue:chat") == 0
            with redis.Redis.from_url(redis_url) as client:
                job = Job.fetch(task.id, connection=client, serializer="json")
                assert job.get_status() == "canceled"
                assert job.ended_at is not None
                queue = rq.Queue("chat", connection=client, serializer="json")
                assert queue.canceled_job_registry.get_job_ids() == [task.id]
            assert 0 < await b.redis.ttl(keys.log(task.id)) <= 3600
            assert await b.redis.ttl(f"rq:job:{task.id}") > 0
            assert await b.redis.exists(keys.cancel(task.id)) == 0
            assert await task.cancel() is False
            assert (await task.status()).state == "cancelled"
            got = set()
            while len(got) < 2:
                message = await results.get_message(ignore_subscribe_messages=True, timeout=10)
                if message:
                    got.add((message["channel"], events.decode(message["data"]).reason))
            assert got == {(keys.results("chat").encode(), "changed my mind"), (b"replies", "changed my mind")}

    run(main())


@pytest.mark.parametrize("state", ["scheduled", "deferred"])
def test_a_task_that_waits_for_its_time_or_for_others_is_settled_too(redis_url, run, state):
    from datetime import timedelta

    async def main():
        with redis.Redis.from_url(redis_url) as client:
            queue = rq.Queue("chat", connection=client, serializer="json")
            if state == "scheduled":
                job = queue.enqueue_in(timedelta(hours=1), "deltabus.tasks.chat", {"request": {}})
            else:
                first = queue.enqueue("deltabus.tasks.chat", {"request": {}})
                job = queue.enqueue("deltabus.tasks.chat", {"request": {}}, depends_on=first)
            async with bench(redis_url) as b:
                assert (await b.bus.task(job.id).status()).state == state
                assert await b.bus.task(job.id).cancel() is True
                with pytest.raises(TaskCancelled):
                    await b.bus.task(job.id).result()
            assert job.get_status() == "canceled"
            assert job.id not in queue.scheduled_job_registry
            assert job.id not in queue.deferred_job_registry

    run(main())


def test_cancelling_a_task_that_runs_leaves_word_and_announces_it(redis_url, run):
    async def main():
        async with bench(redis_url) as b, b.redis.pubsub() as announced:
            await announced.subscribe(keys.CANCEL_CHANNEL)
            task = await b.bus.chat(messages="hi")
            await b.redis.lpop("rq:queue:chat")
            stopped: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
            attempt = await b.log.begin(task.id, worker="w", queue="chat", on_interrupt=stopped.set_result)
            assert await task.cancel("stop") is True
            message = None
            while not message:
                message = await announced.get_message(ignore_subscribe_messages=True, timeout=10)
            assert message["data"] == task.id.encode()
            assert 0 < await b.redis.ttl(keys.cancel(task.id)) <= keys.CANCEL_TTL
            await b.log.renew([attempt])
            error = await stopped
            assert isinstance(error, CancelRequested)
            assert error.reason == "stop"
            await attempt.seal(Cancelled(task=task.id, at=1.0, reason=error.reason))
            assert await task.cancel() is False

    run(main())


def test_a_task_that_was_taken_but_not_begun_is_not_begun_any_more(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            await b.redis.lmove("rq:queue:chat", "rq:queue:chat:intermediate", "LEFT", "RIGHT")
            assert await task.cancel() is True
            with pytest.raises(CancelRequested):
                await b.begin(task.id)

    run(main())


def test_what_has_ended_or_never_was_cannot_be_cancelled(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            with pytest.raises(TaskNotFound):
                await b.bus.task("nobody").cancel()
            with pytest.raises(TaskNotFound):
                await b.bus.task("nobody").status()
            await b.redis.hset("rq:job:t1", mapping={"status": "finished", "origin": "chat", "data": "[]"})
            assert await b.bus.task("t1").cancel() is False
            assert await b.redis.exists(keys.cancel("t1")) == 0

    run(main())


def test_a_status_says_where_a_task_stands(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.bus.chat_many([{"messages": "a"}, {"messages": "b"}])
            task = await b.bus.chat(messages="c")
            status = await task.status()
            assert (status.id, status.state, status.queue, status.position) == (task.id, "queued", "chat", 2)
            assert (status.attempt, status.last_id) == (0, None)
            await b.redis.lrem("rq:queue:chat", 0, task.id)
            await b.redis.hset(f"rq:job:{task.id}", "status", "started")
            await b.begin(task.id)
            attempt = await b.begin(task.id)
            await attempt.write(delta("x"))
            await b.log.renew([attempt])
            status = await task.status()
            assert (status.state, status.attempt, status.position) == ("started", 2, None)
            assert status.last_id in {"2-0", "2-1"}
            await attempt.seal(Completed(task=task.id, at=1.0, result=1))
            status = await task.status()
            assert (status.state, status.attempt, status.last_id) == ("completed", 2, keys.SEAL)

    run(main())


def test_keys_of_another_type_are_one_clear_error(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.set("rq:queue:bad", "x")
            with pytest.raises(BusError, match="bad"):
                await b.bus.chat(messages="hi", queue="bad", task_id="t1")
            assert await b.redis.exists("rq:job:t1") == 0
            await b.redis.set("rq:job:t2", "x")
            with pytest.raises(BusError):
                await b.bus.task("t2").status()
            with pytest.raises(BusError):
                await b.bus.task("t2").cancel()

    run(main())


def test_an_rq_key_prefix_is_honoured(redis_url, run):
    async def main():
        async with bench(redis_url, rq_key_prefix="app1") as b:
            task = await b.bus.chat(messages="hi")
            assert await b.redis.lrange("app1:queue:chat", 0, -1) == [task.id.encode()]
            assert await b.redis.smembers("app1:queues") == {b"app1:queue:chat"}
            assert await task.cancel() is True
            assert await b.redis.keys("rq:*") == []

    run(main())


def test_a_redis_that_is_not_there_is_an_error_that_names_it_without_the_password(run):
    async def main():
        async with AsyncBus("redis://user:hunter2@127.0.0.1:9/0") as bus:
            for call in (bus.chat(messages="x"), bus.task("t1").result(), bus.task("t1").status()):
                with pytest.raises(BusUnavailable, match=r"127\.0\.0\.1:9") as caught:
                    await call
                assert "hunter2" not in str(caught.value)

    run(main())


def test_a_wrong_password_is_an_error_too(fresh_redis, run):
    async def main():
        async with redis.asyncio.Redis.from_url(fresh_redis.url) as client:
            await client.config_set("requirepass", "right")
            async with AsyncBus(fresh_redis.url.replace("://", "://:wrong@")) as bus:
                with pytest.raises(BusUnavailable) as caught:
                    await bus.chat(messages="x")
                assert "wrong@" not in str(caught.value)
            await client.config_set("requirepass", "")

    run(main())


def test_a_bus_stays_on_its_loop(redis_url):
    bus = AsyncBus(redis_url)
    with asyncio.Runner() as one:
        one.run(bus.chat(messages="x"))

        async def elsewhere():
            with pytest.raises(RuntimeError, match="loop"):
                await bus.chat(messages="x")

        with asyncio.Runner() as two:
            two.run(elsewhere())
        one.run(bus.aclose())


def test_a_bus_can_be_used_again_after_it_was_closed(redis_url, run):
    async def main():
        bus = AsyncBus(redis_url)
        await bus.aclose()
        await bus.chat(messages="x")
        await bus.aclose()
        assert (await (await bus.chat(messages="y")).status()).position == 1
        await bus.aclose()

    run(main())


def test_a_lost_reply_does_not_enqueue_twice(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            # The same call arrives twice, as it does when the first reply is lost.
            from deltabus.enqueue import Order

            order = Order("f.g", {"request": {}}, queue="chat", task="t1", settings=Settings())
            session = b.bus._open()
            await order.send(session.commit, session.names)
            await order.send(session.commit, session.names)
            assert await b.redis.lrange("rq:queue:chat", 0, -1) == [b"t1"]

    run(main())
