"""What one look at a bus sees, and what it takes."""

from __future__ import annotations

import contextlib
import math
import threading
from datetime import timedelta

import pytest
import redis

from deltabus import keys
from deltabus import look as looking
from deltabus.cli import exits
from deltabus.cli.figures import span
from deltabus.errors import BusError, BusUnavailable
from deltabus.look import look
from deltabus.overview import rates


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
        site.until(lambda: site.redis.hget(worker.key, "state") == b"busy")
        before = look(site.redis, "rq")
        length = site.redis.xlen(keys.log(job.id))
        while site.redis.xlen(keys.log(job.id)) == length:
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
    monkeypatch.setattr(looking, "QUEUES", 3)
    monkeypatch.setattr(looking, "BATCH", 4)
    site.redis.config_resetstat()
    now = look(site.redis, "rq")
    calls = {name: facts["calls"] for name, facts in site.redis.info("commandstats").items()}
    asked = sum(count for name, count in calls.items() if not name.startswith("cmdstat_config"))
    assert now.commands == asked == 7 + 3 * 5 + 3 * 2
    assert (len(now.queues), now.more_queues, now.waiting) == (3, 1, 3)
    assert not {"cmdstat_keys", "cmdstat_scan", "cmdstat_eval", "cmdstat_evalsha"} & calls.keys()


def test_sums_are_of_all_queues_and_workers_and_the_longest_and_newest_of_all_are_found(site):
    many = 1500
    with site.redis.pipeline(transaction=False) as pipe:
        for number in range(many):
            pipe.sadd("rq:queues", f"rq:queue:q{number}")
            pipe.rpush(f"rq:queue:q{number}", f"t{number}")
            pipe.zadd(f"rq:wip:q{number}", {f"r{number}:e": many - number, f"s{number}:e": 10 * many})
            pipe.zadd(f"rq:failed:q{number}", {f"f{number}": number})
            pipe.hset(f"rq:job:r{number}", "started_at", "2026-01-01T00:00:00.000000Z")
            pipe.sadd("rq:workers", f"rq:worker:w{number}")
            pipe.hset(f"rq:worker:w{number}", "state", "busy")
        pipe.execute()
    now = look(site.redis, "rq")
    assert (now.waiting, now.running, now.dead) == (many, 2 * many, many)
    assert (len(now.queues), len(now.workers), now.more_queues, now.more_workers) == (many, many, 0, 0)
    assert {task.id for task in now.tasks} == {f"r{many - 1 - place}" for place in range(looking.TASKS)}
    assert {one.id for one in now.failures} == {f"f{many - 1 - place}" for place in range(looking.FAILURES)}
    assert (now.more_tasks, now.more_failures) == (2 * many - looking.TASKS, many - looking.FAILURES)


def test_of_many_tasks_and_failures_the_oldest_and_the_newest_are_read(site, monkeypatch):
    monkeypatch.setattr(looking, "TASKS", 3)
    monkeypatch.setattr(looking, "FAILURES", 2)
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
    assert now.commands == 7 + 2 * 5 + 2 * 2 + 2 * 2 + 3 * 2 + 2


def test_keys_of_another_type_and_fields_that_make_no_sense_are_survived(site):
    site.enqueue(script={"text": "hi"})
    site.redis.set("rq:wip:chat", "no registry")
    site.redis.sadd("rq:workers", "rq:worker:odd", "rq:worker:gone", "rq:worker:none")
    site.redis.hset("rq:worker:odd", mapping={"state": b"\xff", "pid": "many", "birth": "soon", keys.SLOTS_FIELD: "-1"})
    site.redis.set("rq:worker:none", "a string")
    site.redis.rpush(b"rq:queue:odd\xff", b"\xff")
    site.redis.sadd("rq:queues", b"rq:queue:odd\xff")
    now = look(site.redis, "rq")
    assert [(queue.name, queue.waiting, queue.running) for queue in now.queues] == [("chat", 1, 0), ("odd\ufffd", 1, 0)]
    (odd,) = now.workers
    assert (odd.name, odd.pid, odd.slots, odd.lease, odd.age) == ("odd", 0, 1, None, 0.0)


def test_a_right_that_is_missing_is_named(redis_url):
    with redis.Redis.from_url(redis_url) as root:
        root.acl_setuser("guest", enabled=True, nopass=True, keys=["*"], commands=["+@all"])
        with redis.Redis.from_url(redis_url.replace("://", "://guest:x@")) as guest:
            assert look(guest, "rq").server.version
            root.acl_setuser("guest", commands=["-smembers"])
            with pytest.raises(BusError, match=r"no permissions to run the 'smembers' command.*see ops/acl"):
                look(guest, "rq")


def test_what_redis_keeps_to_itself_is_left_out(redis_url):
    with redis.Redis.from_url(redis_url) as root:
        root.sadd("rq:queues", "rq:queue:chat")
        root.rpush("rq:queue:chat", "t")
        root.acl_setuser("guest", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
        with redis.Redis.from_url(redis_url.replace("://", "://guest:x@")) as guest:
            before, after = look(guest, "rq"), look(guest, "rq")
    assert (before.server, before.waiting) == (None, 1)
    assert rates(before, after).events is None


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300"])
def test_a_lease_that_makes_no_sense_is_none_or_over(site, score):
    site.redis.sadd("rq:workers", "rq:worker:w")
    site.redis.hset("rq:worker:w", "state", "busy")
    site.redis.zadd(keys.workers("rq"), {"w": float(score)})
    (worker,) = look(site.redis, "rq").workers
    match score:
        case "inf":
            assert worker.lease is None
        case "-inf":
            assert worker.lease is not None
            assert -math.inf < worker.lease < 0
        case _:
            assert worker.lease is not None
            assert span(worker.lease) == "999d+"


def test_a_script_that_keeps_redis_busy_is_an_outage(fresh_redis):
    """A server on which every command but a few is refused has no empty bus."""
    with (
        redis.Redis.from_url(fresh_redis.url) as client,
        redis.Redis.from_url(fresh_redis.url) as other,
        redis.Redis.from_url(fresh_redis.url) as third,
    ):
        client.sadd("rq:queues", "rq:queue:chat")
        client.config_set("lua-time-limit", 1)
        endless = threading.Thread(target=_eval, args=(other, "while true do end"))
        endless.start()
        try:
            with pytest.raises(BusUnavailable, match="BUSY Redis is busy running a script") as caught:
                _look_on(client)
        finally:
            third.script_kill()
            endless.join()
        assert exits.code(caught.value) == exits.UNREACHABLE
        assert "; it is there: wait for the script" in (exits.explain(caught.value) or "")
        assert [queue.name for queue in look(client, "rq").queues] == ["chat"]


def _look_on(client):
    while True:
        look(client, "rq")


def _eval(client, script):
    with contextlib.suppress(redis.ResponseError):
        client.eval(script, 0)


def test_a_replica_says_that_it_is_one_and_without_its_master_that_it_answers_nobody(fresh_redis):
    with redis.Redis.from_url(fresh_redis.url) as client:
        client.sadd("rq:queues", "rq:queue:chat")
        client.replicaof("127.0.0.1", 1)
        server = look(client, "rq").server
        assert server is not None
        assert server.role == "replica without its master"
        client.config_set("replica-serve-stale-data", "no")
        with pytest.raises(BusUnavailable, match="Link with MASTER is down") as caught:
            look(client, "rq")
        assert exits.code(caught.value) == exits.UNREACHABLE
        assert "; it is there: " in (exits.explain(caught.value) or "")


def test_a_description_of_the_producers_own_is_not_shown(site):
    job = site.enqueue(script={"text": "hi"}, description="a secret prompt(")
    site.redis.zadd("rq:wip:chat", {f"{job.id}:e": 1e10})
    site.redis.hset(f"rq:job:{job.id}", "started_at", "2026-01-01T00:00:00.000000Z")
    (task,) = look(site.redis, "rq").tasks
    assert (task.id, task.function) == (job.id, "")


def test_a_redis_that_is_away_is_an_error_of_the_bus():
    with redis.Redis(port=1) as nobody, pytest.raises(BusUnavailable, match="cannot reach Redis"):
        look(nobody, "rq")
