"""The log is bounded, and mended where Redis has lost a part of it: a replay is always complete."""

from __future__ import annotations

import time
from typing import Any

import pytest
from bench import TASK, bench
from streaming import Streaming, numbers, streamed

from deltabus import attempt as attempts
from deltabus import events, keys
from deltabus.errors import (
    Fenced,
    Internal,
)
from deltabus.events import Completed, Progress, Snapshot


@pytest.mark.parametrize("loss", ["all", "end", "started"])
def test_a_log_that_lost_entries_is_mended_with_a_snapshot(redis_url, run, loss):
    async def main():
        async with bench(redis_url) as b:
            stream = Streaming(await b.begin())
            await stream.write(1)
            await stream.flush()
            await stream.write(2)
            await stream.flush()
            lost = {"all": ["1-0", "1-1", "1-2", "1-3", "1-4"], "end": ["1-3", "1-4"], "started": []}[loss]
            if loss == "all":
                await b.redis.execute_command("DEL", keys.log(TASK))
            for entry in lost:
                await b.redis.execute_command("XDEL", keys.log(TASK), entry)
            await stream.write(3)
            await stream.flush()
            await stream.seal()
            found = await b.events()
            assert streamed(found) == [1, 2, 3]
            assert [e.id for e in found if isinstance(e, Snapshot)] == ([] if loss == "started" else ["1-6"])
            if loss != "started":
                assert found[0].id == "1-6"
            assert found[-1].id == keys.SEAL
            assert b.interrupts == []

    run(main())


@pytest.mark.parametrize("when", ["renew", "seal"])
def test_a_loss_is_noticed_by_a_silent_stream_and_by_the_last_event(redis_url, run, when):
    async def main():
        async with bench(redis_url) as b:
            stream = Streaming(await b.begin())
            await stream.write(1)
            await stream.flush()
            await b.redis.execute_command("DEL", keys.log(TASK))
            if when == "renew":
                await b.log.renew([stream.attempt])
                await stream.flush()
                assert streamed(await b.events()) == [1]
                assert int(await b.redis.execute_command("TTL", keys.log(TASK))) > 3600
            await stream.seal()
            found = await b.events()
            assert [type(e) for e in found[:1] + found[-1:]] == [Snapshot, Completed]
            assert streamed(found) == [1]

    run(main())


def test_a_task_without_a_snapshot_loses_nothing_that_is_pending(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            stream = Streaming(await b.begin())
            stream.attempt.snapshot = None
            await stream.flush()
            await b.redis.execute_command("DEL", keys.log(TASK))
            await stream.write(1)
            await stream.write(2)
            await stream.seal()
            assert streamed(await b.events()) == [1, 2]

    run(main())


def test_a_log_that_is_gone_for_long_has_expired_and_its_attempt_with_it(redis_url, run, monkeypatch):
    async def main():
        async with bench(redis_url) as b:
            stream = Streaming(await b.begin())
            await b.redis.execute_command("DEL", keys.log(TASK))
            later = time.time() + attempts.MIN_TTL + 1
            monkeypatch.setattr(attempts.time, "time", lambda: later)
            await stream.write(1)
            assert isinstance(await b.interruption(), Fenced)
            assert await b.redis.execute_command("EXISTS", keys.log(TASK)) == 0

    run(main())


def test_two_writers_of_one_number_after_a_loss_do_not_mix(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            one = Streaming(await b.begin())
            await one.write(1)
            await one.flush()
            await b.redis.execute_command("DEL", keys.log(TASK))
            two = Streaming(await b.begin())
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
            stream = Streaming(await b.begin())
            largest = 0
            for n in range(300):
                await stream.write(n)
                await stream.flush()
                found = await b.events()
                assert streamed(found) == list(range(n + 1))
                assert [e.id for e in found] == sorted((e.id for e in found), key=lambda i: int(i[2:]))
                largest = max(largest, sum(len(events.encode(e)) for e in found))
            await stream.seal()
            found = await b.events()
            assert isinstance(found[0], Snapshot)
            assert streamed(found) == list(range(300))
            size = len(numbers(*range(300)))
            assert largest < 2 * size + 2000 + 200
            assert b.interrupts == []

    run(main())


def test_snapshots_cost_no_more_than_what_they_replace(redis_url, run):
    async def main():
        async with bench(redis_url, max_log_bytes=500) as b:
            stream = Streaming(await b.begin())
            sizes: list[int] = []
            snapshot = stream.attempt.snapshot
            assert snapshot is not None

            def measured() -> Any:
                chunks = snapshot()
                sizes.append(sum(map(len, chunks)))
                return chunks

            stream.attempt.snapshot = measured
            for n in range(400):
                await stream.write(n)
                await stream.flush()
            await stream.seal()
            assert len(sizes) > 3
            delta = events.encode_chunks("delta", TASK, "1-400", [numbers(400)])
            progress = events.encode(Progress(task=TASK, id="1-400", at=1.0, done=400))
            assert sum(sizes) < 400 * len(delta + progress)

    run(main())


def test_a_snapshot_that_fails_ends_its_own_task_alone(redis_url, run):
    async def main():
        async with bench(redis_url, max_log_bytes=100) as b:
            stream, other = Streaming(await b.begin()), Streaming(await b.begin("t2"))

            def broken() -> Any:
                raise KeyError("a bug")

            stream.attempt.snapshot = broken
            await stream.write(*range(10))
            await b.log.renew([other.attempt])
            await stream.write(11)
            error = await b.interruption()
            assert isinstance(error, Internal)
            assert "a bug" not in str(error)
            await other.write(1)
            await other.seal()
            assert streamed(await b.events("t2")) == [1]

    run(main())
