"""A task that has ended and was enqueued again is cancelled like any other, and one that has not been again is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rq.job import JobStatus

from deltabus import AsyncBus, Bus, keys
from deltabus.errors import TaskCancelled
from deltabus.events import Cancelled, Completed
from deltabus.jobs import NOTES, OPEN_FIELD

#: Fails once, before it says anything, and asks to wait for a minute.
PARKS = {"words": 3, "fail_after": 0, "fail_attempts": 1, "retry_after": 60.0}


@pytest.fixture
def bus(site) -> Iterator[Bus]:
    with Bus(site.url) as bus:
        yield bus


@pytest.fixture
def requeued(site):
    """A task that has completed, and waits for another round."""
    job = site.enqueue(script={"words": 2})
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    site.queue().enqueue_job(site.fetch(job))
    return job


def test_a_requeued_task_that_waits_is_settled_at_once(site, bus, requeued):
    task = bus.task(requeued.id)
    assert task.cancel("not again") is True
    assert isinstance(site.ending(requeued.id), Cancelled)
    with pytest.raises(TaskCancelled, match="not again"):
        task.result()
    assert site.fetch(requeued).get_status() is JobStatus.CANCELED
    assert site.leftovers() == set()
    assert task.cancel() is False
    # A third round goes on counting attempts: a subscriber's cursor keeps its meaning.
    site.queue().canceled_job_registry.requeue(site.fetch(requeued))
    site.work()
    assert site.log(requeued.id)[0].attempt == 2
    assert isinstance(site.ending(requeued.id), Completed)


def test_a_requeued_task_that_is_just_being_taken_ends_as_cancelled_not_as_before(site, bus, requeued):
    site.redis.lmove("rq:queue:chat", "rq:queue:chat:intermediate")
    assert bus.task(requeued.id).cancel("not again") is True
    assert site.redis.get(keys.cancel(requeued.id)) == b"not again"
    site.redis.lmove("rq:queue:chat:intermediate", "rq:queue:chat")
    site.work()
    ending = site.ending(requeued.id)
    assert isinstance(ending, Cancelled)
    assert ending.reason == "not again"
    assert site.fetch(requeued).get_status() is JobStatus.CANCELED
    assert site.leftovers() == set()


def test_a_requeued_task_that_was_cancelled_by_its_key_alone_ends_as_cancelled_under_rqs_worker_too(site, requeued):
    site.redis.set(keys.cancel(requeued.id), "not again")
    site.work_simply()
    assert isinstance(site.ending(requeued.id), Cancelled)
    assert not site.redis.exists(keys.cancel(requeued.id))


@pytest.mark.parametrize("status", ["queued", "started"])
def test_a_task_whose_end_is_still_to_be_booked_has_ended(site, bus, status):
    job = site.enqueue(script={"words": 2})
    site.work()
    # As it is right after the seal, and after the worker died then and the job went back to its queue.
    execution = site.ending(job.id).execution
    site.redis.hset(job.key, mapping={"status": status, OPEN_FIELD: 1})
    if status == "started":
        site.redis.zadd(f"rq:executions:{job.id}", {execution: 1})
    else:
        site.redis.rpush("rq:queue:chat", job.id)
    assert bus.task(job.id).cancel() is False
    assert not site.redis.exists(keys.cancel(job.id))
    assert isinstance(site.ending(job.id), Completed)


def test_a_task_that_rq_has_cancelled_and_nobody_runs_is_over_and_no_cancel_waits_for_its_next_round(site, bus):
    job = site.enqueue(script=PARKS)
    site.work()  # it waits for its second attempt, its log is open
    site.fetch(job).cancel()
    assert bus.task(job.id).cancel() is False
    assert not site.redis.exists(keys.cancel(job.id))


def test_a_parked_task_that_is_cancelled_and_requeued_begins_anew(site, bus):
    job = site.enqueue(script=PARKS)
    site.work()
    assert site.fetch(job).get_status() is JobStatus.SCHEDULED
    assert bus.task(job.id).cancel("no time") is True
    assert site.types(job.id) == ["started", "retrying", "cancelled"]
    assert site.leftovers() == set()
    assert site.redis.hmget(job.key, NOTES) == [None] * 3
    site.queue().canceled_job_registry.requeue(site.fetch(job))
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert site.log(job.id)[0].attempt == 2


def test_a_parked_task_that_rq_has_cancelled_and_is_requeued_begins_anew(site):
    job = site.enqueue(script=PARKS)
    site.work()
    site.fetch(job).cancel()
    with site.worker(settings=site.settings(lease=0.5, heartbeat_interval=0.1)):  # its reconciler ends the log
        assert isinstance(site.ending(job.id), Cancelled)
        site.until(lambda: not site.redis.hexists(job.key, OPEN_FIELD))
        site.queue().canceled_job_registry.requeue(site.fetch(job))
        site.until(lambda: site.fetch(job).is_finished)
    assert isinstance(site.ending(job.id), Completed)


def test_a_cancel_whose_caller_died_between_its_steps_ends_on_the_log_all_the_same(site, run):
    job = site.enqueue(script={"words": 2})

    async def half_a_cancel() -> None:
        async with AsyncBus(site.url) as bus:
            session = bus._open()
            record = await session.records.read(job.id)
            assert await bus.task(job.id)._withdraw(session, record, None) == b"withdrawn"

    run(half_a_cancel())
    with site.worker(settings=site.settings(lease=0.5, heartbeat_interval=0.1)):
        assert isinstance(site.ending(job.id), Cancelled)
