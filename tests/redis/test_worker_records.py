"""What a job leaves: RQ's records as RQ's own worker writes them, and the same events whoever runs it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time

import pytest
import redis.asyncio
from rq import Retry, SimpleWorker
from rq.job import JobStatus
from rq.results import Result

from deltabus import keys
from deltabus.events import Completed, Failed
from deltabus.worker.ledger import EXECUTION_TTL

#: Seconds; RQ's default and ours differ, so tests that compare the two say one.
TTL = 700

#: Fields of RQ's hashes and results whose values are times, or of one process.
VOLATILE = re.compile(
    r".*_at|birth|death|last_heartbeat|pid|ip_address|total_working_time|state|execution_id|exc_string|worker_name"
)


def records(site):
    """Everything in Redis besides our own keys, without times, ids of executions and tracebacks."""
    found = {}
    for key in site.redis.keys("*"):
        name = key.decode()
        if name.startswith(("deltabus:", "rq:deltabus:")):
            continue
        match site.redis.type(key):
            case b"hash":
                value = _steady(site.redis.hgetall(key))
            case b"stream":
                value = [_steady(fields) for _, fields in site.redis.xrange(key)]
            case b"zset":
                value = [(member, _ttl(score)) for member, score in site.redis.zrange(key, 0, -1, withscores=True)]
            case b"set":
                value = site.redis.smembers(key)
            case _:
                value = site.redis.get(key)
        found[name] = value, round(site.redis.ttl(key), -2)
    return found


def _steady(fields):
    steady = {}
    for name, value in fields.items():
        if name.startswith(b"deltabus_"):
            continue
        steady[name.decode()] = "…" if VOLATILE.fullmatch(name.decode()) and value else value
    if b"return_value" in fields:
        steady["return_value"] = json.loads(base64.b64decode(fields[b"return_value"]))
    return steady


def _ttl(score):
    """Seconds from now, to the hundred: a slow machine may be slow in one of two runs."""
    return score if score < 0 or score == float("inf") else round(score - time.time(), -2)


def test_a_task_from_stock_rq_is_streamed_logged_and_recorded_as_finished(site):
    job = site.enqueue()
    with site.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.events(job.id), keys.results("chat"))
        assert site.work()
        assert site.story(job.id) == ["started", "delta", "completed"]
        assert [event.id for event in site.log(job.id)][:2] == ["1-0", "1-1"]

        entries = [fields[b"event"] for _, fields in site.redis.xrange(keys.log(job.id))]
        published = {keys.events(job.id).encode(): [], keys.results("chat").encode(): []}
        while len(published[keys.results("chat").encode()]) < 1:
            if message := pubsub.get_message(timeout=10):
                published[message["channel"]].append(message["data"])
        assert list(published.values()) == [entries, entries[-1:]]

    done = site.fetch(job)
    assert done.get_status() is JobStatus.FINISHED
    assert done.return_value() == site.log(job.id)[-1].result
    assert done.return_value()["object"] == "chat.completion"
    assert done.return_value()["choices"][0]["message"]["content"] == "the quick brown prompt jumps"
    assert job.id in site.queue().finished_job_registry
    assert site.leftovers() == set()


def test_a_failed_task_is_recorded_as_failed_with_the_words_of_its_event(site):
    job = site.enqueue(script={"words": 5, "fail_after": 3, "error": "quota_exhausted"})
    site.work()
    failed = site.ending(job.id)
    assert isinstance(failed, Failed)
    assert failed.error.code == "quota_exhausted"
    assert failed.partial["choices"][0]["message"]["content"].count(" ") == 2
    result = site.fetch(job).latest_result()
    assert result.type is Result.Type.FAILED
    assert result.exc_string.strip().endswith(f"task {job.id} failed: quota_exhausted: {failed.error.message}")
    assert job.id in site.queue().failed_job_registry
    assert site.leftovers() == set()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"result_ttl": -1},
        {"result_ttl": 0},
        {"result_ttl": 300, "description": "mine", "meta": {"a": 1}, "job_timeout": 60},
        {"retry": Retry(1)},
        {"script": {"error": "not_found"}, "failure_ttl": TTL},
        {"script": {"error": "not_found"}, "failure_ttl": -1},
        {"script": {"error": "not_found"}, "failure_ttl": 0},
        {"script": {"error": "not_found"}, "failure_ttl": 300, "retry": Retry(1)},
        {"script": {"error": "crash"}, "failure_ttl": TTL},
    ],
    ids=str,
)
def test_the_records_are_those_that_rqs_own_worker_leaves(site, options):
    site.enqueue(job_id="j", **options)
    site.work_simply(name="w", default_result_ttl=TTL)
    theirs, story = records(site), site.story("j")
    site.redis.flushall()

    site.enqueue(job_id="j", **options)
    site.make(name="w", settings=site.settings(result_ttl=TTL)).work(burst=True)
    assert records(site) == theirs
    assert site.story("j") == story
    assert site.leftovers() == set()


def test_the_records_of_what_runs_are_those_that_rqs_own_worker_makes(site):
    """But that ours last until our own leases have run out: see `EXECUTION_TTL`."""
    worker = SimpleWorker(["chat"], name="w", connection=site.redis, serializer="json")
    worker.get_heartbeat_ttl = lambda *_: EXECUTION_TTL
    worker.heartbeat = lambda *_, **__: None  # on a timer here
    job = site.enqueue(job_id="j")
    site.redis.lpop("rq:queue:chat")
    worker.prepare_execution(job)
    worker.prepare_job_execution(job)
    theirs = running(site)
    site.redis.flushall()

    site.enqueue(job_id="j")

    async def take():
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client)
            assert len(await intake.take(1)) == 1
            await intake.aclose()

    asyncio.run(take())
    ours = running(site)
    del theirs["rq:worker:w"]  # its state, which has a timer here
    assert ours == theirs


def running(site):
    """The records, with all executions by the same name."""
    return {name(key): (name(str(value)), ttl) for key, (value, ttl) in records(site).items()}


def name(text):
    return re.sub(r"[0-9a-f]{32}", "<execution>", text)


def test_a_result_that_is_not_to_be_kept_leaves_only_the_log(site):
    job = site.enqueue(result_ttl=0)
    site.work()
    assert isinstance(site.ending(job.id), Completed)
    assert not site.redis.exists(job.key, f"rq:results:{job.id}")
    assert site.queue().finished_job_registry.count == 0
    assert 0 < site.redis.ttl(keys.log(job.id)) <= 60


def test_no_results_are_kept_where_the_worker_is_told_so(site):
    job = site.enqueue()
    worker = site.make(default_result_ttl=0)
    worker.work(burst=True)
    assert isinstance(site.ending(job.id), Completed)
    assert not site.redis.exists(job.key, f"rq:results:{job.id}", "rq:finished:chat")


def test_results_live_as_long_as_the_settings_or_the_worker_say(site):
    by_settings = site.enqueue()
    site.make(settings=site.settings(result_ttl=1234)).work(burst=True)
    by_worker = site.enqueue()
    site.make(settings=site.settings(result_ttl=1234), default_result_ttl=4321).work(burst=True)
    assert 1200 < site.redis.ttl(by_settings.key) <= 1234
    assert 4300 < site.redis.ttl(by_worker.key) <= 4321
    assert 1200 < site.redis.ttl(keys.log(by_settings.id)) <= 1234


def test_a_failed_job_lives_as_long_as_the_settings_say(site):
    job = site.enqueue(script={"error": "not_found"})
    site.work(settings=site.settings(failure_ttl=1234))
    assert 1200 < site.redis.ttl(job.key) <= 1234
    assert 1200 < site.redis.ttl(f"rq:results:{job.id}") <= 1234


SCRIPTS = [
    {"words": 3},
    {"words": 5, "fail_after": 2, "error": "quota_exhausted"},
    {"words": 5, "fail_after": 2, "error": "rate_limited", "fail_attempts": 1},
    {"error": "crash"},
]


@pytest.mark.parametrize("worker_class", ["rq.Worker", "rq.SimpleWorker"])
def test_stock_workers_write_the_same_events(site, monkeypatch, worker_class):
    monkeypatch.setenv("DELTABUS_RETRY_DELAY", "0.01")
    ours = [site.enqueue(script=script) for script in SCRIPTS]
    site.work(settings=site.settings(retry_delay=0.01))
    theirs = [site.enqueue(script=script) for script in SCRIPTS]
    if worker_class == "rq.Worker":
        with site.process("worker", "--worker-class", worker_class, "--serializer", "json", "--burst", "chat") as rq:
            assert rq.end() == 0
    else:
        site.work_simply()
    assert [told(site, job) for job in theirs] == [told(site, job) for job in ours]
    statuses = [[site.fetch(job).get_status().value for job in jobs] for jobs in (theirs, ours)]
    assert statuses == [["finished", "failed", "finished", "failed"]] * 2
    for job in theirs:
        assert site.ending(job.id).execution == site.fetch(job).latest_result().execution_id is not None
    assert site.leftovers() == set()


def told(site, job):
    """A task's events, with all deltas as one and without what differs from run to run."""
    story = []
    for event in site.log(job.id):
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        for name in ("task", "at", "worker", "execution", "id", "delay"):
            fields.pop(name, None)
        story.append((type(event).__name__, fields))
    chunks = [chunk for kind, fields in story if kind == "Delta" for chunk in fields["chunks"]]
    return str([entry for entry in story if entry[0] != "Delta"] + chunks).replace(job.id, "…")
