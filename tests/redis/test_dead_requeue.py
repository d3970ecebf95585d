"""Dead letters that are run again: a new round, for its followers too, once each, and with RQ's limits."""

from __future__ import annotations

import threading

import pytest
from deadletters import CHAT, FAILS, FAILS_ONCE, everything, fake, one
from rq.job import JobStatus
from rq.rate_limit import RateLimit

from deltabus import Bus, keys
from deltabus.cli import exits
from deltabus.dead import PAGE, Filter
from deltabus.events import Cancelled, Completed, Delta, Failed, Retrying, Started
from deltabus.testing import check_events
from deltabus.worker.ledger import LOST_FIELD


def test_a_requeued_task_is_a_new_round_for_whoever_follows_it(site, letters):
    job = site.enqueue(script=FAILS_ONCE)
    site.work()
    with Bus(site.url) as bus:
        task = bus.task(job.id)
        assert isinstance(list(task.events())[-1], Failed)
        assert letters.requeue([one(letters)]) == ["requeued"]
        assert task.status().state == "queued"
        seen = []
        begun = threading.Event()

        def follow():
            for event in task.events():
                seen.append(event)
                begun.set()

        follower = threading.Thread(target=follow)
        follower.start()
        assert begun.wait(60)
        site.work()
        follower.join(60)
        assert task.result()
    assert [type(event) for event in seen[:3]] == [Started, Retrying, Started]
    assert [event.attempt for event in seen[:3]] == [1, 1, 2]
    assert isinstance(seen[-1], Completed)
    check_events(seen)
    assert everything(letters) == []
    assert site.fetch(job).get_status() is JobStatus.FINISHED
    assert site.leftovers() == set()


def test_a_cursor_of_the_old_round_goes_on_in_the_new_one(site, letters):
    job = site.enqueue(script={"words": 5, "fail_after": 3, "fail_attempts": 1})
    site.work(settings=site.settings(max_retries=0))
    old = site.log(job.id)
    letters.requeue([one(letters)])
    site.work()
    with Bus(site.url) as bus:
        again = list(bus.task(job.id).events(after=old[1].id))
    assert [type(event) for event in again if not isinstance(event, Delta)] == [Retrying, Started, Completed]
    check_events([*old[:2], *again])
    assert isinstance(again[-1], Completed)


def test_what_the_channels_show_of_a_requeue_is_what_the_log_holds(site, letters):
    job = site.queue().enqueue(CHAT, {**site.request(**FAILS_ONCE), "reply_to": "svc"})
    site.work()
    with site.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.events(job.id), "svc")
        letters.requeue([one(letters)])
        logged = [fields[b"event"] for _, fields in site.redis.xrange(keys.log(job.id))]
        heard = {keys.events(job.id).encode(): [], b"svc": []}
        while sum(map(len, heard.values())) < 2:
            message = next(pubsub.listen())
            if message["type"] == "message":
                heard[message["channel"]].append(message["data"])
    assert heard == {keys.events(job.id).encode(): logged[-1:], b"svc": logged[-1:]}


def test_a_task_that_failed_while_it_waited_for_its_next_attempt_is_requeued(site, letters):
    """Its last event is `retrying`: nothing of that attempt may follow."""
    job = site.enqueue(script={"error": "rate_limited", "retry_after": 1000, "fail_attempts": 1})
    site.work()
    (*_, retrying) = site.log(job.id)
    assert isinstance(retrying, Retrying)
    site.redis.zrem("rq:scheduled:chat", job.id)
    site.redis.hset(job.key, mapping={"status": "queued", LOST_FIELD: 99})
    site.redis.rpush("rq:queue:chat", job.id)
    site.work()
    assert site.ending(job.id).error.code == "worker_lost"
    letters.requeue([one(letters)])
    assert site.log(job.id)[-1] == retrying
    site.work()
    assert site.story(job.id) == ["started", "retrying", "started", "delta", "completed"]
    check_events(site.log(job.id))


def test_a_poison_task_gets_its_deliveries_anew(site, letters):
    job = site.enqueue()
    site.redis.hset(job.key, LOST_FIELD, 99)
    site.work()
    letter = one(letters)
    assert letter.code == "worker_lost"
    # As stock RQ's maintenance leaves it.
    site.redis.hset(job.key, mapping={LOST_FIELD: 99, "deltabus_failures": 99, "deltabus_open": 1})
    letters.requeue([letter])
    assert not any(field.startswith(b"deltabus_") for field in site.redis.hkeys(job.key))
    site.work()
    assert isinstance(site.ending(job.id), Completed)


def test_a_cancel_that_was_left_does_not_end_the_new_round(site, letters):
    job = site.enqueue(script=FAILS_ONCE)
    site.work()
    site.redis.set(keys.cancel(job.id), "too late")
    letters.requeue([one(letters)])
    site.work()
    assert isinstance(site.ending(job.id), Completed)


def test_a_cancel_of_the_new_round_does(site, letters):
    job = site.enqueue(script=FAILS_ONCE)
    site.work()
    letters.requeue([one(letters)])
    with Bus(site.url) as bus:
        assert bus.task(job.id).cancel("enough")
    assert isinstance(site.ending(job.id), Cancelled)
    assert site.redis.llen("rq:queue:chat") == 0


@pytest.mark.parametrize("end", ["job.cancel()", "RQ's failure"])
def test_cancelling_what_rq_has_ended_leaves_no_intent_behind(site, end):
    """It would end a later round, up to a day later."""
    job = site.enqueue(script={"error": "rate_limited", "retry_after": 1000})
    site.work()  # it waits for its second attempt: there is a log without an end
    if end == "job.cancel()":
        site.fetch(job).cancel()
    else:
        site.redis.zrem("rq:scheduled:chat", job.id)
        site.redis.hset(job.key, "status", "failed")
    with Bus(site.url) as bus:
        assert not bus.task(job.id).cancel()
    assert not site.redis.exists(keys.cancel(job.id))


def test_a_round_that_fails_again_during_a_requeue_of_all_is_not_requeued_twice(site, letters):
    jobs = [site.enqueue(script=FAILS, failure_ttl=-1).id for _ in range(2 * PAGE + 1)]
    site.work()
    requeued = []
    for page in letters.walk(Filter()):
        requeued += [letter.task for letter in page]
        letters.requeue(page)
        site.work()
    assert sorted(requeued) == sorted(jobs)
    assert {len(site.fetch(job).results()) for job in jobs} == {2}


def test_what_others_take_away_meanwhile_hides_nothing(site, letters):
    fake(site, 5 * PAGE)
    seen = []
    for number, page in enumerate(letters.walk(Filter(codes=frozenset()))):
        seen += [letter.task for letter in page]
        if number < 3:  # what has been passed, the place where the walk stands among it
            site.redis.zremrangebyrank("rq:failed:chat", 0, PAGE // 2 - 1)
            site.redis.zrem("rq:failed:chat", page[-1].task)
    assert len(set(seen)) == len(seen) == 5 * PAGE


def test_a_rate_limited_job_asks_the_limiter_again(site, letters):
    limit = RateLimit("tenant", 1)
    first = site.enqueue(script=FAILS_ONCE, rate_limit=limit)
    site.work()
    with site.worker():
        running = site.enqueue(script={"words": 10_000, "interval": 0.02}, rate_limit=limit)
        site.streams(running.id)
        assert letters.requeue([one(letters)]) == ["requeued"]
        assert site.fetch(first).get_status() == "rate_limited"
        site.redis.set(keys.cancel(running.id), "")
        site.redis.publish(keys.CANCEL_CHANNEL, running.id)
        assert isinstance(site.ending(first.id), Completed)


def test_what_is_not_failed_any_more_is_left_alone(site, letters, deltabus):
    job = site.enqueue(script=FAILS)
    site.work()
    letter = one(letters)
    site.rq("requeue", "--queue", "chat", job.id, "--serializer", "json")
    assert letters.requeue([letter]) == letters.purge([letter]) == ["not failed"]
    site.redis.zadd("rq:failed:chat", {job.id: 4_000_000_000})  # a registry that is behind
    assert letters.requeue([letter]) == letters.purge([letter]) == ["not failed"]
    assert site.redis.lrange("rq:queue:chat", 0, -1) == [job.id.encode()]
    deltabus("requeue", job.id, code=exits.FAILED, says="is not a failed task any more")
    deltabus("requeue", "nobody", code=exits.USAGE, says="nobody is in no failed registry")
