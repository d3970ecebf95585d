"""The bus, for whoever looks after tasks: cancel them, and ask where they stand."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import redis
import redis.asyncio
import rq
from bench import bench, delta
from rq.job import Job

from deltabus import events, keys
from deltabus.errors import (
    CancelRequested,
    TaskCancelled,
    TaskNotFound,
)
from deltabus.events import Cancelled, Completed
from deltabus.follow import Seen


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
            await b.redis.hset(f"rq:job:{task.id}", "status", "started")
            await b.redis.zadd(f"rq:executions:{task.id}", {"e1": 1})
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
            await attempt.seal(Cancelled(task=task.id, at=1.0, reason=error.reason, execution="e1"))
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


def test_a_task_that_ends_while_word_is_left_has_ended(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")
            await b.redis.lpop("rq:queue:chat")
            session = b.bus._open()
            assert await task._withdraw(session, await session.records.read(task.id), None) == b"elsewhere"
            await b.settle(Completed(task=task.id, at=1.0, result=None))
            assert await task._leave_word(session, "too late", None) is False
            assert not await b.redis.exists(keys.cancel(task.id))

    run(main())


def test_a_task_that_waits_and_runs_at_once_is_not_sealed_under_its_writer(redis_url, run, monkeypatch):
    async def main():
        async with bench(redis_url) as b:
            task = await b.bus.chat(messages="hi")

            async def nothing_yet(_: str) -> list[Seen]:
                return []

            monkeypatch.setattr(b.bus._open().follower, "tail", nothing_yet)
            attempt = await b.begin(task.id)
            assert await task.cancel("stop") is True
            assert await b.redis.llen("rq:queue:chat") == 0
            assert await b.redis.get(keys.cancel(task.id)) == b"stop"
            await b.log.renew([attempt])
            assert isinstance(await b.interruption(), CancelRequested)

    run(main())
