"""The log when Redis is away, hangs, restarts, is full, read-only or forgetful: nothing is lost, doubled, reordered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from deltabus import attempt as attempts
from deltabus import commit, events, keys
from deltabus.errors import BusUnavailable, Fenced, Internal
from deltabus.events import Completed, Delta, Progress, Snapshot, Started
from deltabus.log import Attempt, Log
from deltabus.scripts import LOG
from deltabus.settings import Settings

TASK = "t1"


class Bench:
    """A log over a proxy that can lose replies and cut lines, and a straight line to see what is in Redis."""

    def __init__(self, url: str, log: Log, proxy: Proxy) -> None:
        self.url = url
        self.log = log
        self.proxy = proxy
        self.interrupts: asyncio.Queue[BaseException] = asyncio.Queue()

    async def begin(self, task: str = TASK, **options: Any) -> Streaming:
        attempt = await self.log.begin(
            task, worker="w", queue="chat", on_interrupt=self.interrupts.put_nowait, **options
        )
        return Streaming(attempt)

    async def direct(self, *command: Any) -> Any:
        async with redis.asyncio.Redis.from_url(self.url) as client:
            return await client.execute_command(*command)

    async def events(self, task: str = TASK) -> list[Any]:
        async with redis.asyncio.Redis.from_url(self.url) as client:
            return [events.decode(fields[b"event"]) for _, fields in await client.xrange(keys.log(task))]


class Streaming:
    """An attempt whose chunks are numbers, as the engine would drive it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.written: list[int] = []
        attempt.snapshot = lambda: [chunk(*self.written)]

    async def write(self, *numbers: int) -> None:
        for number in numbers:
            self.written.append(number)
            await self.attempt.write(chunk(number))

    async def flush(self) -> None:
        await self.attempt.emit(Progress(task=self.attempt.task, at=1.0, done=len(self.written)))

    async def seal(self) -> None:
        await self.attempt.seal(Completed(task=self.attempt.task, at=1.0, result=self.written))


class Proxy:
    """A line to Redis with faults: what the server answers can be held back, and the line cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lines: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        #: The next reply is swallowed, and the line cut.
        self.lose_replies = False
        self.cut = asyncio.Event()

    async def start(self) -> str:
        def serve(*line: Any) -> None:
            task = asyncio.ensure_future(self._serve(*line))
            self._served.add(task)
            task.add_done_callback(self._served.discard)

        self._server = await asyncio.start_server(serve, "127.0.0.1")
        host, port = self._server.sockets[0].getsockname()
        return f"redis://{host}:{port}/0"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        ends = {writer, up_writer}
        self._lines |= ends

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
            try:
                while data := await source.read(65536):
                    if replies and self.lose_replies:
                        self.lose_replies = False
                        break
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                for end in ends:
                    end.close()

        await asyncio.gather(pump(reader, up_writer, replies=False), pump(up_reader, writer, replies=True))
        self._lines -= ends
        self.cut.set()

    def cut_all(self) -> None:
        for line in self._lines:
            line.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._served)


def chunk(*numbers: int) -> bytes:
    return json.dumps({"n": numbers}).encode()


def streamed(found: list[Any]) -> list[int]:
    """What a subscriber of these events has in the end, for the last attempt."""
    numbers: list[int] = []
    for event in found:
        match event:
            case Started():
                numbers = []
            case Snapshot():
                numbers = [n for c in event.chunks for n in c["n"]]
            case Delta():
                numbers += [n for c in event.chunks for n in c["n"]]
    return numbers


@asynccontextmanager
async def bench(url: str, **settings: Any) -> AsyncIterator[Bench]:
    where = redis.connection.parse_url(url)
    proxy = Proxy(where["host"], where["port"])
    client = redis.asyncio.Redis.from_url(await proxy.start())
    log = Log(client, Settings(**settings))
    try:
        async with asyncio.timeout(60):
            yield Bench(url, log, proxy)
    finally:
        await log.aclose()
        await proxy.stop()


def test_a_lost_reply_doubles_nothing_whatever_it_answered(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            b.proxy.lose_replies = True
            stream = await b.begin()
            assert stream.attempt.number == 1
            b.proxy.lose_replies = True
            await stream.write(1, 2)
            await stream.flush()
            b.proxy.lose_replies = True
            await stream.write(3)
            await stream.flush()
            b.proxy.lose_replies = True
            await b.log.renew([stream.attempt])
            b.proxy.lose_replies = True
            await stream.seal()
            b.proxy.lose_replies = True
            await b.log.settle("t2", Completed(task="t2", at=1.0, result=None), queue="chat")
            found = await b.events()
            assert [e.id for e in found] == ["1-0", "1-1", "1-2", "1-3", "1-4", keys.SEAL]
            assert streamed(found) == [1, 2, 3]
            assert not any(isinstance(event, Snapshot) for event in found)
            assert len(await b.events("t2")) == 1
            assert b.interrupts.empty()

    run(main())


def test_lines_that_are_cut_again_and_again_change_nothing(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            streams = [await b.begin(f"t{n}") for n in range(20)]
            for n in range(50):
                for stream in streams:
                    await stream.write(n)
                if n % 5 == 0:
                    b.proxy.cut_all()
                elif n % 7 == 0:
                    b.proxy.lose_replies = True
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
            stream = await b.begin()
            await b.direct("SCRIPT", "FLUSH")
            await stream.write(1)
            await stream.seal()
            assert streamed(await b.events()) == [1]

    run(main())


def test_a_restart_of_redis_is_waited_out(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            stream = await b.begin()
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
        async with bench(fresh_redis.url) as b:
            stream = await b.begin()
            os.kill(fresh_redis.pid, signal.SIGSTOP)
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            for _ in range(2):
                b.proxy.cut.clear()
                await b.proxy.cut.wait()
            assert not sealing.done()
            os.kill(fresh_redis.pid, signal.SIGCONT)
            await sealing
            assert streamed(await b.events()) == [1]
            assert len(await b.events()) == 3

    run(main())


def test_a_full_redis_is_waited_out_while_others_are_answered(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            stream = await b.begin()
            other = await b.begin("t2")
            await b.direct("CONFIG", "SET", "maxmemory", "1")
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            await other.write(1)
            await b.log.renew([other.attempt])  # needs no memory
            assert not sealing.done()
            await b.direct("CONFIG", "SET", "maxmemory", "0")
            await sealing
            assert streamed(await b.events()) == [1]
            other.attempt.abandon()

    run(main())


def test_a_read_only_redis_is_waited_out(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url) as b:
            stream = await b.begin()
            await b.direct("REPLICAOF", "127.0.0.1", "1")
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            b.proxy.cut.clear()
            await b.proxy.cut.wait()  # a new connection, which behind a Sentinel leads to the new master
            assert not sealing.done()
            await b.direct("REPLICAOF", "NO", "ONE")
            await sealing
            assert streamed(await b.events()) == [1]

    run(main())


def test_too_much_that_waits_for_redis_holds_the_writer_up(fresh_redis, run):
    async def main():
        async with bench(fresh_redis.url, max_pending_bytes=1000) as b:
            stream = await b.begin()
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
            assert 1000 < sum(len(chunk(n)) for n in range(written + 1)) < 1020
            os.kill(fresh_redis.pid, signal.SIGCONT)
            await writing
            await stream.seal()
            assert streamed(await b.events()) == list(range(1000))

    run(main())


def test_closing_gives_up_what_cannot_be_written(fresh_redis, run, monkeypatch):
    monkeypatch.setattr(commit, "FLUSH_TIMEOUT", 0.2)

    async def main():
        async with bench(fresh_redis.url) as b:
            stream = await b.begin()
            await asyncio.to_thread(fresh_redis.kill)
            await stream.write(1)
            sealing = asyncio.create_task(stream.seal())
            beginning = asyncio.create_task(b.begin("t2"))
            await asyncio.sleep(0)
            await b.log.aclose()
            for waiting in (sealing, beginning):
                with pytest.raises(BusUnavailable):
                    await waiting
            with pytest.raises(BusUnavailable):
                await b.begin("t3")
            await asyncio.to_thread(fresh_redis.start)

    run(main())


@pytest.mark.parametrize("loss", ["all", "end", "started"])
def test_a_log_that_lost_entries_is_mended_with_a_snapshot(redis_url, run, loss):
    async def main():
        async with bench(redis_url) as b:
            stream = await b.begin()
            await stream.write(1)
            await stream.flush()
            await stream.write(2)
            await stream.flush()
            lost = {"all": ["1-0", "1-1", "1-2", "1-3", "1-4"], "end": ["1-3", "1-4"], "started": []}[loss]
            if loss == "all":
                await b.direct("DEL", keys.log(TASK))
            for entry in lost:
                await b.direct("XDEL", keys.log(TASK), entry)
            await stream.write(3)
            await stream.flush()
            await stream.seal()
            found = await b.events()
            assert streamed(found) == [1, 2, 3]
            assert [e.id for e in found if isinstance(e, Snapshot)] == ([] if loss == "started" else ["1-6"])
            if loss != "started":
                assert found[0].id == "1-6"
            assert found[-1].id == keys.SEAL
            assert b.interrupts.empty()

    run(main())


@pytest.mark.parametrize("when", ["renew", "seal"])
def test_a_loss_is_noticed_by_a_silent_stream_and_by_the_last_event(redis_url, run, when):
    async def main():
        async with bench(redis_url) as b:
            stream = await b.begin()
            await stream.write(1)
            await stream.flush()
            await b.direct("DEL", keys.log(TASK))
            if when == "renew":
                await b.log.renew([stream.attempt])
                await stream.flush()
                assert streamed(await b.events()) == [1]
                assert int(await b.direct("TTL", keys.log(TASK))) > 3600
            await stream.seal()
            found = await b.events()
            assert [type(e) for e in found[:1] + found[-1:]] == [Snapshot, Completed]
            assert streamed(found) == [1]

    run(main())


def test_a_task_without_a_snapshot_loses_nothing_that_is_pending(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            stream = await b.begin()
            stream.attempt.snapshot = None
            await stream.flush()
            await b.direct("DEL", keys.log(TASK))
            await stream.write(1)
            await stream.write(2)
            await stream.seal()
            assert streamed(await b.events()) == [1, 2]

    run(main())


def test_a_log_that_is_gone_for_long_has_expired_and_its_attempt_with_it(redis_url, run, monkeypatch):
    async def main():
        async with bench(redis_url) as b:
            stream = await b.begin()
            await b.direct("DEL", keys.log(TASK))
            later = time.time() + attempts.MIN_TTL + 1
            monkeypatch.setattr(attempts.time, "time", lambda: later)
            await stream.write(1)
            assert isinstance(await b.interrupts.get(), Fenced)
            assert await b.direct("EXISTS", keys.log(TASK)) == 0

    run(main())


def test_two_writers_of_one_number_after_a_loss_do_not_mix(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            one = await b.begin()
            await one.write(1)
            await one.flush()
            await b.direct("DEL", keys.log(TASK))
            two = await b.begin()
            assert two.attempt.number == 1
            await one.write(2)  # mends what it takes for its own
            await one.flush()
            with pytest.raises(Fenced):
                await two.flush()
            await one.seal()
            assert streamed(await b.events()) == [1, 2]

    run(main())


def test_a_log_is_bounded_and_its_replay_complete(redis_url, run):
    async def main():
        async with bench(redis_url, max_log_bytes=2000) as b:
            stream = await b.begin()
            largest = 0
            for n in range(500):
                await stream.write(n)
                await stream.flush()
                found = await b.events()
                assert streamed(found) == list(range(n + 1))
                assert [e.id for e in found] == sorted((e.id for e in found), key=lambda i: int(i[2:]))
                largest = max(largest, sum(len(events.encode(e)) for e in found))
            await stream.seal()
            found = await b.events()
            assert isinstance(found[0], Snapshot)
            assert streamed(found) == list(range(500))
            size = len(chunk(*range(500)))
            assert largest < 2 * size + 2000 + 200
            assert b.interrupts.empty()

    run(main())


def test_snapshots_cost_no_more_than_what_they_replace(redis_url, run):
    async def main():
        async with bench(redis_url, max_log_bytes=500) as b:
            stream = await b.begin()
            sizes: list[int] = []
            snapshot = stream.attempt.snapshot
            assert snapshot is not None

            def measured() -> Any:
                chunks = snapshot()
                sizes.append(sum(map(len, chunks)))
                return chunks

            stream.attempt.snapshot = measured
            for n in range(1000):
                await stream.write(n)
                await stream.flush()
            await stream.seal()
            assert len(sizes) > 3
            delta = events.encode_chunks("delta", TASK, "1-1000", [chunk(1000)])
            progress = events.encode(Progress(task=TASK, id="1-1000", at=1.0, done=1000))
            assert sum(sizes) < 1000 * len(delta + progress)

    run(main())


def test_a_snapshot_that_fails_ends_its_own_task_alone(redis_url, run):
    async def main():
        async with bench(redis_url, max_log_bytes=100) as b:
            stream, other = await b.begin(), await b.begin("t2")

            def broken() -> Any:
                raise KeyError("a bug")

            stream.attempt.snapshot = broken
            await stream.write(*range(10))
            await b.log.renew([other.attempt])
            await stream.write(11)
            error = await b.interrupts.get()
            assert isinstance(error, Internal)
            assert "a bug" not in str(error)
            await other.write(1)
            await other.seal()
            assert streamed(await b.events("t2")) == [1]

    run(main())


def test_what_piles_up_goes_out_in_portions(redis_url, run, monkeypatch):
    monkeypatch.setattr(commit, "BATCH_BYTES", 2000)

    async def main():
        sent: list[int] = []
        async with redis.asyncio.Redis.from_url(redis_url) as client:
            group = commit.GroupCommit(client, LOG)
            exchange = group._exchange

            async def counted() -> Any:
                sent.append(sum(len(packed) for _, packed in group._unanswered))
                return await exchange()

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
