"""What one look at a bus sees, and what it takes."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis

from deltabus import keys, overview
from deltabus.errors import BusError, BusUnavailable
from deltabus.overview import look, rates


def test_queues_are_seen_with_what_is_in_them(site):
    for _ in range(3):
        site.enqueue(script={"text": "hi"})
    site.queue("later").enqueue_in(timedelta(hours=1), "deltabus.tasks.chat", site.request())
    site.enqueue("file", script={"error": "permission", "fail_after": 0})
    site.work("file")
    now = look(site.redis, "rq")
    assert [(queue.name, queue.waiting, queue.scheduled, queue.failed) for queue in now.queues] == [
        *(("chat", 3, 0, 0), ("file", 0, 0, 1), ("later", 0, 1, 0))
    ]
    assert now.queues[0].oldest > 0
    assert (now.waiting, now.running, now.dead) == (3, 0, 1)
    (failure,) = now.failures
    assert (failure.queue, failure.code, failure.provider) == ("file", "permission", "echo")
    assert now.workers == ()
    assert now.server.version
    assert now.server.used_memory > 0


def test_a_worker_and_what_it_runs_are_seen_with_their_rates(site):
    site.enqueue(script={"text": "one"})
    site.enqueue(script={"error": "permission", "fail_after": 0})
    job = site.enqueue(script={"words": 100_000, "interval": 0.01})
    with site.worker("chat", settings=site.settings(concurrency=7)) as worker:
        while site.redis.xlen(keys.log(job.id)) < 3 or site.redis.llen("rq:queue:chat"):
            site.redis.xread({keys.log(job.id): "$"}, block=1000)
        before = look(site.redis, "rq")
        site.redis.xread({keys.log(job.id): "$"}, block=1000)
        after = look(site.redis, "rq")
        (seen,) = after.workers
        assert (seen.name, seen.slots, seen.queues, seen.state) == (worker.name, 7, ("chat",), "busy")
        assert seen.lease is not None
        assert 0 < seen.lease <= 10
        task = next(task for task in after.tasks if task.id == job.id)
        assert (task.queue, task.function, task.worker) == ("chat", "chat", worker.name)
        assert task.events >= 3
        between = rates(before, after)
        assert between.tasks[job.id] > 0
        assert between.events > 0


def test_a_look_takes_so_many_commands_whatever_there_is(site, monkeypatch):
    for number in range(4):
        site.enqueue(f"q{number}", script={"text": "hi"})
    monkeypatch.setattr(overview, "QUEUES", 3)
    site.redis.config_resetstat()
    now = look(site.redis, "rq")
    calls = {name: facts["calls"] for name, facts in site.redis.info("commandstats").items()}
    asked = sum(count for name, count in calls.items() if not name.startswith("cmdstat_config"))
    assert now.commands == asked == 7 + 3 * 8 + 3
    assert (len(now.queues), now.more_queues) == (3, 1)
    assert not {"cmdstat_keys", "cmdstat_scan", "cmdstat_eval", "cmdstat_evalsha"} & calls.keys()


def test_of_many_tasks_and_failures_the_oldest_and_the_newest_are_read(site, monkeypatch):
    monkeypatch.setattr(overview, "TASKS", 3)
    monkeypatch.setattr(overview, "FAILURES", 2)
    for number in range(8):
        queue = f"q{number % 2}"
        site.redis.sadd("rq:queues", f"rq:queue:{queue}")
        site.redis.zadd(f"rq:wip:{queue}", {f"t{number}:e": number})
        site.redis.zadd(f"rq:failed:{queue}", {f"f{number}": number})
        site.redis.hset(f"rq:job:t{number}", "started_at", f"2026-01-01T00:00:0{number}.000000Z")
        site.redis.hset(f"rq:job:f{number}", "ended_at", f"2026-01-01T00:00:0{number}.000000Z")
    now = look(site.redis, "rq")
    assert [(task.id, task.queue) for task in now.tasks] == [("t0", "q0"), ("t1", "q1"), ("t2", "q0")]
    assert [(failure.id, failure.queue) for failure in now.failures] == [("f7", "q1"), ("f6", "q0")]
    assert (now.running, now.dead) == (8, 8)
    assert now.commands == 7 + 2 * 8 + 3 * 2 + 2


def test_keys_of_another_type_and_fields_that_make_no_sense_are_survived(site):
    site.enqueue(script={"text": "hi"})
    site.redis.set("rq:wip:chat", "no registry")
    site.redis.sadd("rq:workers", "rq:worker:odd", "rq:worker:gone", "rq:worker:none")
    site.redis.hset("rq:worker:odd", mapping={"state": b"\xff", "pid": "many", "birth": "soon", keys.SLOTS_FIELD: "-1"})
    site.redis.set("rq:worker:none", "a string")
    site.redis.rpush("rq:queue:odd", b"\xff")
    site.redis.sadd("rq:queues", "rq:queue:odd")
    now = look(site.redis, "rq")
    assert [(queue.name, queue.waiting, queue.running) for queue in now.queues] == [("chat", 1, 0), ("odd", 1, 0)]
    (odd,) = now.workers
    assert (odd.name, odd.pid, odd.slots, odd.lease, odd.age) == ("odd", 0, 1, None, 0.0)


def test_a_right_that_is_missing_is_named(redis_url):
    with redis.Redis.from_url(redis_url) as root:
        root.acl_setuser("guest", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
        with redis.Redis.from_url(redis_url.replace("://", "://guest:x@")) as guest:
            assert look(guest, "rq").server.version
            root.acl_setuser("guest", commands=["-info"])
            with pytest.raises(BusError, match=r"no permissions to run the 'info' command.*see ops/acl"):
                look(guest, "rq")


def test_a_description_of_the_producers_own_is_not_shown(site):
    job = site.enqueue(script={"text": "hi"}, description="a secret prompt(")
    site.redis.zadd("rq:wip:chat", {f"{job.id}:e": 1e10})
    site.redis.hset(f"rq:job:{job.id}", "started_at", "2026-01-01T00:00:00.000000Z")
    (task,) = look(site.redis, "rq").tasks
    assert (task.id, task.function) == (job.id, "")


def test_a_redis_that_is_away_is_an_error_of_the_bus():
    with redis.Redis(port=1) as nobody, pytest.raises(BusUnavailable, match="cannot reach Redis"):
        look(nobody, "rq")
