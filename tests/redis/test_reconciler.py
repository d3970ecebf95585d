"""What the reconciler finds and sets right, round by round; and what it leaves alone."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import pytest
import redis.asyncio
from rq.command import send_kill_horse_command
from rq.job import Job
from rq.utils import utcformat

from deltabus import keys
from deltabus.attempt import RUNNING_TTL
from deltabus.events import Cancelled, Completed, Failed
from deltabus.jobs import LOST_FIELD
from deltabus.log import Log
from deltabus.worker import reconciler
from deltabus.worker.reconciler import Reconciler

#: Seconds: nothing here waits for a lease to run out, so that what was seen in one round is old in the next.
NOW = 0.0

LONG_AGO = "2020-01-01T00:00:00.000000Z"


@pytest.fixture
def rounds(site) -> Callable[..., None]:
    """`rounds(2)`: one worker goes so many rounds; `rounds(1, 1)`: two workers, one after the other."""

    def go(*counts: int, lease: float = NOW, queues: tuple[str, ...] = ("chat", "urgent"), leave: bool = True) -> None:
        async def main() -> None:
            async with redis.asyncio.Redis.from_url(site.url) as client:
                log = Log(client, site.settings())
                names = {name: f"rq:queue:{name}" for name in queues}
                for number, count in enumerate(counts):
                    one = Reconciler(client, log, f"worker-{number}", names, lease=lease, result_ttl=500)
                    for _ in range(count):
                        await one.go_round()
                    if leave:
                        await one.leave()
                    await one.aclose()
                await log.aclose()

        asyncio.run(main())

    return go


def queued(site, name: str = "chat") -> list[str]:
    return [job_id.decode() for job_id in site.redis.lrange(f"rq:queue:{name}", 0, -1)]


def lose(site, job: Job) -> None:
    """As a stock worker of several queues does it, that dies after its pop."""
    assert site.redis.lrem(f"rq:queue:{job.origin}", 0, job.id) == 1


def test_a_queued_job_that_is_in_no_list_is_put_to_the_front_of_its_queue(site, rounds):
    lost, waits = site.enqueue("urgent"), site.enqueue("urgent")
    lose(site, lost)
    rounds(2)
    assert queued(site, "urgent") == [lost.id, waits.id]
    site.work("urgent")
    assert isinstance(site.ending(lost.id), Completed)
    assert site.redis.hget(lost.key, LOST_FIELD) is None


def test_what_looks_lost_once_may_be_on_its_way(site, rounds):
    lost = site.enqueue()
    lose(site, lost)
    rounds(1)
    rounds(1)  # another life: it knows nothing of the first
    rounds(5, lease=3600)
    assert queued(site) == []


def test_jobs_that_wait_or_are_being_started_are_left_where_they_are(site, rounds):
    first, second = site.enqueue(), site.enqueue()
    site.redis.lmove("rq:queue:chat", "rq:queue:chat:intermediate", "LEFT", "RIGHT")
    rounds(3)
    assert queued(site) == [second.id]
    assert site.redis.lrange("rq:queue:chat:intermediate", 0, -1) == [first.id.encode()]


def test_jobs_of_queues_that_this_worker_does_not_serve_are_nobody_it_knows(site, rounds):
    lost = site.enqueue("elsewhere")
    lose(site, lost)
    rounds(3)
    assert queued(site, "elsewhere") == []


def test_behind_a_backlog_that_is_too_long_nobody_looks_for_lost_jobs(site, rounds, monkeypatch):
    monkeypatch.setattr(reconciler, "LONGEST_BACKLOG", 2)
    lost, *waiting = [site.enqueue() for _ in range(4)]
    lose(site, lost)
    rounds(3)
    assert queued(site) == [job.id for job in waiting]
    assert site.redis.lpop("rq:queue:chat")
    site.redis.hset(waiting[0].key, "status", "finished")
    rounds(2)
    assert queued(site)[0] == lost.id


def test_a_job_that_redis_forgot_to_be_running_runs_again_as_a_new_attempt(site, rounds):
    job = site.enqueue(script={"words": 3})
    site.work_until_killed_at("Ledger.succeed")
    # A replica that lags has neither the execution nor the worker.
    forgotten = [*site.redis.keys("rq:execution*"), *site.redis.keys("rq:worker*"), keys.workers("rq"), "rq:wip:chat"]
    assert site.redis.delete(*forgotten) >= 4
    rounds(2)
    assert queued(site) == [job.id]
    assert site.redis.hget(job.key, LOST_FIELD) == b"1"
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert site.fetch(job).get_status() == "finished"


def test_an_execution_whose_worker_is_nowhere_is_cleared_away(site, rounds):
    job = site.enqueue(script={"words": 3})
    site.work_until_killed_at("Ledger.succeed")
    site.redis.delete(*site.redis.keys("rq:worker*"), keys.workers("rq"))
    assert site.redis.keys("rq:execution:*")
    rounds(2)
    assert site.redis.keys("rq:execution*") == []
    assert site.redis.zcard("rq:wip:chat") == 0
    assert queued(site) == [job.id]


def test_a_job_that_a_living_worker_runs_is_left_alone(site, rounds):
    with site.worker():
        job = site.enqueue(script={"words": 10_000, "interval": 0.02})
        site.streams(job.id)
        rounds(3)
        assert site.fetch(job).get_status() == "started"
        # Not even if the index of what it runs is lost: the execution names it.
        site.redis.delete(*site.redis.keys("rq:worker:*:executions"))
        rounds(3)
        assert site.fetch(job).get_status() == "started"
        assert queued(site) == []


def test_a_job_that_was_cancelled_through_rq_before_it_began_ends_on_its_log_and_on_its_queues_channel(site, rounds):
    job = site.enqueue()
    job.cancel()
    with site.redis.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(keys.results("chat"))
        channel.get_message(timeout=60)
        rounds(2)
        event = site.ending(job.id)
        assert isinstance(event, Cancelled)
        assert abs(event.at - time.time()) < 60
        assert channel.get_message(timeout=60)["data"] == site.redis.xrange(keys.log(job.id))[-1][1][b"event"]
        # It has ended once and for all, also when its log has expired.
        assert site.redis.hget(job.key, "ended_at")
        site.redis.hset(job.key, "ended_at", LONG_AGO)
        site.redis.delete(keys.log(job.id))
        rounds(3)
        assert channel.get_message(timeout=0) is None
    assert not site.redis.exists(keys.log(job.id))
    assert site.fetch(job).get_status() == "canceled"


def test_a_log_that_was_left_open_by_a_worker_that_died_before_its_job_was_cancelled_is_sealed(site, rounds):
    job = site.enqueue(script={"words": 10_000, "interval": 0.02})
    with site.process("worker", "--worker-class", "deltabus.worker.AsyncWorker", "chat") as worker:
        site.streams(job.id)
        worker.process.send_signal(signal.SIGKILL)
        worker.end()
    site.fetch(job).cancel()
    rounds(2)
    assert isinstance(site.ending(job.id), Cancelled)


def test_the_log_of_a_task_whose_work_horse_was_killed_is_sealed_as_rq_has_it(site, rounds):
    job = site.enqueue(script={"words": 10_000, "interval": 0.02})
    with site.process("worker", "--serializer", "json", "--burst", "chat") as worker:
        site.streams(job.id)
        send_kill_horse_command(site.redis, site.fetch(job).worker_name)
        worker.end()
    assert site.fetch(job).get_status() == "failed"
    rounds(2)
    event = site.ending(job.id)
    assert isinstance(event, Failed)
    assert event.error.code == "worker_lost"


def test_a_failure_that_only_rq_knows_of_is_told_on_the_log(site, rounds):
    job = site.enqueue(result_ttl=500)
    site.fetch(job)._handle_failure("Work-horse terminated unexpectedly; waitpid returned 9 (signal 9); ", None)
    site.redis.hset(job.key, mapping={"status": "failed", "ended_at": LONG_AGO})
    lose(site, job)
    rounds(3)
    assert site.log(job.id) == []  # so long ago, that a log would have expired
    site.redis.hset(job.key, "ended_at", utcformat(job.created_at))
    rounds(2)
    event = site.ending(job.id)
    assert isinstance(event, Failed)
    assert event.error.code == "worker_lost"


def test_what_has_ended_on_both_sides_is_not_touched(site, rounds):
    good = site.enqueue()
    bad = site.enqueue(script={"fail_after": 1, "error": "authentication"})
    site.work()
    logs = {job.id: site.redis.xrange(keys.log(job.id)) for job in (good, bad)}
    rounds(3)
    assert logs == {task: site.redis.xrange(keys.log(task)) for task in logs}
    assert queued(site) == []


def test_jobs_that_are_no_tasks_get_no_log(site, rounds):
    strange, pickled = site.queue().enqueue("os.getpid"), site.queue().enqueue("deltabus.tasks.chat", {})
    site.redis.hset(pickled.key, "data", b"\x80\x04N.")
    for job in (strange, pickled):
        job.cancel()
    rounds(3)
    assert site.redis.keys(f"{keys.PREFIX}:{{*") == []


def test_one_worker_looks_at_a_time_and_leaves_its_turn_to_the_next(site, rounds):
    lost = site.enqueue()
    lose(site, lost)
    rounds(1, 3, leave=False)  # the second has no turn
    assert queued(site) == []
    assert site.redis.get(keys.reconciler("rq")) == b"worker-0"
    assert 0 < site.redis.ttl(keys.reconciler("rq")) < 60
    rounds(1, 2)
    assert queued(site) == [lost.id]
    assert not site.redis.exists(keys.reconciler("rq"))


def test_the_log_of_a_task_that_was_deleted_and_whose_worker_died_is_sealed(site, rounds):
    job = site.enqueue()
    started = f'{{"type":"started","task":"{job.id}","id":"1-0","at":1.0,"worker":"dead"}}'
    site.redis.xadd(keys.log(job.id), {"event": started}, id="1-0")
    site.redis.expire(keys.log(job.id), RUNNING_TTL)
    job.delete()
    rounds(2)
    assert site.types(job.id) == ["started"], "somebody renews it: its worker lives, and Redis may have lost the job"
    site.redis.expire(keys.log(job.id), RUNNING_TTL - 60)
    rounds(1)
    assert site.types(job.id) == ["started"]
    rounds(2)
    assert site.types(job.id) == ["started", "cancelled"]
    assert 0 < site.redis.ttl(keys.log(job.id)) <= 500
