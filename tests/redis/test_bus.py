"""The bus, for subscribers: results, text, and a Redis that is not there. A worker is played by the log."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
import redis
import redis.asyncio
from bench import bench, completion, delta

from deltabus.bus import AsyncBus
from deltabus.errors import (
    BusError,
    BusUnavailable,
    ErrorInfo,
    InvalidRequest,
    TaskCancelled,
    TaskFailed,
    TaskNotFound,
    TaskRestarted,
)
from deltabus.events import Cancelled, Completed, Failed
from deltabus.settings import Settings


def test_the_result_is_what_the_provider_returned(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            early = asyncio.create_task(task.result())
            attempt = await b.begin(task.id)
            await attempt.write(delta("ok"))
            late = asyncio.create_task(b.bus.task(task.id).result(timeout=60))
            await attempt.seal(Completed(task=task.id, at=1.0, result=completion("ok")))
            assert await early == await late == await task.result() == completion("ok")

    run(main())


def test_a_failure_and_a_cancel_are_raised_with_what_is_known(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            error = ErrorInfo(code="rate_limited", message="slow down", retryable=True, status=429)
            await b.settle(Failed(task="t1", at=1.0, error=error))
            with pytest.raises(TaskFailed, match="rate_limited: slow down") as failed:
                await b.bus.task("t1").result()
            assert failed.value.info == error
            await b.settle(Cancelled(task="t2", at=1.0, reason="enough"))
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
            with pytest.raises(TimeoutError, match=rf"task {task.id} has not ended after 0\.05 s; it goes on"):
                await task.result(timeout=0.05)
            for wrong in (-1, math.nan, "5", True):
                with pytest.raises(InvalidRequest, match="must be a number of seconds, 0 or more") as caught:
                    await task.result(timeout=wrong)
                assert caught.value.param == "timeout"
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
            await b.settle(Completed(task="t1", at=1.0, result=completion("whole")))
            assert [piece async for piece in b.bus.task("t1").text()] == ["whole"]
            await b.settle(Completed(task="t2", at=1.0, result=completion(None)))
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


def impatient(url: str) -> Settings:
    return replace(Settings(), redis_url=url, redis_timeout=0.3)


def test_a_redis_that_is_not_there_is_an_error_that_names_it_without_the_password(run):
    async def main():
        async with AsyncBus(settings=impatient("redis://user:hunter2@127.0.0.1:9/0")) as bus:
            for call in (bus.chat(messages="x"), bus.task("t1").result(), bus.task("t1").status()):
                with pytest.raises(BusUnavailable, match=r"127\.0\.0\.1:9") as caught:
                    await call
                assert "hunter2" not in str(caught.value)

    run(main())


def test_a_wrong_password_is_an_error_too(fresh_redis, run):
    async def main():
        async with redis.asyncio.Redis.from_url(fresh_redis.url) as client:
            await client.config_set("requirepass", "right")
            async with AsyncBus(settings=impatient(fresh_redis.url.replace("://", "://:wrong@"))) as bus:
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
