"""Job hashes and keys that are not as RQ writes them: named, made readable, failed; and the worker goes on."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from rq.job import JobStatus

from deltabus import keys
from deltabus.events import Completed, Failed
from deltabus.worker import intake

REQUEST = {"messages": [{"role": "user", "content": "the quick brown prompt jumps"}]}

#: Values that RQ (`rq.job.Job.restore`), its records or Redis cannot take in that field.
BROKEN = {
    "created_at": [b"yesterday", b"\xff"],
    "enqueued_at": [b"2026-99-99"],
    "started_at": [b"\xff"],
    "ended_at": [b"now"],
    "last_heartbeat": [b"never"],
    "origin": [b"\xff"],
    "worker_name": [b"\xff"],
    "description": [b"\xff"],
    "group_id": [b"\xff"],
    "status": [b"lost", b"\xff"],
    "timeout": [b"soon", b"\xff", b"9" * 30, b"9" * 400],
    "result_ttl": [b"1h", b"9" * 30],
    "failure_ttl": [b"1.5", b"9" * 30],
    "ttl": [b"x"],
    "success_callback_name": [b"\xff"],
    "failure_callback_name": [b"\xff"],
    "stopped_callback_name": [b"\xff"],
    "success_callback_timeout": [b"", b"x"],
    "failure_callback_timeout": [b"x"],
    "stopped_callback_timeout": [b"x"],
    "dependency_ids": [b"{", b"\xff", b"5", b"[5]"],
    "dependency_id": [b"\xff"],
    "allow_dependency_failures": [b"yes"],
    "enqueue_at_front": [b"", b"yes"],
    "number_of_retries": [b"x"],
    "retries_left": [b"x"],
    "retry_intervals": [b"[", b"{}", b'["1"]', b"5", b"[]"],
    "enqueue_at_front_on_retry": [b"x"],
    "repeats_left": [b"x"],
    "repeat_intervals": [b"[", b"5", b'["x"]'],
    "rate_limit_key": [b"\xff"],
    "rate_limit_concurrency": [b"x"],
    "meta": [b"[[]]", b"5", b"null"],
    "deltabus_lost": [b"x", b"9" * 5000],
    "deltabus_failures": [b"x"],
}

#: Fields over whose values RQ itself passes.
TOLERATED = {"meta": b"{", "webhooks": b"{", "exc_info": b"\x01", "result": b"{"}


def put(site, job_id="j", **fields):
    """A job as a producer in any language may write it."""
    data = json.dumps(["deltabus.tasks.chat", None, [{"request": REQUEST}], {}])
    mapping = {"data": data, "created_at": "2026-01-01T00:00:00Z", "status": "queued", "origin": "chat", **fields}
    site.redis.hset(f"rq:job:{job_id}", mapping={name: value for name, value in mapping.items() if value is not None})
    site.redis.sadd("rq:queues", "rq:queue:chat")
    site.redis.rpush("rq:queue:chat", job_id)
    return job_id


def goes_on(site, *queues):
    """Whether the worker that meets what was put there completes the next job."""
    good = site.enqueue(queues[-1] if queues else "chat")
    site.work(*queues)
    return isinstance(site.ending(good.id), Completed)


@pytest.mark.parametrize("field", BROKEN)
def test_a_field_that_is_broken_is_named(site, field):
    others = {"retries_left": 1} if field == "retry_intervals" else {"repeats_left": 1} if "repeat_" in field else {}
    jobs = [put(site, f"j{at}", **{**others, field: value}) for at, value in enumerate(BROKEN[field])]
    assert goes_on(site)
    for job_id in jobs:
        failed = site.ending(job_id)
        assert isinstance(failed, Failed)
        assert (failed.error.code, failed.error.param) == ("invalid_request", field)
        assert f"`{field}`" in failed.error.message
        assert site.fetch(job_id).get_status() is JobStatus.FAILED
        assert failed.error.message in site.fetch(job_id).latest_result().exc_string
    assert sorted(site.queue().failed_job_registry.get_job_ids()) == jobs
    assert site.leftovers() == set()


@pytest.mark.parametrize("field", TOLERATED)
def test_a_field_over_which_rq_passes_does_no_harm(site, field):
    put(site, **{field: TOLERATED[field]})
    assert goes_on(site)
    assert isinstance(site.ending("j"), Completed)
    assert site.fetch("j").get_status() is JobStatus.FINISHED


def test_a_field_whose_name_is_not_text(site):
    put(site)
    site.redis.hset("rq:job:j", b"\xff\xfe", "x")
    assert goes_on(site)
    assert isinstance(site.ending("j"), Failed)
    assert site.fetch("j").get_status() is JobStatus.FAILED


def test_a_hash_with_the_payload_alone_is_enough(site):
    put(site, created_at=None, status=None, origin=None)
    assert goes_on(site)
    assert isinstance(site.ending("j"), Completed)
    assert site.fetch("j").origin == "chat"
    assert "j" in site.queue().finished_job_registry


@pytest.mark.parametrize("origin", [None, ""])
def test_a_job_that_says_no_origin_and_whose_worker_is_killed_runs_elsewhere(site, origin):
    put(site, origin=origin)
    site.work_until_killed_at("Log.begin")
    site.redis.zadd(keys.workers("rq"), dict.fromkeys(site.redis.zrange(keys.workers("rq"), 0, -1), 1))
    with site.worker(settings=site.settings(lease=0.3, heartbeat_interval=0.1)):
        assert isinstance(site.ending("j"), Completed)
    assert site.leftovers() == set()


def test_a_hash_without_payload(site):
    put(site, data=None)
    assert goes_on(site)
    failed = site.ending("j")
    assert (failed.error.code, failed.error.param) == ("invalid_request", "data")
    assert site.fetch("j").get_status() is JobStatus.FAILED


def test_an_id_without_a_hash(site):
    site.redis.rpush("rq:queue:chat", "ghost")
    assert goes_on(site)
    failed = site.ending("ghost")
    assert failed.error.code == "invalid_request"
    assert "there is no job hash" in failed.error.message
    ghost = site.fetch("ghost")
    assert ghost.get_status() is JobStatus.FAILED
    assert ghost.id in site.queue().failed_job_registry
    assert site.redis.ttl(ghost.key) > 0
    assert site.leftovers() == set()


@pytest.mark.parametrize(
    "job_id", [b"", b"two words", b"a:b", b"\xff\xfe", b"{x}", b"x" * 1000, "ü".encode()], ids=repr
)
def test_an_id_that_rq_would_not_have_is_dropped(site, job_id):
    site.redis.rpush("rq:queue:chat", job_id)
    assert goes_on(site)
    assert site.leftovers() == set()


def test_a_job_key_that_is_not_a_hash(site):
    site.redis.set("rq:job:j", "what?")
    site.redis.rpush("rq:queue:chat", "j")
    assert goes_on(site)
    failed = site.ending("j")
    assert failed.error.code == "invalid_request"
    assert "not a hash" in failed.error.message
    assert site.redis.get("rq:job:j") == b"what?"
    assert site.leftovers() == set()


def test_a_queue_key_that_is_not_a_list_is_named_and_the_other_queues_go_on(site, capfd):
    site.redis.set("rq:queue:first", "what?")
    with site.worker("first", "second"):
        one = site.enqueue("second")
        assert isinstance(site.ending(one.id), Completed)
        site.redis.delete("rq:queue:first")
        # The worker looks at it again when something else comes.
        two = site.enqueue("first")
        three = site.enqueue("second")
        assert isinstance(site.ending(two.id), Completed)
        assert isinstance(site.ending(three.id), Completed)
    output = capfd.readouterr().err
    assert "queue key is not a list" in output
    assert "rq:queue:first" in output


def test_a_log_key_that_is_not_a_stream(site):
    job = site.enqueue()
    site.redis.set(keys.log(job.id), "what?")
    assert goes_on(site)
    assert site.fetch(job).get_status() is JobStatus.FAILED
    assert "log" in site.fetch(job).latest_result().exc_string
    assert site.redis.get(keys.log(job.id)) == b"what?"
    assert site.leftovers() == set()


def test_rqs_maintenance_goes_on_after_a_job_that_it_cannot_read(site, capfd):
    site.redis.hset("rq:job:broken", mapping={"data": "[]", "status": "lost"})
    site.redis.zadd("rq:wip:chat", {"broken:execution": 1})
    with site.worker(options={"maintenance_interval": 0.05}):
        site.until(lambda: site.redis.exists("rq:clean_registries:chat"))
        assert isinstance(site.ending(site.enqueue().id), Completed)
        # Somebody mends it; and a job of a stock worker has been abandoned.
        site.redis.zrem("rq:wip:chat", "broken:execution")
        site.redis.hset("rq:job:abandoned", mapping={"data": "[]", "status": "started", "origin": "chat"})
        site.redis.zadd("rq:wip:chat", {"abandoned:execution": 1})
        site.redis.delete("rq:clean_registries:chat")
        site.until(lambda: site.redis.zscore("rq:failed:chat", "abandoned"))
    assert "a duty of the worker failed, and begins again" in capfd.readouterr().err


@pytest.mark.parametrize("script", [{}, {"fail_after": 1, "error": "authentication"}], ids=["good", "bad"])
def test_a_result_that_cannot_be_written_does_not_keep_the_job_from_its_end(site, script):
    job = site.enqueue(script=script)
    site.redis.set(f"rq:results:{job.id}", "not a stream")
    site.work()
    assert site.types(job.id)[-1] == ("failed" if script else "completed")
    assert site.fetch(job).get_status() == ("failed" if script else "finished")
    assert site.leftovers() == set()
    assert site.redis.get(f"rq:results:{job.id}") == b"not a stream"


@pytest.mark.parametrize("key", ["rq:executions:{id}", "rq:wip:chat"])
def test_a_registry_that_cannot_be_written_does_not_keep_the_job_from_its_start(site, key):
    job = site.enqueue()
    site.redis.set(key.format(id=job.id), "not a sorted set")
    site.work()
    assert site.types(job.id)[-1] == "completed"
    assert site.fetch(job).get_status() == "finished"


@pytest.mark.parametrize("key", ["rq:executions:{id}", "rq:wip:chat"])
def test_a_registry_of_the_wrong_type_does_not_keep_a_lost_job_from_its_end(site, key):
    job = site.enqueue()
    site.redis.set(key.format(id=job.id), "not a sorted set")
    site.work_until_killed_at("Ledger.succeed")
    with site.worker(settings=site.settings(lease=0.5, heartbeat_interval=0.1)):
        site.redis.zadd(keys.workers("rq"), dict.fromkeys(site.redis.zrange(keys.workers("rq"), 0, -1), 1), lt=True)
        site.until(lambda: site.fetch(job).get_status() == "finished")
    assert site.types(job.id).count("completed") == 1


def test_a_scheduled_id_whose_key_is_no_hash_fails_and_the_rest_of_the_schedule_goes_on(site):
    job = site.queue().enqueue_in(timedelta(0), "deltabus.tasks.chat", {"request": REQUEST})
    site.redis.set("rq:job:bad", "not a hash")
    site.redis.zadd("rq:scheduled:chat", {"bad": 1})
    with site.worker():
        site.until(lambda: site.types(job.id)[-1:] == ["completed"])
        site.until(lambda: site.types("bad") == ["failed"])
    assert site.redis.zcard("rq:scheduled:chat") == 0


@pytest.mark.parametrize("key", ["rq:scheduled:spoilt", "rq:queue:spoilt:intermediate", "rq:queue:spoilt"])
def test_a_queue_with_a_key_of_the_wrong_type_is_named_and_does_not_stop_the_others(site, capfd, monkeypatch, key):
    monkeypatch.setattr(intake, "BLOCK", 1.0)
    site.redis.set(key, "of another type")
    due = (
        site.queue("spoilt").enqueue_in(timedelta(0), "deltabus.tasks.chat", {"request": REQUEST})
        if (key == "rq:queue:spoilt")
        else None
    )
    with site.worker("spoilt", "chat"):
        job = site.enqueue()
        site.until(lambda: site.types(job.id)[-1:] == ["completed"])
        if due is not None:
            assert site.redis.zscore("rq:scheduled:spoilt", due.id)
            site.redis.delete(key)
            site.until(lambda: site.types(due.id)[-1:] == ["completed"])
    said = capfd.readouterr().err
    assert key in said
    assert "is away" not in said


SEALS = {
    "garbage": {"event": b"garbage"},
    "no text": {"event": b"\xff"},
    "no ending": {"event": b'{"type":"started","task":"t","id":"1-0","at":1,"worker":"w"}'},
    "nested": {"event": b"[" * 100_000},
    "no event": {"something": b"else"},
}


@pytest.mark.parametrize("fields", SEALS.values(), ids=SEALS)
def test_a_log_that_is_sealed_with_what_is_no_ending_fails_its_task_at_once(site, fields):
    with site.worker():
        job = site.enqueue(script={"words": 100_000, "interval": 0.02})
        site.streams(job.id)
        site.redis.xadd(keys.log(job.id), fields, id=keys.SEAL)
        assert "sealed with what is no ending" in site.booked(job).exc_string
    assert site.fetch(job).get_status() == "failed"
    assert not site.redis.hexists(job.key, "deltabus_lost")
    assert not site.leftovers()


@pytest.mark.parametrize("fields", SEALS.values(), ids=SEALS)
def test_what_sealed_a_log_before_its_task_began_keeps_it_from_nothing(site, fields):
    job = site.enqueue()
    site.redis.xadd(keys.log(job.id), fields, id=keys.SEAL)
    site.work()
    assert site.story(job.id)[-1] == "completed"
    assert site.fetch(job).get_status() == "finished"
