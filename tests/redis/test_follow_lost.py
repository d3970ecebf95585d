"""Following what has no log, or none any more: RQ's records answer, or an error does; nobody waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
import redis.asyncio
import rq
from bench import TASK, bench, completed, flushed
from rq.job import Job

from deltabus import events, feed, follow, keys
from deltabus.errors import (
    BusError,
    TaskNotFound,
)
from deltabus.events import Cancelled, Failed


def test_an_unknown_task_is_an_error_at_once(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            with pytest.raises(TaskNotFound, match="nobody"):
                await b.collect(task="nobody")
            with pytest.raises(TaskNotFound):
                await b.collect(task="nobody", after="1-7")

    run(main())


def test_a_log_that_has_expired_is_answered_from_what_rq_keeps(redis_url, run):
    def perform(client: Any, result: Any) -> str:
        queue = rq.Queue("chat", connection=client, serializer="json")
        job = queue.enqueue("deltabus.tasks.chat", {"request": {}})
        if isinstance(result, Exception):
            job._status = "failed"
            job.save()
            rq.results.Result.create_failure(job, 100, f"Traceback: …\n{result}")
        elif result == "canceled":
            job.cancel()
        else:
            job._status = "finished"
            job.save()
            rq.results.Result.create(job, rq.results.Result.Type.SUCCESSFUL, 100, return_value=result)
        assert Job.fetch(job.id, connection=client, serializer="json")
        return job.id

    async def main():
        with redis.Redis.from_url(redis_url) as client:
            done = perform(client, {"answer": 42})
            failed = perform(client, RuntimeError("deltabus.errors.TaskFailed: task 1 failed: rate_limited: slow down"))
            broken = perform(client, RuntimeError("KeyError: 'x'"))
            cancelled = perform(client, "canceled")
            only_result = perform(client, [1])
            client.delete(f"rq:job:{only_result}")
            nothing = perform(client, [1])
            client.delete(f"rq:results:{nothing}")
        async with bench(redis_url) as b:
            assert [events.decode(m).result for m in await b.collect(task=done)] == [{"answer": 42}]
            (event,) = [events.decode(m) for m in await b.collect(task=failed)]
            assert isinstance(event, Failed)
            assert (event.error.code, event.error.message) == ("rate_limited", "slow down")
            (event,) = [events.decode(m) for m in await b.collect(task=broken, after="1-3")]
            assert (event.error.code, event.error.message) == ("internal", "KeyError: 'x'")
            (event,) = [events.decode(m) for m in await b.collect(task=cancelled)]
            assert isinstance(event, Cancelled)
            assert [events.decode(m).result for m in await b.collect(task=only_result)] == [[1]]
            with pytest.raises(TaskNotFound, match="expired"):
                await b.collect(task=nothing)

    run(main())


def test_a_pickled_result_is_an_error_and_never_unpickled(redis_url, run):
    async def main():
        with redis.Redis.from_url(redis_url) as client:
            job = rq.Queue("chat", connection=client).enqueue("os.getpid")
            job._status = "finished"
            job.save()
            rq.results.Result.create(job, rq.results.Result.Type.SUCCESSFUL, 100, return_value={1})
        async with bench(redis_url) as b:
            with pytest.raises(BusError, match="serializer"):
                await b.collect(task=job.id)

    run(main())


def test_a_task_that_rq_gave_up_ends_for_its_subscribers_too(redis_url, run, monkeypatch):
    monkeypatch.setattr(feed, "SILENCE", 0.05)
    monkeypatch.setattr(follow, "MENDING", 0.05)
    monkeypatch.setattr(follow, "ABANDONED", 0.5)

    async def main():
        async with bench(redis_url) as b:
            await b.enqueued()
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            attempt.abandon()
            await b.redis.hset(f"rq:job:{TASK}", "status", "failed")
            await b.redis.expire(keys.log(TASK), 24 * 3600 - 10)  # nobody has renewed it for ten seconds
            *_, last = await subscriber
            assert isinstance(events.decode(last), Failed)

    run(main())


def test_a_log_that_vanishes_for_good_ends_in_an_error(redis_url, run, monkeypatch):
    monkeypatch.setattr(feed, "SILENCE", 0.05)
    monkeypatch.setattr(follow, "MENDING", 0.05)

    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            attempt.abandon()
            await b.redis.flushall()
            with pytest.raises(TaskNotFound):
                await subscriber

    run(main())


def test_a_task_begun_anew_after_redis_lost_its_data_is_shown_from_its_start(redis_url, run, monkeypatch):
    monkeypatch.setattr(feed, "SILENCE", 0.2)
    monkeypatch.setattr(follow, "MENDING", 0.2)

    async def main():
        async with bench(redis_url) as b:
            await b.enqueued()
            attempt = await b.begin()
            got: list[bytes] = []

            seen = asyncio.Event()

            async def collect() -> None:
                async for message in b.bus.task(TASK).messages():
                    got.append(message)
                    if events.decode(message).id == "1-2":
                        seen.set()

            subscriber = asyncio.create_task(collect())
            await b.subscribers(1)
            await flushed(attempt, 1)
            before = await b.messages()
            await seen.wait()
            await b.redis.flushall()
            attempt.abandon()
            await b.enqueued()
            again = await b.begin()
            assert again.number == 1
            for n in range(5):
                await flushed(again, 100 + n)
            await again.seal(completed())
            await subscriber
            assert got == before + await b.messages()

    run(main())


def test_a_key_of_another_type_is_one_clear_error(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.set(keys.log(TASK), "x")
            with pytest.raises(BusError, match=TASK):
                await b.collect()
            await b.redis.xadd(keys.log("t2"), {"event": "not an event"})
            with pytest.raises(BusError, match="version 1"):
                await b.collect(task="t2")

    run(main())
