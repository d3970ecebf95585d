"""Following: early, late, resumed, cut off, slow; each subscriber sees the same events, and the end."""

from __future__ import annotations

import asyncio

import pytest
from badline import over_bad_line
from bench import TASK, bench, chunk, completed, flushed

from deltabus import commit, events, feed, follow, keys
from deltabus.errors import (
    BusError,
    BusUnavailable,
    ErrorInfo,
    InvalidRequest,
    TaskNotFound,
)


def test_early_late_and_resumed_subscribers_see_the_same_bytes(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.enqueued()
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
            logged = await b.messages()
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
            await b.enqueued()
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
            assert await subscriber == await b.messages()

    run(main())


def test_all_of_a_subscribers_sockets_may_be_closed_at_any_moment(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.enqueued()
            subscribers = [asyncio.create_task(b.collect()) for _ in range(5)]
            attempt = await b.begin()
            for n in range(60):
                await flushed(attempt, n)
                if n % 20 == 10:
                    await b.redis.client_kill_filter(skipme=True, _type="normal")
                    await b.redis.client_kill_filter(skipme=True, _type="pubsub")
            await attempt.seal(completed())
            logged = await b.messages()
            for subscriber in subscribers:
                assert await subscriber == logged

    run(main())


def test_one_connection_listens_to_many_tasks(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            names = [f"t{n}" for n in range(50)]
            for name in names:
                await b.enqueued(name)
            subscribers = [asyncio.create_task(b.collect(task=name)) for name in names]
            for name in names:
                await b.subscribers(1, name)
            assert len(await b.redis.client_list(_type="pubsub")) == 1
            for name in names:
                attempt = await b.begin(name)
                await attempt.write(chunk(1))
                await attempt.seal(completed(name, name))
            for name, subscriber in zip(names, subscribers, strict=True):
                assert await subscriber == await b.messages(name)
            while await b.redis.pubsub_channels():
                await asyncio.sleep(0)

    run(main())


def test_a_slow_subscriber_reads_on_from_the_log(redis_url, run, monkeypatch):
    monkeypatch.setattr(feed, "MAX_WAITING_BYTES", 500)

    async def main():
        async with bench(redis_url) as b:
            await b.enqueued()
            following = b.bus.task(TASK).messages()
            first = asyncio.create_task(anext(following))
            await b.subscribers(1)
            attempt = await b.begin()
            got = [await first]
            for n in range(200):
                await flushed(attempt, n)
            await attempt.seal(completed())
            got += [message async for message in following]
            assert got == await b.messages()

    run(main())


def test_a_log_longer_than_a_page_is_read_whole(redis_url, run, monkeypatch):
    monkeypatch.setattr(follow, "PAGE", 7)

    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            for n in range(50):
                await flushed(attempt, n)
            await attempt.seal(completed())
            assert await b.collect() == await b.messages()

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
            await b.settle(completed())
            assert await subscriber == await b.messages()
            attempt.abandon()

    run(main())


def test_silence_makes_a_subscriber_look_at_the_log(redis_url, run, monkeypatch):
    monkeypatch.setattr(feed, "SILENCE", 0.05)
    monkeypatch.setattr(follow, "MENDING", 0.05)

    async def main():
        async with bench(redis_url) as b:
            await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            seal = b'{"type":"completed","task":"t1","id":"9007199254740991-0","at":1.0,"result":null}'
            await b.redis.xadd(keys.log(TASK), {"event": seal}, id=keys.SEAL)
            assert await subscriber == await b.messages()

    run(main())


def failed(task):
    return events.Failed(task=task, id=keys.SEAL, at=1.0, error=ErrorInfo(code="internal", message="forged"))


#: What msgspec raises errors at that are not its own.
BROKEN = (b"\xff", b'{"type":"completed","result":' + b"[" * 100_000, b'{"type":"delta","task":"\xff"}')


def test_a_log_with_what_is_no_event_is_an_error(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            for message in (*BROKEN, b'{"type":"started","task":"t1","id":"x","at":1}'):
                await b.redis.delete(keys.log(TASK))
                await b.redis.xadd(keys.log(TASK), {"event": message}, id="1-0")
                with pytest.raises(BusError, match="no event of protocol version 1"):
                    await b.collect()
                with pytest.raises(BusError, match="no event of protocol version 1"):
                    await b.bus.task(TASK).status()

    run(main())


def test_what_strangers_publish_is_not_shown(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            forged = events.encode(failed(task="another"))
            for noise in (forged, b"hello", b"{}", b'{"type":"delta","task":"t1","id":"x","chunks":[]}', *BROKEN):
                await b.redis.publish(keys.events(TASK), noise)
            await attempt.write(chunk(1))
            await attempt.seal(completed())
            assert await subscriber == await b.messages()

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
            assert await subscriber == await b.messages()
            ids = [events.decode(message).id for message in await b.messages()]
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
            assert await resumed == await b.messages()

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


def test_a_subscriber_whose_line_goes_dead_without_a_word_gets_a_new_one(redis_url, run, monkeypatch):
    monkeypatch.setattr(feed, "SILENCE", 0.1)

    async def main():
        async with over_bad_line(redis_url, whose="bus") as (b, line):
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            await flushed(attempt, 1)
            before = {client["id"] for client in await b.redis.client_list(_type="pubsub")}
            b.bus._open().follower._commit._patience = 0.4  # half of it for an answer
            line.die()
            await flushed(attempt, 2)
            while not {client["id"] for client in await b.redis.client_list(_type="pubsub")} - before:
                await asyncio.sleep(0)
            await flushed(attempt, 3)
            await attempt.seal(completed())
            assert await subscriber == await b.messages()

    run(main())


@pytest.mark.parametrize("outage", [60.0, 0.0])
def test_an_outage_is_waited_out_for_a_while(redis_url, run, monkeypatch, outage):
    monkeypatch.setattr(follow, "OUTAGE", outage)
    monkeypatch.setattr(feed, "SILENCE", 0.05)
    given_up = asyncio.Event()

    def give_up(group: commit.GroupCommit, reason: str, really=commit.GroupCommit._give_up) -> None:
        really(group, reason)
        given_up.set()

    monkeypatch.setattr(commit.GroupCommit, "_give_up", give_up)

    async def main():
        async with over_bad_line(redis_url, whose="bus") as (b, line):
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            await flushed(attempt, 1)
            b.bus._open().follower._commit._patience = 0.1  # only now: a slow machine may need more of it
            await line.stop()
            await flushed(attempt, 2)
            await given_up.wait()
            if outage:
                await line.start(line.port)
                await attempt.seal(completed())
                assert await subscriber == await b.messages()
            else:
                with pytest.raises(BusUnavailable):
                    await subscriber

    run(main())


def test_a_subscriber_survives_a_restart_of_redis(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            attempt = await b.begin()
            subscriber = asyncio.create_task(b.collect())
            await b.subscribers(1)
            await flushed(attempt, 1)
            await asyncio.to_thread(fresh_redis.restart)
            await flushed(attempt, 2)
            await attempt.seal(completed())
            assert await subscriber == await b.messages()

    run(main())
