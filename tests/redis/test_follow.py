"""Following: early, late, resumed, cut off, slow; each subscriber sees the same events, and the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from deltabus import events, feed, follow, keys
from deltabus.bus import AsyncBus
from deltabus.errors import BusError, BusUnavailable, InvalidRequest, TaskNotFound
from deltabus.events import Cancelled, Completed, Failed, Progress
from deltabus.log import Attempt, Log
from deltabus.settings import Settings

TASK = "t1"
DEADLINE = 30.0


class Bench:
    """A worker's log and a subscriber's bus, each with connections of its own."""

    def __init__(self, client: redis.asyncio.Redis, log: Log, bus: AsyncBus) -> None:
        self.redis = client
        self.log = log
        self.bus = bus

    async def begin(self, task: str = TASK, **options: Any) -> Attempt:
        return await self.log.begin(task, worker="w", queue="chat", on_interrupt=lambda _: None, **options)

    async def logged(self, task: str = TASK) -> list[bytes]:
        return [fields[b"event"] for _, fields in await self.redis.xrange(keys.log(task))]

    async def collect(self, after: str | None = None, task: str = TASK) -> list[bytes]:
        return [message async for message in self.bus.task(task).messages(after)]

    async def subscribers(self, count: int, task: str = TASK) -> None:
        """Wait until so many connections listen to the task."""
        async with asyncio.timeout(DEADLINE):
            while dict(await self.redis.pubsub_numsub(keys.events(task)))[keys.events(task).encode()] < count:
                await asyncio.sleep(0)


@asynccontextmanager
async def bench(url: str, **settings: Any) -> AsyncIterator[Bench]:
    async with redis.asyncio.Redis.from_url(url) as client, AsyncBus(settings=Settings(redis_url=url)) as bus:
        log = Log(client, Settings(**settings))
        try:
            async with asyncio.timeout(DEADLINE):
                yield Bench(client, log, bus)
        finally:
            await log.aclose()


def completed(result: Any = None, task: str = TASK) -> Completed:
    return Completed(task=task, at=1.0, result=result)


def chunk(n: int) -> bytes:
    return json.dumps({"n": n}).encode()


async def flushed(attempt: Attempt, n: int) -> None:
    """An event of its own for chunk `n`."""
    await attempt.write(chunk(n))
    await attempt.emit(Progress(task=attempt.task, at=1.0, done=n))


async def enqueued(b: Bench, task: str = TASK) -> None:
    await b.redis.hset(f"rq:job:{task}", mapping={"status": "queued", "origin": "chat", "data": b'["f",null,[{}],{}]'})


def test_early_late_and_resumed_subscribers_see_the_same_bytes(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await enqueued(b)
            early = asyncio.create_task(b.collect())
            await b.subscribers(1)
            attempt = await b.begin()
            for n in range(10):
                await flushed(attempt, n)
            middle = asyncio.create_task(b.collect())
            resumed = asyncio.create_task(b.collect(after="1-7"))
            for n in range(10, 20):
                await flushed(attempt, n)
            await attempt.seal(completed())
            logged = await b.logged()
            assert len(logged) == 42
            assert await early == logged
            assert await middle == logged
            assert await resumed == logged[8:]
            assert await b.collect() == logged
            assert await b.collect(after="1-40") == logged[-1:]
            assert await b.collect(after=keys.SEAL) == []

    run(main())


def test_a_subscriber_whose_socket_is_closed_three_times_misses_nothing(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await enqueued(b)
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            attempt = await b.begin()
            for cut in range(3):
                await flushed(attempt, cut)
                for client in await b.redis.client_list(_type="pubsub"):
                    await b.redis.client_kill_filter(_id=client["id"])
                await flushed(attempt, 10 + cut)
                await b.subscribers(1)
            await flushed(attempt, 99)
            await attempt.seal(completed())
            assert await subscriber == await b.logged()

    run(main())


def test_all_of_a_subscribers_sockets_may_be_closed_at_any_moment(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await enqueued(b)
            subscribers = [asyncio.create_task(b.collect()) for _ in range(5)]
            attempt = await b.begin()
            for n in range(60):
                await flushed(attempt, n)
                if n % 20 == 10:
                    await b.redis.client_kill_filter(skipme=True, _type="normal")
                    await b.redis.client_kill_filter(skipme=True, _type="pubsub")
            await attempt.seal(completed())
            logged = await b.logged()
            for subscriber in subscribers:
                assert await subscriber == logged

    run(main())


def test_one_connection_listens_to_many_tasks(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            names = [f"t{n}" for n in range(50)]
            for name in names:
                await enqueued(b, name)
            subscribers = [asyncio.create_task(b.collect(task=name)) for name in names]
            for name in names:
                await b.subscribers(1, name)
            assert len(await b.redis.client_list(_type="pubsub")) == 1
            for name in names:
                attempt = await b.begin(name)
                await attempt.write(chunk(1))
                await attempt.seal(completed(name, name))
            for name, subscriber in zip(names, subscribers, strict=True):
                assert await subscriber == await b.logged(name)
            assert await b.redis.pubsub_channels() == []

    run(main())


def test_a_slow_subscriber_reads_on_from_the_log(redis_url, run, monkeypatch):
    monkeypatch.setattr(feed, "MAX_WAITING_BYTES", 500)

    async def main():
        async with bench(redis_url) as b:
            await enqueued(b)
            following = b.bus.task(TASK).messages()
            first = asyncio.create_task(anext(following))
            await b.subscribers(1)
            attempt = await b.begin()
            got = [await first]
            for n in range(200):
                await flushed(attempt, n)
            await attempt.seal(completed())
            got += [message async for message in following]
            assert got == await b.logged()

    run(main())


def test_a_log_longer_than_a_page_is_read_whole(redis_url, run, monkeypatch):
    monkeypatch.setattr(follow, "PAGE", 7)

    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            for n in range(50):
                await flushed(attempt, n)
            await attempt.seal(completed())
            assert await b.collect() == await b.logged()

    run(main())


def test_a_gap_in_what_is_published_is_filled_from_the_log(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            # As if the publication had been lost.
            silent = b'{"type":"delta","task":"t1","id":"1-1","chunks":[{}]}'
            await b.redis.xadd(keys.log(TASK), {"event": silent}, id="1-1")
            loud = b'{"type":"delta","task":"t1","id":"1-2","chunks":[{}]}'
            await b.redis.xadd(keys.log(TASK), {"event": loud}, id="1-2")
            await b.redis.publish(keys.events(TASK), loud)
            await b.log.settle(TASK, completed(), queue="chat")
            assert await subscriber == await b.logged()
            attempt.abandon()

    run(main())


def test_silence_makes_a_subscriber_look_at_the_log(redis_url, run, monkeypatch):
    monkeypatch.setattr(follow, "SILENCE", 0.05)

    async def main():
        async with bench(redis_url) as b:
            await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            seal = b'{"type":"completed","task":"t1","id":"9007199254740991-0","at":1.0,"result":null}'
            await b.redis.xadd(keys.log(TASK), {"event": seal}, id=keys.SEAL)
            assert await subscriber == await b.logged()

    run(main())


def test_what_strangers_publish_is_not_shown(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            for noise in (b"hello", b"{}", b'{"type":"delta","task":"t1","id":"x","chunks":[]}', b"\xff"):
                await b.redis.publish(keys.events(TASK), noise)
            await attempt.write(chunk(1))
            await attempt.seal(completed())
            assert await subscriber == await b.logged()

    run(main())


def test_a_second_attempt_follows_the_first_in_the_same_stream(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            first = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            await flushed(first, 1)
            second = await b.begin()
            await flushed(second, 2)
            await second.seal(completed())
            assert await subscriber == await b.logged()
            ids = [events.decode(message).id for message in await b.logged()]
            assert ids == ["1-0", "1-1", "1-2", "2-0", "2-1", "2-2", keys.SEAL]

    run(main())


def test_a_reopened_task_goes_on_for_whoever_follows_it(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            first = await b.begin()
            await flushed(first, 1)
            await first.seal(completed("first"))
            again = await b.begin(reopen=True)
            resumed = asyncio.create_task(b.collect(after="1-1"))
            await flushed(again, 2)
            await again.seal(completed("second"))
            assert await resumed == await b.logged()

    run(main())


def test_an_unknown_task_is_an_error_at_once(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            with pytest.raises(TaskNotFound, match="nobody"):
                await b.collect(task="nobody")
            with pytest.raises(TaskNotFound):
                await b.collect(task="nobody", after="1-7")

    run(main())


@pytest.mark.parametrize("after", ["", "7", "1-", "-1", "1-7-2", "x-1", "1-7 ", "99999999999999999-0"])
def test_a_cursor_that_is_no_event_id_is_refused(redis_url, run, after):
    async def main():
        async with bench(redis_url) as b:
            if after == "":
                with pytest.raises(TaskNotFound):
                    await b.collect(after)
            else:
                with pytest.raises(InvalidRequest) as caught:
                    await b.collect(after)
                assert caught.value.param == "after"

    run(main())


def test_a_log_that_has_expired_is_answered_from_what_rq_keeps(redis_url, run):
    import rq
    from rq.job import Job

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
    import rq

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
    monkeypatch.setattr(follow, "SILENCE", 0.05)
    monkeypatch.setattr(follow, "ABANDONED", 0.5)

    async def main():
        async with bench(redis_url) as b:
            await enqueued(b)
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
    monkeypatch.setattr(follow, "SILENCE", 0.05)

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
    monkeypatch.setattr(follow, "SILENCE", 0.2)

    async def main():
        async with bench(redis_url) as b:
            await enqueued(b)
            attempt = await b.begin()
            got: list[bytes] = []

            async def collect() -> None:
                got.extend([message async for message in b.bus.task(TASK).messages()])

            subscriber = asyncio.create_task(collect())
            await b.subscribers(1)
            await flushed(attempt, 1)
            before = await b.logged()
            await b.redis.flushall()
            attempt.abandon()
            await enqueued(b)
            again = await b.begin()
            assert again.number == 1
            for n in range(5):
                await flushed(again, 100 + n)
            await again.seal(completed())
            await subscriber
            assert got == before + await b.logged()

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


def test_closing_the_bus_ends_those_who_follow(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            closing = asyncio.create_task(b.bus.aclose())
            with pytest.raises(BusUnavailable):
                await subscriber
            await closing

    run(main())


def test_a_subscriber_survives_a_restart_of_redis(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            await flushed(attempt, 1)
            await asyncio.to_thread(fresh_redis.restart)
            await b.redis.connection_pool.disconnect()  # The bench's own client does not reconnect by itself.
            await flushed(attempt, 2)
            await attempt.seal(completed())
            assert await subscriber == await b.logged()

    run(main())
