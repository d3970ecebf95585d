"""The log when Redis is away, hangs, restarts, is full or read-only: nothing is lost, doubled, reordered."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
import redis
import redis.asyncio
from badline import over_bad_line
from bench import bench
from streaming import Streaming, numbers, streamed

from deltabus import commit, keys
from deltabus.errors import (
    BusUnavailable,
)
from deltabus.events import Completed, Snapshot
from deltabus.scripts import LOG


def test_a_lost_reply_doubles_nothing_whatever_it_answered(redis_url, run):
    async def main():
        async with over_bad_line(redis_url) as (b, line):
            line.lose_replies = True
            stream = Streaming(await b.begin())
            assert stream.attempt.number == 1
            line.lose_replies = True
            await stream.write(1, 2)
            await stream.flush()
            line.lose_replies = True
            await stream.write(3)
            await stream.flush()
            line.lose_replies = True
            await b.log.renew([stream.attempt])
            line.lose_replies = True
            await stream.seal()
            line.lose_replies = True
            await b.log.settle("t2", Completed(task="t2", at=1.0, result=None), queue="chat")
            found = await b.events()
            assert [e.id for e in found] == ["1-0", "1-1", "1-2", "1-3", "1-4", keys.SEAL]
            assert streamed(found) == [1, 2, 3]
            assert not any(isinstance(event, Snapshot) for event in found)
            assert len(await b.events("t2")) == 1
            assert b.interrupts == []

    run(main())


def test_lines_that_are_cut_again_and_again_change_nothing(redis_url, run):
    async def main():
        async with over_bad_line(redis_url) as (b, line):
            streams = [Streaming(await b.begin(f"t{n}")) for n in range(20)]
            for n in range(50):
                for stream in streams:
                    await stream.write(n)
                if n % 5 == 0:
                    line.cut_all()
                elif n % 7 == 0:
                    line.lose_replies = True
                await streams[0].flush()
            await asyncio.gather(*(stream.seal() for stream in streams))
            for n in range(20):
                found = await b.events(f"t{n}")
                assert streamed(found) == list(range(50))
                assert [e.id for e in found[:-1]] == [f"1-{i}" for i in range(len(found) - 1)]
                assert found[-1].id == keys.SEAL

    run(main())


def test_scripts_that_redis_forgot_are_loaded_again(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            stream = Streaming(await b.begin())
            await b.redis.execute_command("SCRIPT", "FLUSH")
            await stream.write(1)
            await stream.seal()
            assert streamed(await b.events()) == [1]

    run(main())


def test_a_restart_of_redis_is_waited_out(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            stream = Streaming(await b.begin())
            await stream.write(1)
            await stream.flush()
            restart = asyncio.create_task(asyncio.to_thread(fresh_redis.restart))
            for n in range(2, 200):
                await stream.write(n)
                await asyncio.sleep(0)
            await restart
            await stream.seal()
            found = await b.events()
            assert streamed(found) == list(range(1, 200))
            assert found[-1].result == list(range(1, 200))

    run(main())


def test_a_redis_that_hangs_is_waited_out(fresh_redis, run, monkeypatch):
    monkeypatch.setattr(commit, "REPLY_TIMEOUT", 0.3)

    async def main():
        async with over_bad_line(fresh_redis.url) as (b, line):
            stream = Streaming(await b.begin())
            os.kill(fresh_redis.pid, signal.SIGSTOP)
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            for _ in range(2):
                line.cut.clear()
                await line.cut.wait()
            assert not sealing.done()
            os.kill(fresh_redis.pid, signal.SIGCONT)
            await sealing
            assert streamed(await b.events()) == [1]
            assert len(await b.events()) == 3

    run(main())


def test_a_full_redis_is_waited_out_while_others_are_answered(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            stream = Streaming(await b.begin())
            other = Streaming(await b.begin("t2"))
            await b.redis.execute_command("CONFIG", "SET", "maxmemory", "1")
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            await other.write(1)
            await b.log.renew([other.attempt])  # needs no memory
            assert not sealing.done()
            await b.redis.execute_command("CONFIG", "SET", "maxmemory", "0")
            await sealing
            assert streamed(await b.events()) == [1]
            other.attempt.abandon()

    run(main())


def test_a_read_only_redis_is_waited_out(fresh_redis, run):
    async def main():
        async with over_bad_line(fresh_redis.url) as (b, line):
            stream = Streaming(await b.begin())
            await b.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            line.cut.clear()
            await line.cut.wait()  # a new connection, which behind a Sentinel leads to the new master
            assert not sealing.done()
            await b.redis.execute_command("REPLICAOF", "NO", "ONE")
            await sealing
            assert streamed(await b.events()) == [1]

    run(main())


def test_too_much_that_waits_for_redis_holds_the_writer_up(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url, max_pending_bytes=1000) as b:
            stream = Streaming(await b.begin())
            os.kill(fresh_redis.pid, signal.SIGSTOP)
            written = 0

            async def write() -> None:
                nonlocal written
                for n in range(1000):
                    await stream.write(n)
                    written += 1

            writing = asyncio.create_task(write())
            for _ in range(5000):  # rounds of the loop: more than enough for all of it
                await asyncio.sleep(0)
            assert 1000 < sum(len(numbers(n)) for n in range(written + 1)) < 1020
            os.kill(fresh_redis.pid, signal.SIGCONT)
            await writing
            await stream.seal()
            assert streamed(await b.events()) == list(range(1000))

    run(main())


def test_closing_gives_up_what_cannot_be_written(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            stream = Streaming(await b.begin())
            await asyncio.to_thread(fresh_redis.kill)
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            beginning = asyncio.create_task(b.begin("t2"))
            await asyncio.sleep(0)
            await b.log.aclose(patience=0.2)
            for waiting in (sealing, beginning):
                with pytest.raises(BusUnavailable):
                    await waiting
            with pytest.raises(BusUnavailable):
                Streaming(await b.begin("t3"))
            await asyncio.to_thread(fresh_redis.start)

    run(main())


def test_who_gives_up_says_what_redis_has_said_though_the_last_try_had_no_time_to_hear_it(redis_url, run):
    async def main():
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            group = commit.GroupCommit(client, LOG, patience=0.2)

            async def exchange(seconds: float) -> Any:
                if seconds < 0.1:
                    raise TimeoutError
                raise redis.ConnectionError("it is a slave")

            group._exchange = exchange
            with pytest.raises(BusUnavailable, match="it is a slave"):
                await group.call(commit.pack_command("PING"))
            await group.aclose()

    run(main())


def test_what_piles_up_goes_out_in_portions(redis_url, run, monkeypatch):
    monkeypatch.setattr(commit, "BATCH_BYTES", 2000)

    async def main():
        sent: list[int] = []
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            group = commit.GroupCommit(client, LOG)
            exchange = group._exchange

            async def counted(seconds: float) -> Any:
                sent.append(sum(len(packed) for _, packed in group._unanswered))
                return await exchange(seconds)

            group._exchange = counted
            echo = [commit.pack_command("ECHO", bytes([65 + n % 26]) * 300) for n in range(50)]
            replies = await asyncio.gather(*map(group.call, echo))
            assert [reply[:1] for reply in replies] == [bytes([65 + n % 26]) for n in range(50)]
            assert max(sent) < 2400
            await group.aclose()

    run(main())


def test_calls_that_nobody_waits_for_any_more_are_not_sent(redis_url, run):
    async def main():
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            group = commit.GroupCommit(client, LOG)
            call = asyncio.create_task(group.call(commit.pack_command("SET", "k", "v")))
            await asyncio.sleep(0)
            call.cancel()
            await group.call(commit.pack_command("PING"))
            assert await client.exists("k") == 0
            await group.aclose()
            assert group.closed

    run(main())


def test_an_item_that_cannot_be_sent_keeps_no_other_from_being_sent(redis_url, run, caplog):
    class Broken(commit.Call):
        def command(self) -> bytes | None:
            raise TypeError("no JSON")

    async def main():
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            group = commit.GroupCommit(client, LOG)
            broken = Broken(b"")
            group.submit(broken)
            assert await group.call(commit.pack_command("ECHO", "here")) == b"here"
            assert "it cannot be sent: TypeError" in str(await broken.reply)
            await group.aclose()

    run(main())
