"""The worker as operators start it: `rq worker -w deltabus.worker.AsyncWorker`, with signals, options and output."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.command import send_stop_job_command

from deltabus.embedded import EmbeddedRedis
from deltabus.events import Cancelled, Completed
from deltabus.testing import Reply, ScriptedServer, Signal
from deltabus.worker import AsyncWorker

ASYNC = ("worker", "--worker-class", "deltabus.worker.AsyncWorker")

#: What nobody may see, and a word of what the echo provider says where it is asked for words.
PROMPT = "the quick brown prompt jumps"
ANSWER = "nobody boards this bus"

LONG = {"words": 10_000, "interval": 0.02}


def test_all_that_a_worker_prints_is_what_happened_and_never_what_was_said(site):
    with site.process(*ASYNC, "--serializer", "json", "chat", "file", fresh=True) as worker:
        worker.wait_for("worker started")
        tasks = {
            "finished": site.enqueue(script={"text": ANSWER}),
            "file": site.enqueue("file", script={"text": ANSWER}),
            "failed": site.enqueue(script={"text": ANSWER, "fail_after": 2, "error": "authentication"}),
            "crashed": site.enqueue("file", script={"text": ANSWER, "fail_after": 2, "error": "crash"}),
            "refused": site.queue().enqueue("os.system", site.request()),
            "pickled": Queue("chat", connection=site.redis).enqueue("deltabus.tasks.chat", site.request()),
            "malformed": site.queue().enqueue("deltabus.tasks.chat", {"request": {"messages": [PROMPT]}}),
        }
        stopped = site.enqueue(script=LONG)
        endings = {name: site.ending(job.id) for name, job in tasks.items()}
        site.streams(stopped.id)
        title = Path(f"/proc/{worker.process.pid}/cmdline")
        if title.exists():
            assert PROMPT.encode() not in title.read_bytes()
        send_stop_job_command(site.redis, stopped.id, serializer="json")
        assert isinstance(site.ending(stopped.id), Cancelled)
        assert site.booked(stopped)
        for job in tasks.values():
            assert site.booked(job)
        assert " chat, file. jobs: 2 finished, 6 failed" in site.rq("info", "--raw")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0
        output = worker.said
    assert {name for name, ending in endings.items() if isinstance(ending, Completed)} == {"finished", "file"}
    assert "RuntimeError: (log_level = debug shows the words)" in output  # the one traceback
    assert output.count("Traceback") == 1
    failures = [site.fetch(task).latest_result().exc_string for task in (stopped, *tasks.values())]
    said = output + "".join(failure for failure in failures if failure)
    for words in (PROMPT, PROMPT[:15], ANSWER, ANSWER[:10]):
        assert words not in said
    assert site.leftovers() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_runs_finish_and_takes_no_more(site, number):
    gate = Signal()
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hi"}}]}
    end = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    with ScriptedServer() as provider:
        provider.script(Reply.sse(chunk, gate, end))
        environ = {"DELTABUS_CONCURRENCY": "1", "OPENAI_BASE_URL": f"{provider.url}/v1", "OPENAI_API_KEY": "none"}
        # Without a serializer, RQ's command names its own default: pickle.
        with site.process(*ASYNC, "chat", **environ) as worker:
            envelope = {"provider": "openai", "request": {**site.request()["request"], "model": "m"}}
            running = site.queue().enqueue("deltabus.tasks.chat", envelope)
            waiting = site.enqueue()
            site.streams(running.id)
            worker.process.send_signal(number)
            worker.wait_for("draining")
            gate.set()
            assert isinstance(site.ending(running.id), Completed)
            assert worker.end() == 0
    assert site.booked(running)
    assert site.queue().get_job_ids() == [waiting.id]
    assert site.leftovers() == {"rq:queue:chat"}


def test_a_worker_that_may_not_wait_hands_back_and_another_begins_the_next_attempt(site):
    with site.process(*ASYNC, "chat", DELTABUS_CONCURRENCY="1", DELTABUS_DRAIN_TIMEOUT="0") as worker:
        running = site.enqueue(script={"words": 3, "stall_after": 1, "fail_attempts": 1})
        waiting = site.enqueue()
        site.streams(running.id)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0
    assert site.queue().get_job_ids() == [running.id, waiting.id]
    site.work()
    assert site.story(running.id) == ["started", "delta", "retrying", "started", "delta", "completed"]


def test_rqs_switch_suspends_and_resumes_the_worker(site):
    with site.process(*ASYNC, "chat") as worker:
        worker.wait_for("worker started")
        site.rq("suspend")
        job = site.enqueue()
        site.until(lambda: b"suspended" in [site.redis.hget(key, "state") for key in site.redis.smembers("rq:workers")])
        assert site.log(job.id) == []
        site.rq("resume")
        assert isinstance(site.ending(job.id), Completed)


def test_the_scheduler_runs_beside_the_worker_and_ends_with_it(site):
    with site.process(*ASYNC, "--with-scheduler", "chat") as worker:
        site.until(lambda: site.redis.exists("rq:scheduler-lock:chat"))
        job = site.queue().enqueue_in(timedelta(seconds=1), "deltabus.tasks.chat", site.request())
        assert isinstance(site.ending(job.id), Completed)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0  # nobody else holds the pipe any more
    assert not site.redis.exists("rq:scheduler-lock:chat")


def test_rqs_worker_pool_runs_it(site):
    jobs = [site.enqueue(script={"words": 5, "interval": 0.01}) for _ in range(6)]
    pool = ("worker-pool", *ASYNC[1:], "--serializer", "json", "--num-workers", "2", "--burst", "chat")
    with site.process(*pool) as workers:
        for job in jobs:
            assert isinstance(site.ending(job.id), Completed)
        assert workers.end() == 0
    assert site.leftovers() == set()


UNDER_A_PREFIX = """
import sys
from redis import Redis
from rq import Queue
from deltabus.worker import AsyncWorker
redis = Redis.from_url(sys.argv[1])
Queue("chat", connection=redis, serializer="json").enqueue(
    "deltabus.tasks.chat", {"request": {"messages": [{"role": "user", "content": "hello"}]}}, job_id="j"
)
AsyncWorker(["chat"], connection=redis).work(burst=True)
"""


def test_rqs_key_prefix_is_kept_to(site, monkeypatch):
    monkeypatch.setenv("RQ_KEY_PREFIX", "acme")
    subprocess.run([sys.executable, "-c", UNDER_A_PREFIX, site.url], check=True, capture_output=True)
    assert isinstance(site.ending("j"), Completed)
    assert site.redis.hget("acme:job:j", "status") == b"finished"
    assert site.redis.zscore("acme:finished:chat", "j")
    assert site.redis.keys("rq:*") == []


@pytest.mark.parametrize("kind", ["socket", "password", "database"])
def test_a_worker_reaches_redis_as_its_producer_does(site, kind):
    arguments = ("--requirepass", "a b:c") if kind == "password" else ()
    with EmbeddedRedis(unix_socket=kind == "socket", args=arguments) as server:
        url = server.url.replace("/0", "/3") if kind == "database" else server.url
        with redis.Redis.from_url(url) as connection:
            queue = Queue("chat", connection=connection, serializer="json")
            job = queue.enqueue("deltabus.tasks.chat", site.request("hello"))
            AsyncWorker([queue], connection=connection).work(burst=True)
            assert job.return_value()["choices"][0]["message"]["content"] == "hello"


def test_rqs_lines_keep_to_the_level_of_ours(site, capsys):
    for level, said in {"error": False, "info": True}.items():
        AsyncWorker(["chat"], connection=site.redis, settings=site.settings(log_level=level)).work(burst=True)
        assert ("cleaning registries" in capsys.readouterr().err) is said
