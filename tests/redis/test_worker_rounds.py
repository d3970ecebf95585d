"""Jobs that run more than once, later, or one at a time: RQ's Retry, Repeat, requeue, schedule, RateLimit, unique."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from rq import Callback, Repeat, Retry
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError
from rq.job import JobStatus
from rq.rate_limit import RateLimit, RateLimitRegistry
from rq.results import Result

from deltabus import Bus, events, keys
from deltabus.events import Cancelled, Completed, Failed, Retrying
from deltabus.jobs import OPEN_FIELD

#: Fails the first time, for a reason for which the bus itself does not try again.
FAILS_ONCE = {"error": "not_found", "fail_attempts": 1}
FAILS = {"error": "not_found"}


# Retry


def test_rqs_retry_is_a_new_attempt_on_the_log_until_the_job_succeeds(site):
    job = site.enqueue(script=FAILS_ONCE, retry=Retry(max=3))
    site.work()
    assert site.story(job.id) == ["started", "retrying", "started", "delta", "completed"]
    started, retrying, again, *_ = site.log(job.id)
    assert (started.attempt, again.attempt) == (1, 2)
    assert isinstance(retrying, Retrying)
    assert retrying.error.code == "not_found"
    assert retrying.delay == 0
    done = site.fetch(job)
    assert done.get_status() is JobStatus.FINISHED
    assert done.retries_left == 2
    assert [result.type for result in done.results()] == [Result.Type.SUCCESSFUL]
    assert site.leftovers() == set()


def test_rqs_retries_come_to_an_end(site):
    job = site.enqueue(script=FAILS, retry=Retry(max=2))
    site.work()
    assert site.story(job.id) == ["started", "retrying"] * 2 + ["started", "failed"]
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert job.id in site.queue().failed_job_registry
    assert site.leftovers() == set()


def test_a_retry_with_an_interval_says_when_and_waits_in_the_schedule(site):
    job = site.enqueue(script=FAILS_ONCE, retry=Retry(max=1, interval=60))
    site.work()
    retrying = site.log(job.id)[-1]
    assert isinstance(retrying, Retrying)
    assert retrying.delay == 60
    assert site.fetch(job).get_status() is JobStatus.SCHEDULED
    assert job.id in site.queue().scheduled_job_registry
    site.redis.zadd("rq:scheduled:chat", {job.id: 1})
    site.work(with_scheduler=True)
    assert site.story(job.id) == ["started", "retrying", "started", "delta", "completed"]
    assert site.fetch(job).get_status() is JobStatus.FINISHED


def test_what_would_fail_again_is_not_retried(site):
    """Its log has its ending, so that another round could only repeat it."""
    job = site.queue().enqueue("deltabus.tasks.chat", {"request": {}, "v": 2}, retry=Retry(max=3))
    site.make(name="w").work(burst=True)
    assert site.redis.hget("rq:worker:w", "failed_job_count") == b"1"
    assert site.types(job.id) == ["failed"]
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert [result.type for result in site.fetch(job).results()] == [Result.Type.FAILED]


# Repeat


@pytest.mark.parametrize("result_ttl", [None, 0, 300], ids=["default", "none", "kept"])
def test_each_repetition_is_a_round_of_its_own_on_the_log(site, result_ttl):
    job = site.enqueue(repeat=Repeat(times=2), result_ttl=result_ttl)
    with site.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.events(job.id))
        site.work()
        heard = []
        while sum(event.id == keys.SEAL for event in heard) < 3:
            message = next(pubsub.listen())
            if message["type"] == "message":
                heard.append(events.decode(message["data"]))
    kinds = [type(event).__name__ for event in heard if not isinstance(event, events.Delta)]
    assert kinds == ["Started", "Completed"] * 3
    assert [event.attempt for event in heard if isinstance(event, events.Started)] == [1, 2, 3]
    assert site.story(job.id) == ["started", "delta", "completed"]
    if result_ttl == 0:
        assert not site.redis.exists(job.key)
    else:
        assert len(site.fetch(job).results()) == 3
    assert site.leftovers() == set()


# Requeue


def test_a_failed_job_that_is_requeued_runs_as_the_next_attempt(site):
    job = site.enqueue(script=FAILS_ONCE)
    site.work()
    assert isinstance(site.ending(job.id), Failed)
    site.rq("requeue", "--queue", "chat", job.id, "--serializer", "json")
    site.work()
    assert site.story(job.id) == ["started", "delta", "completed"]
    assert site.log(job.id)[0].attempt == 2
    assert site.fetch(job).get_status() is JobStatus.FINISHED
    assert [result.type for result in site.fetch(job).results()] == [Result.Type.SUCCESSFUL, Result.Type.FAILED]
    assert site.leftovers() == set()


def test_a_job_that_was_refused_can_be_requeued_once_it_is_allowed(site, install):
    job = site.queue().enqueue("acme.shout", site.request())
    site.work()
    assert site.ending(job.id).error.code == "unknown_task"
    source = "from deltabus.tasks import task\n@task\nasync def shout(context):\n    return 'LOUD'\n"
    install("acme", source, tasks={"shout": "acme:shout"})
    site.fetch(job).requeue()
    site.work()
    assert site.ending(job.id).result == "LOUD"
    assert site.fetch(job).return_value() == "LOUD"


def test_a_job_that_is_settled_but_not_booked_is_booked_and_not_run_again(site):
    """As after a crash between the two."""
    job = site.enqueue()
    site.work()
    sealed = site.log(job.id)
    site.redis.delete(f"rq:results:{job.id}", "rq:finished:chat")
    site.redis.hset(job.key, mapping={"status": "queued", "ended_at": "", OPEN_FIELD: 1})
    site.redis.rpush("rq:queue:chat", job.id)
    site.work()
    assert site.log(job.id) == sealed
    assert site.fetch(job).get_status() is JobStatus.FINISHED
    assert site.fetch(job).return_value() == sealed[-1].result


@pytest.mark.parametrize("deaths", [1, 2])
def test_workers_that_die_between_the_seal_and_the_booking_do_not_make_it_run_again(site, deaths):
    job = site.enqueue()
    for _ in range(deaths):
        site.work_until_killed_at("Ledger.succeed", DELTABUS_LEASE="0.3", DELTABUS_HEARTBEAT_INTERVAL="0.1")
    sealed = site.log(job.id)
    assert [type(event).__name__ for event in sealed if not isinstance(event, events.Delta)] == ["Started", "Completed"]
    with site.worker(settings=site.settings(lease=0.3, heartbeat_interval=0.1)):
        assert site.booked(job).return_value == sealed[-1].result
    assert site.log(job.id) == sealed
    assert site.fetch(job).get_status() is JobStatus.FINISHED
    assert site.leftovers() == set()


# Schedule


def test_a_scheduled_job_runs_when_its_time_has_come(site):
    due, later = site.queue(), site.queue()
    job = due.enqueue_in(timedelta(seconds=-1), "deltabus.tasks.chat", site.request())
    other = later.enqueue_in(timedelta(hours=1), "deltabus.tasks.chat", site.request())
    assert job.get_status() is JobStatus.SCHEDULED
    site.work(with_scheduler=True)
    assert isinstance(site.ending(job.id), Completed)
    assert site.fetch(other).get_status() is JobStatus.SCHEDULED
    assert site.log(other.id) == []


# Rate limits


def test_jobs_under_a_rate_limit_run_no_more_at_once_than_it_says(site):
    limit = RateLimit("tenant", 1)
    script = {"words": 5, "interval": 0.005}
    jobs = [site.enqueue(script=script, rate_limit=limit) for _ in range(3)]
    assert [job.get_status() for job in jobs].count(JobStatus.RATE_LIMITED) == 2
    with site.worker():
        endings = [site.ending(job.id) for job in jobs]
    assert [type(ending) for ending in endings] == [Completed] * 3
    # In any order: RQ lines them up by the second.
    times = sorted((site.log(job.id)[0].at, site.log(job.id)[-1].at) for job in jobs)
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(times))
    assert RateLimitRegistry("tenant", site.redis).get_allowed_job_ids() == []
    assert site.leftovers() == set()


@pytest.mark.parametrize("end", ["cancel key", "job.cancel()", "job.delete()"])
def test_a_job_that_is_cancelled_frees_its_place_under_the_limit(site, end):
    limit = RateLimit("tenant", 1)
    with site.worker(settings=site.settings(heartbeat_interval=0.1)):
        first, second = (site.enqueue(script={"words": 10_000, "interval": 0.02}, rate_limit=limit) for _ in range(2))
        site.streams(first.id)
        match end:
            case "cancel key":
                site.redis.set(keys.cancel(first.id), "")
            case "job.cancel()":
                site.fetch(first).cancel()
            case "job.delete()":
                site.fetch(first).delete()
        assert isinstance(site.ending(first.id), Cancelled)
        site.streams(second.id)
    assert site.redis.exists(first.key) == (end != "job.delete()")


def test_a_job_that_is_cancelled_while_it_waits_frees_its_place_under_the_limit(site):
    limit = RateLimit("tenant", 1)
    with site.worker(settings=site.settings(concurrency=1)), Bus(site.url) as bus:
        busy = site.enqueue(script={"words": 10_000, "interval": 0.02})
        site.streams(busy.id)
        first, second = (site.enqueue(rate_limit=limit) for _ in range(2))
        assert bus.task(first.id).cancel()
        assert bus.task(busy.id).cancel()
        assert isinstance(site.ending(first.id), Cancelled)
        assert isinstance(site.ending(second.id), Completed)
    assert site.types(first.id) == ["cancelled"]
    assert site.leftovers() == set()


def test_a_job_under_a_rate_limit_that_waits_for_its_next_attempt_comes_back(site):
    """It is not parked: it would keep its place, for which others wait, and wait for RQ's scheduler."""
    limit = RateLimit("tenant", 1)
    script = {"words": 5, "fail_after": 2, "error": "rate_limited", "fail_attempts": 1}
    with site.worker(settings=site.settings(park_after=0.1, retry_delay=0.4)):
        first = site.enqueue(script=script, rate_limit=limit)
        second = site.enqueue(rate_limit=limit)
        assert isinstance(site.ending(first.id), Completed)
        assert isinstance(site.ending(second.id), Completed)
    assert site.leftovers() == set()


@pytest.mark.parametrize("script", [FAILS, None], ids=["failure", "bad input"])
def test_a_job_that_fails_frees_its_place_under_the_limit(site, script):
    limit = RateLimit("tenant", 1)
    if script is None:
        first = site.queue().enqueue("os.system", "true", rate_limit=limit)
    else:
        first = site.enqueue(script=script, rate_limit=limit)
    second = site.enqueue(rate_limit=limit)
    site.work()
    assert isinstance(site.ending(first.id), Failed)
    assert isinstance(site.ending(second.id), Completed)


# Unique


def test_a_job_that_is_enqueued_as_unique_runs_once(site):
    job = site.enqueue(job_id="once", unique=True)
    with pytest.raises(DuplicateJobError):
        site.enqueue(job_id="once", unique=True)
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    with pytest.raises(DuplicateJobError):
        site.enqueue(job_id="once", unique=True)


def test_an_id_that_is_enqueued_again_after_it_has_ended_runs_again(site):
    job = site.enqueue(job_id="again")
    site.work()
    site.enqueue(job_id="again", script={"text": "something else"})
    site.work()
    assert site.log(job.id)[0].attempt == 2
    assert site.ending(job.id).result["choices"][0]["message"]["content"] == "something else"


def test_a_success_callback_that_raises_is_retried_without_calling_the_provider_again(site, install):
    source = "def flaky(job, connection, result):\n    if connection.incr('calls') == 1:\n        raise RuntimeError\n"
    install("hooks", source, callbacks={"flaky": "hooks:flaky"})
    job = site.enqueue(on_success=Callback("hooks.flaky"), retry=Retry(max=2))
    site.work()
    assert site.redis.get("calls") == b"2"
    assert site.story(job.id) == ["started", "delta", "completed"]
    assert site.log(job.id)[0].attempt == 1
    assert site.fetch(job).get_status() is JobStatus.FINISHED


def test_a_cancelled_job_that_is_requeued_runs_as_the_next_attempt(site):
    job = site.enqueue()
    site.redis.set(keys.cancel(job.id), "not now")
    site.work()
    assert isinstance(site.ending(job.id), Cancelled)
    site.queue().canceled_job_registry.requeue(site.fetch(job))
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert site.fetch(job).get_status() is JobStatus.FINISHED


def test_a_stopped_job_that_is_requeued_runs_as_the_next_attempt(site):
    with site.worker() as worker:
        site.until(lambda: site.is_listening(worker))
        job = site.enqueue(script={"words": 3, "stall_after": 1, "fail_attempts": 1})
        site.streams(job.id)
        send_stop_job_command(site.redis, job.id, serializer="json")
        assert site.booked(job)
    site.fetch(job).requeue()
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert site.log(job.id)[0].attempt == 2


@pytest.mark.parametrize("worker", ["ours", "RQ's"])
def test_an_id_that_is_used_again_after_rq_has_forgotten_it_runs_again(site, worker):
    work = site.work if worker == "ours" else site.work_simply
    job = site.enqueue(job_id="daily", script={"text": "yesterday"})
    work()
    site.fetch(job).delete()
    assert site.redis.exists(keys.log("daily"))
    site.enqueue(job_id="daily", script={"text": "today"})
    work()
    assert site.ending("daily").result["choices"][0]["message"]["content"] == "today"
    assert site.log("daily")[0].attempt == 2
    assert site.fetch("daily").return_value() == site.ending("daily").result
