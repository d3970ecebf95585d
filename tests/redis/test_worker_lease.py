"""Leases: a worker that runs something holds one, and renews it for nothing that it runs no more."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from rq.executions import Execution
from rq.job import Job
from structlog.testing import capture_logs

from deltabus import jobs, keys
from deltabus.jobs import LOST_FIELD, BusJob
from deltabus.worker import ledger as ledgers
from deltabus.worker.ledger import Ledger, Outcome
from deltabus.worker.recovery import Recovery

#: Seconds that the lease of `away` lasts, and that of whoever takes over from it.
SHORT_LEASE, LEASE = 0.05, 60.0

#: Seconds after which a test that waits has failed.
DEADLINE = 60.0

Then = Callable[[redis.asyncio.Redis, Ledger, BusJob, Execution], Awaitable[None]]


def start(site: Any, job: Job, then: Then | None = None) -> None:
    """The worker `away` takes a job and starts it."""

    async def main() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client, "away", lease=SHORT_LEASE)
            (taken,) = await intake.take(1)
            await intake.aclose()
            ledger = Ledger(
                client, site.redis, worker_name="away", worker_key="rq:worker:away", failure_ttl=60, lease=LEASE
            )
            restored = jobs.restore(job.id, taken.fields, connection=site.redis, queue="chat")
            execution = ledger.execution(restored, taken.start)
            if then is not None:
                await then(client, ledger, restored, execution)
            await ledger.aclose()

    asyncio.run(main())


async def settle(client: redis.asyncio.Redis) -> Recovery:
    """Of another worker, which has held its lease for long enough to take over from others."""
    recovery = Recovery(client, "other", {"chat": "rq:queue:chat"}, lease=LEASE, result_ttl=60)
    await recovery.patrol(())
    recovery._held_since -= 2 * LEASE
    return recovery


async def reap(client: redis.asyncio.Redis) -> None:
    """Another worker finds the lease of `away` run out, and puts its job back."""
    recovery = await settle(client)
    deadline = time.monotonic() + DEADLINE
    while not await client.llen("rq:queue:chat"):
        await recovery.patrol(())
        assert time.monotonic() < deadline, "nobody has found it"


async def bury(client: redis.asyncio.Redis) -> None:
    """Another worker is done with `away`, whose lease has run out."""
    recovery = await settle(client)
    deadline = time.monotonic() + DEADLINE
    while await client.zscore(keys.workers("rq"), "away") is not None:
        await recovery.patrol(())
        assert time.monotonic() < deadline, "nobody has found it"


async def with_client(site: Any, work: Callable[[redis.asyncio.Redis], Awaitable[None]]) -> None:
    async with redis.asyncio.Redis.from_url(site.url) as client:
        await work(client)


def test_what_a_buried_worker_starts_is_found_should_it_die_before_it_renews_its_lease(site) -> None:
    job = site.enqueue()

    async def die(client: redis.asyncio.Redis, *_: object) -> None:
        await reap(client)

    start(site, job, die)
    assert site.redis.zscore(keys.workers("rq"), "away") is None
    assert site.redis.hget(job.key, LOST_FIELD) == b"1"


def test_a_start_does_not_prolong_a_lease(site) -> None:
    """Whether it has run out is for the others to see: it may be all that tells them of earlier jobs."""
    site.redis.zadd(keys.workers("rq"), {"away": 1.0})
    start(site, site.enqueue())
    assert site.redis.zscore(keys.workers("rq"), "away") == 1.0


def test_rqs_lease_of_what_runs_is_renewed(site) -> None:
    job = site.enqueue()

    async def run(_: redis.asyncio.Redis, ledger: Ledger, taken: BusJob, execution: Execution) -> None:
        site.redis.persist(execution.key)
        site.redis.zadd(f"rq:executions:{job.id}", {execution.id: 1})
        await ledger.renew([(taken, execution)])
        assert site.redis.ttl(execution.key) > 0
        assert site.redis.zscore(f"rq:executions:{job.id}", execution.id) > 1

    start(site, job, run)


def test_the_statuses_of_jobs_are_told_and_what_is_no_job_has_none(site, monkeypatch) -> None:
    monkeypatch.setattr(ledgers, "AT_ONCE", 2)
    job, gone, odd = site.enqueue(), site.enqueue(), site.enqueue()

    async def ask(_: redis.asyncio.Redis, ledger: Ledger, taken: BusJob, __: Execution) -> None:
        others = [BusJob(one.id, connection=site.redis) for one in (gone, odd)]
        site.redis.delete(gone.key, odd.key)
        site.redis.set(odd.key, "no hash")
        assert await ledger.statuses([taken, *others, taken]) == ["started", None, None, "started"]
        assert await ledger.statuses([]) == []

    start(site, job, ask)


def test_a_worker_that_comes_back_does_not_revive_what_others_have_taken_over(site) -> None:
    """By RQ's record of an execution it is told who may book its end."""
    job = site.enqueue()

    async def come_back(client: redis.asyncio.Redis, ledger: Ledger, taken: BusJob, execution: Execution) -> None:
        await reap(client)
        site.redis.delete(job.key)
        await ledger.renew([(taken, execution)])
        assert await ledger.succeed(taken, execution, "stale", ttl=60) is Outcome.LOST

    start(site, job, come_back)
    assert not list(site.redis.scan_iter("rq:execution*"))
    assert not site.redis.exists(job.key)


def test_the_log_of_a_job_that_was_deleted_and_whose_worker_died_is_sealed(site) -> None:
    job = site.enqueue()
    start(site, job)
    started = f'{{"type":"started","task":"{job.id}","id":"1-0","at":1.0,"worker":"away"}}'
    site.redis.xadd(keys.log(job.id), {"event": started}, id="1-0")
    site.redis.delete(job.key)  # RQ's own `delete` takes the execution along
    asyncio.run(with_client(site, bury))
    assert site.types(job.id) == ["started", "cancelled"]
    assert site.ending(job.id).reason == "the job was deleted"
    assert 0 < site.redis.ttl(keys.log(job.id)) <= 60


def test_a_job_that_rq_has_left_among_the_ready_ones_is_enqueued(site) -> None:
    first = site.enqueue()
    job = site.enqueue(depends_on=first)
    site.redis.lrem("rq:queue:chat", 0, first.id)
    site.redis.zrem("rq:deferred:chat", job.id)
    site.redis.hset(job.key, "status", "ready_to_enqueue")
    site.redis.zadd("rq:ready:chat", {job.id: 1, "gone": 1})

    async def patrol() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            await Recovery(client, "other", {"chat": "rq:queue:chat"}, lease=LEASE, result_ttl=60).patrol(())

    asyncio.run(patrol())
    assert site.redis.lrange("rq:queue:chat", 0, -1) == [job.id.encode()]
    assert site.fetch(job).get_status() == "queued"
    assert not site.redis.exists("rq:ready:chat")


def look(site: Any, lease: float = 60.0) -> float:
    """Seconds after which another worker will look again at the latest."""

    async def main() -> float:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            return await Recovery(client, "other", {"chat": "rq:queue:chat"}, lease=lease, result_ttl=60).patrol(())

    return asyncio.run(main())


def test_where_nothing_is_to_come_nobody_need_look_for_it(site) -> None:
    assert look(site) == math.inf
    assert look(site) == math.inf  # its own lease is no other's


def test_the_next_look_is_when_the_next_lease_of_another_worker_runs_out(site) -> None:
    now = site.redis.time()[0]
    site.redis.zadd(keys.workers("rq"), {"away": now + 40, "zed": now + 50})
    assert 0 < look(site) <= 40
    site.redis.zadd(keys.workers("rq"), {"away": now + 300})  # behind the one who looks
    assert 0 < look(site, lease=10.0) <= 50


def test_a_lease_that_one_may_not_take_over_yet_is_no_reason_to_look_all_the_time(site) -> None:
    site.redis.zadd(keys.workers("rq"), {"away": 1})
    assert look(site) == math.inf


def test_the_next_look_is_when_the_next_scheduled_job_is_due(site) -> None:
    now = site.redis.time()[0]
    site.redis.zadd("rq:scheduled:chat", {"late": now + 50, "early": now + 40})
    assert 0 < look(site) <= 40


def test_the_next_look_is_when_a_job_has_been_taken_and_not_started_for_too_long(site) -> None:
    site.redis.rpush("rq:queue:chat:intermediate", "stuck")
    assert 0 < look(site) <= 60


def test_a_server_that_has_forgotten_all_scripts_is_told_them_again(site) -> None:
    look(site)
    site.redis.script_flush()
    site.redis.zadd("rq:scheduled:chat", {"due": 1})
    site.redis.hset("rq:job:due", mapping={"status": "scheduled", "origin": "chat"})
    look(site)
    assert site.redis.lrange("rq:queue:chat", 0, -1) == [b"due"]


def test_a_worker_whose_name_another_has_taken_leaves_and_touches_nothing(site) -> None:
    """It was frozen on another host for longer than its lease, say, and its successor goes by its name."""
    settings = site.settings(lease=2.0, heartbeat_interval=0.1, drain_timeout=60.0)
    with site.worker(settings=settings) as worker:
        job = site.enqueue(script={"words": 10_000, "interval": 0.02})
        site.streams(job.id)
        execution = site.redis.keys(f"rq:execution:{job.id}:*")
        site.redis.delete(*execution)  # as the successor's first patrol does
        site.redis.hset(worker.key, mapping={"hostname": "elsewhere", "pid": 1})
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "worker")
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert site.redis.hget(worker.key, "hostname") == b"elsewhere"
        assert site.redis.sismember("rq:workers", worker.key)
        assert site.redis.zscore(keys.workers("rq"), worker.name)
    assert site.types(job.id)[-1] != "completed"


@pytest.mark.parametrize(
    "key", ["rq:worker:away:executions", "rq:worker:away", "rq:workers", "rq:workers:chat", "rq:queue:chat"]
)
def test_keys_of_the_wrong_type_do_not_keep_the_living_from_their_leases(site, key) -> None:
    job = site.enqueue()
    start(site, job)
    site.redis.delete(key)
    site.redis.set(key, "of another type")
    asyncio.run(with_client(site, bury))
    # Nothing is lost: RQ's records of the run are there for those who can use them.
    assert site.redis.exists(f"rq:job:{job.id}")
    assert site.redis.zcard("rq:wip:chat") + (key != "rq:queue:chat" and site.redis.llen("rq:queue:chat")) == 1


def test_a_count_of_losses_that_is_no_number_begins_anew(site) -> None:
    job = site.enqueue()
    start(site, job)
    site.redis.hset(job.key, LOST_FIELD, "many")
    asyncio.run(with_client(site, reap))
    assert site.redis.hget(job.key, LOST_FIELD) == b"1"


def test_a_namesake_elsewhere_is_waited_for_and_that_is_said(site, monkeypatch) -> None:
    site.redis.hset("rq:worker:w", mapping={"hostname": "elsewhere", "pid": "1", keys.HOME_FIELD: "another"})
    worker = site.make(name="w")
    site.redis.zadd(keys.workers("rq"), {"w": 1500.0})
    clock = iter([(1000, 0), (2000, 0)])
    monkeypatch.setattr(redis.client.Pipeline, "time", lambda _: next(clock))
    with capture_logs() as lines:
        worker.register_birth()
    (line,) = lines
    assert line["event"].startswith("a worker of this name is registered, and cannot be seen to be gone from here")
    assert (line["worker"], line["host"]) == ("w", "elsewhere")
    assert site.redis.hget("rq:worker:w", "pid") == str(os.getpid()).encode()
    worker.connection.close()
