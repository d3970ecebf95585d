"""The log, written by workers: ids, order, fencing, one seal, and what subscribers are shown of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from bench import TASK, bench, chunk, completed

from deltabus import events, keys, log
from deltabus.attempt import MIN_TTL, RUNNING_TTL
from deltabus.errors import (
    CancelRequested,
    Fenced,
    Internal,
    Sealed,
)
from deltabus.events import Cancelled, Failed, Progress, Retrying


def test_an_attempt_is_a_row_of_ids_from_started_to_the_seal(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            await attempt.write(chunk(1))
            await attempt.emit(Progress(task=TASK, at=2.0, done=1))
            await attempt.write(chunk(2))
            await attempt.seal(completed({"ok": True}))
            assert attempt.number == 1
            assert await b.ids() == ["1-0", "1-1", "1-2", "1-3", keys.SEAL]
            decoded = [events.decode(message) for message in await b.messages()]
            assert [event.id for event in decoded] == await b.ids()
            assert [type(event).__name__ for event in decoded] == ["Started", "Delta", "Progress", "Delta", "Completed"]
            assert decoded[0].worker == "w"
            assert decoded[4].result == {"ok": True}

    run(main())


def test_chunks_reach_the_log_as_the_bytes_that_were_written(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            odd = b'{ "a" :1.50, "\\u00e9":"\xc3\xa9" }'
            await attempt.write(odd)
            await attempt.write(b"{}")
            await attempt.seal(completed())
            assert (await b.messages())[1] == (b'{"type":"delta","task":"t1","id":"1-1","chunks":[' + odd + b",{}]}")

    run(main())


def test_what_is_written_between_two_pipelines_is_one_event(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            for n in range(100):
                await attempt.write(chunk(n))
            await attempt.seal(completed())
            delta = events.decode((await b.messages())[1])
            assert delta.chunks == tuple({"n": n} for n in range(100))
            assert len(await b.ids()) == 3

    run(main())


def test_the_channels_carry_the_same_bytes_as_the_log(redis_url, run):
    async def main():
        async with bench(redis_url) as b, b.redis.pubsub() as pubsub:
            await pubsub.subscribe(keys.events(TASK), "answers", keys.results("chat"))
            attempt = await b.begin(reply_to="answers")
            await attempt.write(chunk(1))
            await attempt.emit(Progress(task=TASK, at=2.0, done=1))
            await attempt.seal(completed("x"))
            got: dict[bytes, list[bytes]] = {}
            while len(got.get(keys.results("chat").encode(), ())) < 1:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)
                if message:
                    got.setdefault(message["channel"], []).append(message["data"])
            logged = await b.messages()
            assert len(logged) == 4
            assert got == {
                keys.events(TASK).encode(): logged,
                b"answers": logged,
                keys.results("chat").encode(): logged[-1:],
            }

    run(main())


def test_a_running_log_lives_for_a_day_and_a_sealed_one_for_result_ttl(redis_url, run):
    async def main():
        async with bench(redis_url, result_ttl=500) as b:
            attempt = await b.begin()
            await b.redis.expire(keys.log(TASK), 5)
            await b.log.renew([attempt])
            assert await b.redis.ttl(keys.log(TASK)) > RUNNING_TTL - 10
            await attempt.seal(completed())
            assert 490 < await b.redis.ttl(keys.log(TASK)) <= 500

    run(main())


@pytest.mark.parametrize(("result_ttl", "ttl"), [(0, MIN_TTL), (-1, -1), (7000, 7000)])
def test_a_task_may_have_a_result_ttl_of_its_own(redis_url, run, result_ttl, ttl):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin(result_ttl=result_ttl)
            await attempt.seal(completed())
            assert ttl - 50 < await b.redis.ttl(keys.log(TASK)) <= ttl

    run(main())


def test_a_newer_attempt_fences_the_older_one(redis_url, run):
    async def main():
        async with bench(redis_url) as old, bench(redis_url) as new:
            first = await old.begin()
            await first.write(chunk(1))
            second = await new.begin()
            assert second.number == 2
            await first.write(chunk(2))
            await old.interrupted.wait()
            assert [type(error) for error in old.interrupts] == [Fenced]
            with pytest.raises(Fenced):
                await first.write(chunk(3))
            with pytest.raises(Fenced):
                await first.seal(completed())
            await second.seal(completed())
            assert [entry for entry in await new.ids() if entry.startswith("1-")] in (["1-0"], ["1-0", "1-1"])
            assert (await new.ids())[-2:] == ["2-0", keys.SEAL]

    run(main())


def test_a_fenced_attempt_learns_it_from_its_seal_without_a_second_call(redis_url, run):
    async def main():
        async with bench(redis_url) as old, bench(redis_url) as new:
            first = await old.begin()
            await new.begin()
            with pytest.raises(Fenced):
                await first.seal(completed())
            assert old.interrupts == []
            assert await new.ids() == ["1-0", "2-0"]

    run(main())


def test_a_settled_task_is_not_begun_again_and_says_how_it_ended(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            await attempt.seal(completed("first"))
            with pytest.raises(Sealed) as caught:
                await b.begin()
            assert events.decode(caught.value.message).result == "first"
            with pytest.raises(Sealed):
                await b.settle(completed("second"))
            assert len(await b.ids()) == 2

    run(main())


def test_an_attempt_learns_that_its_task_was_settled_by_somebody_else(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            await b.settle(Cancelled(task=TASK, at=2.0, reason="enough"))
            with pytest.raises(Sealed) as caught:
                await attempt.seal(completed())
            assert events.decode(caught.value.message).reason == "enough"
            silent = await b.begin("t2")
            await b.settle(Cancelled(task="t2", at=2.0))
            await b.log.renew([silent])
            await b.interrupted.wait()
            assert [type(error) for error in b.interrupts] == [Sealed]

    run(main())


def test_a_reopened_task_counts_its_attempts_on(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await (await b.begin()).seal(completed())
            again = await b.begin(reopen=True)
            assert again.number == 2
            assert await b.ids() == ["2-0"]
            await again.seal(completed())
            await b.settle(completed(task="t2"))
            assert (await b.begin("t2", reopen=True)).number == 1
            assert (await b.begin("t3", reopen=True)).number == 1

    run(main())


def test_a_stored_cancel_is_seen_before_the_start_at_an_append_and_at_a_renewal(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.set(keys.cancel("t0"), "not wanted")
            with pytest.raises(CancelRequested, match="not wanted"):
                await b.begin("t0")
            assert await b.ids("t0") == []

            writing = await b.begin("t1")
            await b.redis.set(keys.cancel("t1"), "")
            await writing.write(chunk(1))
            await b.interrupted.wait()
            assert isinstance(b.interrupts[0], CancelRequested)
            assert b.interrupts[0].reason is None
            await writing.write(chunk(2))
            await b.log.renew([writing])
            assert len(b.interrupts) == 1
            await writing.seal(Cancelled(task="t1", at=1.0))
            assert await b.redis.exists(keys.cancel("t1")) == 0

            b.interrupted.clear()
            silent = await b.begin("t2")
            await b.redis.set(keys.cancel("t2"), "why")
            await b.log.renew([silent])
            await b.interrupted.wait()
            assert b.interrupts[1].reason == "why"

    run(main())


def test_an_attempt_is_due_where_redis_was_silent_or_its_log_was_not_renewed_for_long(redis_url, run, monkeypatch):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            start, later = time.time(), 0.0
            monkeypatch.setattr(time, "time", lambda: start + later)
            await b.log.renew([attempt])

            def is_due() -> bool:
                return attempt.is_due(heard=2, kept=10)

            assert not is_due()
            later = 2.5
            assert is_due(), "nothing was heard"
            await attempt.emit(Progress(task=TASK, at=2.0, done=1))
            assert not is_due()
            later = 10.5
            await attempt.emit(Progress(task=TASK, at=3.0, done=2))
            assert is_due(), "it was not renewed"
            await b.redis.expire(keys.log(TASK), 100)
            await b.log.renew([attempt])
            assert await b.redis.ttl(keys.log(TASK)) > 100
            assert not is_due()
            later = -3600
            assert is_due(), "somebody has set the clock"

    run(main())


def test_more_attempts_than_are_renewed_at_once_are_all_renewed(redis_url, run, monkeypatch):
    monkeypatch.setattr(log, "AT_ONCE", 2)

    async def main():
        async with bench(redis_url) as b:
            attempts = [await b.begin(f"t{number}") for number in range(5)]
            for attempt in attempts:
                await b.redis.expire(keys.log(attempt.task), 100)
            await b.log.renew(attempts)
            assert min([await b.redis.ttl(keys.log(attempt.task)) for attempt in attempts]) > 100

    run(main())


def test_an_abandoned_attempt_writes_nothing_further(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            attempt = await b.begin()
            await attempt.emit(Retrying(task=TASK, at=2.0, reason="drained"))
            await attempt.write(chunk(1))
            attempt.abandon()
            with pytest.raises(Fenced):
                await attempt.write(chunk(2))
            await b.log.renew([attempt])
            other = await b.begin()
            await other.seal(completed())
            assert await b.ids() == ["1-0", "1-1", "2-0", keys.SEAL]

    run(main())


def test_a_key_of_another_type_is_an_error_of_that_task_alone(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            await b.redis.set(keys.log("t1"), "not a stream")
            good = await b.begin("t2")
            with pytest.raises(Internal, match="t1"):
                await b.begin("t1")
            with pytest.raises(Internal, match="t1"):
                await b.settle(completed())
            bad = await b.begin("t3")
            await b.redis.set(keys.log("t3"), "overwritten")
            await bad.write(chunk(1))
            await b.interrupted.wait()
            assert isinstance(b.interrupts[0], Internal)
            await good.seal(completed())

    run(main())


def test_a_failure_before_any_attempt_is_settled_all_the_same(redis_url, run):
    async def main():
        async with bench(redis_url) as b:
            error = Internal("no").info
            await b.settle(Failed(task=TASK, at=1.0, error=error))
            await b.settle(Failed(task=TASK, at=1.0, error=error))  # the reply was lost, it is sent again
            assert await b.ids() == [keys.SEAL]

    run(main())


def test_a_thousand_streams_share_one_connection_and_keep_their_order(redis_url, run):
    async def main():
        async with bench(redis_url) as b:

            async def stream(name: str) -> None:
                attempt = await b.begin(name)
                for n in range(20):
                    await attempt.write(chunk(n))
                    await asyncio.sleep(0)
                await attempt.seal(completed())

            names = [f"t{n}" for n in range(1000)]
            await asyncio.gather(*map(stream, names))
            async with b.redis.pipeline(transaction=False) as pipeline:
                for name in names:
                    pipeline.xrange(keys.log(name))
                logs = await pipeline.execute()
            for entries in logs:
                *_, last = ids = [entry.decode() for entry, _ in entries]
                assert ids[:-1] == [f"1-{n}" for n in range(len(ids) - 1)]
                assert last == keys.SEAL
                chunks = [c for _, fields in entries for c in getattr(events.decode(fields[b"event"]), "chunks", ())]
                assert chunks == [{"n": n} for n in range(20)]

    run(main())
