"""Dead letters: what has failed is found, shown and deleted, whatever made it fail, and however many there are."""

from __future__ import annotations

import collections
import itertools
import json
import statistics

import pytest
from deadletters import CHAT, FAILS, FAILS_ONCE, PROMPT, everything, fake, one
from rq import Callback, Queue
from rq.job import JobStatus

from deltabus import Bus, keys
from deltabus.cli import exits
from deltabus.dead import PAGE, DeadLetters, Filter
from deltabus.errors import BusError
from deltabus.events import Completed, Failed
from deltabus.failure import FAILURE_FIELD


def test_a_dead_letter_says_what_rq_alone_does_not_remember(site, letters):
    script = {"words": 3, "fail_after": 2, "error": "rate_limited"}
    request = site.request(**script)
    job = site.queue().enqueue(CHAT, {**request, "retry": {"max": 1, "after_delta": "restart"}, "reply_to": "r"})
    site.work(settings=site.settings(retry_delay=0.001))
    assert isinstance(site.ending(job.id), Failed)
    site.redis.delete(keys.log(job.id))  # it lives for an hour, the job for a week
    letter = one(letters)
    assert (letter.task, letter.queue, letter.function) == (job.id, "chat", CHAT)
    assert (letter.code, letter.status, letter.provider, letter.attempts) == ("rate_limited", 429, "echo", 2)
    assert letter.partial_bytes > 50
    assert letter.worker
    assert abs(letter.failed_at - site.fetch(job).ended_at.timestamp()) < 0.001
    assert letter.reply_to == "r"
    with Bus(site.url) as bus:
        (ending,) = bus.task(job.id).events()
    assert (ending.error.status, ending.error.provider) == (429, "echo")


@pytest.mark.parametrize("worker", ["ours", "RQ's", "ours, with a callback"])
def test_every_kind_of_worker_leaves_a_code(site, letters, install, worker):
    options = {}
    if worker == "ours, with a callback":
        install("hooks", "def failed(*_): pass\n", callbacks={"failed": "hooks:failed"})
        options = {"on_failure": Callback("hooks.failed")}
    job = site.enqueue(script=FAILS, **options)
    (site.work_simply if worker == "RQ's" else site.work)()
    letter = one(letters)
    assert (letter.task, letter.code, letter.function) == (job.id, "not_found", CHAT)
    assert letter.attempts == (None if worker == "RQ's" else 1)
    assert letters.show(letter).status == 404
    assert letters.show(letter).attempts == 1


def test_a_note_of_an_earlier_round_is_not_believed(site, letters):
    job = site.enqueue(script=FAILS)
    site.work()
    site.rq("requeue", "--queue", "chat", job.id, "--serializer", "json")
    site.redis.hset(job.key, "data", b"nothing that can be read")
    site.redis.hset(job.key, "enqueued_at", "2999-01-01T00:00:00.000000Z")
    site.work_simply()
    assert site.redis.hexists(job.key, FAILURE_FIELD)
    assert one(letters).code != "not_found"


def test_prompt_and_answer_are_shown_on_request_only(site, deltabus):
    job = site.enqueue(script={"fail_after": 2})
    site.enqueue(script=FAILS)
    site.work(settings=site.settings(max_retries=0))
    for words in (["list"], ["list", "--json"], ["show", job.id], ["show", job.id, "--json"]):
        said = "".join(deltabus(*words))
        assert job.id in said
        assert "provider_unavailable" in said
        assert "quick" not in said
    shown = json.loads("".join(deltabus("show", job.id, "--json", "--payload")))
    assert shown["payload"]["request"]["messages"][0]["content"] == PROMPT
    assert shown["partial"]["choices"][0]["message"]["content"] == "the quick"


def test_the_newest_are_listed_first_and_no_more_than_asked_for(site, deltabus):
    fake(site, 3 * PAGE)
    lines = deltabus("list", "--limit", "120", says="of 300 failed tasks in all")
    assert [line.split()[3] for line in lines] == [f"chat-{number:06}" for number in range(299, 179, -1)]
    assert len(deltabus("list", "--limit", "0", "--json")) == 300
    assert deltabus("list", "--older-than", "400000d", says="no such failed task") == []


def test_filters_choose(site, letters):
    fails = {code: site.enqueue(script={"error": code}).id for code in ("not_found", "permission")}
    other = site.enqueue("other", script=FAILS).id
    site.work("chat", "other")
    assert {letter.task for letter in everything(letters)} == {*fails.values(), other}
    assert [letter.task for letter in everything(letters, codes=frozenset({"permission"}))] == [fails["permission"]]
    assert [letter.task for letter in everything(DeadLetters(site.redis, "rq", ["other"]))] == [other]
    assert len(everything(letters, providers=frozenset({"echo"}))) == 3
    assert everything(letters, providers=frozenset({"openai"})) == []
    assert len(everything(letters, functions=frozenset({CHAT}))) == 3
    assert everything(letters, functions=frozenset({"a.b"})) == []
    assert everything(letters, before=1.0) == []


def test_a_job_of_somebody_else_is_shown_requeued_and_purged(site, letters, deltabus):
    queue = Queue("foreign", connection=site.redis)  # with a pickle in it
    job = queue.enqueue("os.no_such_function", PROMPT)
    with site.redis.pipeline() as pipe:
        queue.failed_job_registry.add(job, exc_string="Traceback…\nValueError: no\n", pipeline=pipe)
        job.set_status(JobStatus.FAILED, pipeline=pipe)
        pipe.execute()
    site.redis.delete("rq:queue:foreign")
    letter = one(letters)
    assert (letter.code, letter.function) == (None, "os.no_such_function")
    assert PROMPT not in "".join(deltabus("show", job.id))
    assert "payload" not in "".join(deltabus("show", job.id, "--payload"))
    deltabus("requeue", job.id)
    assert queue.job_ids == [job.id]
    assert job.get_status() is JobStatus.QUEUED
    assert job.func_name == "os.no_such_function"


def test_broken_entries_can_be_purged_and_stop_nobody(site, letters, deltabus):
    good = site.enqueue(script=FAILS_ONCE)
    site.work()
    site.redis.zadd("rq:failed:chat", {"gone": 4_000_000_000, "odd": 4_000_000_001, "bare": 4_000_000_002})
    site.redis.set("rq:job:odd", "not a hash")
    site.redis.hset("rq:job:bare", mapping={"ended_at": "soon", FAILURE_FIELD: "{", "data": b"\x78\xff"})
    said = "\n".join(deltabus("list"))
    assert "there is no job any more" in said
    assert "no hash" in said
    assert len(deltabus("requeue", "--all", "--json", code=exits.FAILED, says="deltabus dead purge gone")) == 4
    site.work()
    assert isinstance(site.ending(good.id), Completed)
    site.redis.zadd("rq:failed:chat", {"bare": 4_000_000_002})
    assert deltabus("purge", "--all", "--yes") == ["3 purged"]
    assert letters.count() == 0
    assert site.redis.keys("*odd*") == []


@pytest.mark.parametrize("message", [b"{", b"\xff", b'{"type":"started","task":"t","id":"x","at":1}'])
def test_a_log_with_what_is_no_event_is_an_error(site, letters, message):
    job = site.enqueue(script=FAILS)
    site.work()
    letter = one(letters)
    site.redis.delete(keys.log(job.id))
    site.redis.xadd(keys.log(job.id), {"event": message}, id="1-0")
    with pytest.raises(BusError, match="no event of protocol version 1"):
        letters.show(letter)


def test_an_entry_that_has_run_out_is_not_shown(site, letters):
    fake(site, 2)
    site.redis.zadd("rq:failed:chat", {"chat-000000": 1})
    assert [letter.task for letter in everything(letters)] == ["chat-000001"]


def test_another_prefix_of_rqs_keys(site):
    site.redis.sadd("their:queues", "their:queue:chat")
    site.redis.hset(
        "their:job:a", mapping={"status": "failed", "origin": "chat", "data": f'["{CHAT}", null, [], {{}}]'}
    )
    site.redis.zadd("their:failed:chat", {"a": 4_000_000_000})
    theirs = DeadLetters(site.redis, "their")
    letter = one(theirs)
    assert (letter.task, letter.function) == ("a", CHAT)
    assert theirs.requeue([letter]) == ["requeued"]
    assert site.redis.lrange("their:queue:chat", 0, -1) == [b"a"]
    assert not [key for key in site.redis.keys("*") if key.startswith(b"rq:")]


def test_a_purged_task_leaves_nothing(site, letters):
    job = site.enqueue(script=FAILS)
    site.work()
    assert letters.purge([one(letters)]) == ["purged"]
    assert [key for key in site.redis.keys("*") if job.id.encode() in key] == []


def test_scripts_must_say_yes_and_mistakes_are_one_line(site, deltabus):
    fake(site, 3)
    deltabus("purge", "--all", code=exits.USAGE, says="--yes")
    deltabus("purge", code=exits.USAGE, says="nothing is chosen")
    deltabus("requeue", "--queue", "chat", code=exits.USAGE, says="nothing is chosen")
    deltabus("requeue", "x", "--all", code=exits.USAGE, says="not both")
    deltabus("list", "--older-than", "soon", code=exits.USAGE, says="90s, 30m, 12h or 7d")
    assert deltabus("purge", "chat-000000") == ["1 purged"]
    assert deltabus("purge", "--older-than", "1d", "--limit", "1", "--yes") == ["1 purged"]
    assert deltabus("purge", "--all", "--queue", "other", "--yes") == ["0 purged"]
    assert json.loads(deltabus("purge", "--code", "unsupported", "--all", "--yes", "--json") or "null") is None


def test_all_are_met_once_page_by_page(site, letters):
    fake(site, 10 * PAGE + 7)
    met = [letter.task for page in letters.walk(Filter()) if len(page) <= PAGE for letter in page]
    assert met == sorted(set(met))
    assert len(met) == letters.count() == 10 * PAGE + 7


FULL = """
for number = 1, ARGV[1] do
    redis.call("RPUSH", "rq:queue:chat", "waiting-" .. number)
end
"""


def test_among_a_hundred_thousand_the_steps_are_short(site, letters):
    fake(site, 100_000)
    site.redis.eval(FULL, 0, 100_000)
    site.redis.config_set("slowlog-max-len", 100_000)
    site.redis.config_set("slowlog-log-slower-than", 0)
    try:
        site.redis.slowlog_reset()
        site.redis.zrange("rq:failed:chat", 0, -1)
        (whole,) = [entry["duration"] for entry in site.redis.slowlog_get(10) if b"ZRANGE" in entry["command"]]
        for page in itertools.islice(letters.walk(Filter()), 20):
            assert set(letters.requeue(page)) == {"requeued"}
        for _ in itertools.islice(letters.walk(Filter(), newest_first=True), 20):
            pass
        steps = collections.defaultdict(list)
        for entry in site.redis.slowlog_get(100_000):
            steps[b" ".join(entry["command"].split()[:2])].append(entry["duration"])
    finally:
        site.redis.config_set("slowlog-log-slower-than", 10_000)
        site.redis.config_set("slowlog-max-len", 128)
    # A busy machine may hold up any one of them; what goes through all there is does so each time.
    pages = {name: times for name, times in steps.items() if 20 <= len(times) <= 10 * PAGE}
    tasks = {name: times for name, times in steps.items() if len(times) > 10 * PAGE}
    assert pages
    assert tasks
    assert {name: times for name, times in pages.items() if statistics.median(times) > whole / 4} == {}
    assert {name: times for name, times in tasks.items() if statistics.median(times) > whole / 50} == {}
    assert letters.count() == 100_000 - 20 * PAGE
    assert site.redis.llen("rq:queue:chat") == 100_000 + 20 * PAGE
