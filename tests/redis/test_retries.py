"""What is tried again, how soon, and what subscribers see of it: a worker, and a provider on a real socket."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any

import pytest
from rq.job import JobStatus
from rq.scheduler import RQScheduler

from deltabus import errors
from deltabus.errors import TaskError
from deltabus.events import Completed, Failed, Retrying
from deltabus.jobs import FAILURES_FIELD
from deltabus.settings import Settings, load
from deltabus.telemetry import Observer, Watch
from deltabus.testing import Action, Reply, Request, ScriptedServer
from deltabus.worker import AsyncWorker

CHAT = "deltabus.tasks.chat"

#: Retries that the settings of these tests allow.
MAX = 2


def says(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


HELLO = Reply.sse(says("Hel"), says("lo", "stop"))


def refuses(status: int, code: str | None = None, **headers: str) -> Reply:
    error = {"error": {"message": "no", "type": code, "code": code, "param": None}}
    return Reply.json(error, status, {name.replace("_", "-"): value for name, value in headers.items()})


def breaks(**error: Any) -> Reply:
    """Says something, and then that it has failed, on HTTP 200."""
    return Reply.sse(says("Hel"), {"error": {"message": "no", **error}})


@dataclass(frozen=True)
class Case:
    reply: Reply
    code: str
    is_tried_again: bool


def again(reply: Reply, code: str) -> Case:
    return Case(reply, code, is_tried_again=True)


def once(reply: Reply, code: str) -> Case:
    return Case(reply, code, is_tried_again=False)


#: What a provider may do, and what becomes of it.
CASES = {
    "400": once(refuses(400), "invalid_request"),
    "400, the context is too long": once(refuses(400, "context_length_exceeded"), "invalid_request"),
    "400, but try again": again(refuses(400, x_should_retry="true"), "invalid_request"),
    "401": once(refuses(401), "authentication"),
    "402": once(refuses(402), "quota_exhausted"),
    "403": once(refuses(403), "permission"),
    "404": once(refuses(404), "not_found"),
    "408": again(refuses(408), "provider_timeout"),
    "409": again(refuses(409), "provider_unavailable"),
    "413": once(refuses(413), "payload_too_large"),
    "422": once(refuses(422), "invalid_request"),
    "429": again(refuses(429, "rate_limit_exceeded", retry_after="0"), "rate_limited"),
    "429, and do not try again": once(refuses(429, x_should_retry="false"), "rate_limited"),
    "429, no credit": once(refuses(429, "insufficient_quota"), "quota_exhausted"),
    "429, no credit, but try again": once(refuses(429, "insufficient_quota", x_should_retry="true"), "quota_exhausted"),
    "500": again(refuses(500), "provider_unavailable"),
    "501": once(refuses(501), "unsupported"),
    "502": again(Reply(status=502, body=[b"<h1>Bad Gateway</h1>"]), "provider_unavailable"),
    "503": again(refuses(503), "provider_unavailable"),
    "503, and do not try again": once(refuses(503, x_should_retry="false"), "provider_unavailable"),
    "529": again(refuses(529, "overloaded_error"), "provider_unavailable"),
    "a redirect": once(Reply(status=301, headers={"Location": "http://elsewhere/"}), "provider_protocol"),
    "an error that came as 200": again(Reply.json({"error": {"message": "no", "code": 503}}), "provider_unavailable"),
    "no credit, as 200": once(
        Reply.json({"error": {"message": "no", "code": "insufficient_quota"}}), "quota_exhausted"
    ),
    "no HTTP": again(Reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "provider_protocol"),
    "no JSON": again(Reply(headers={"Content-Type": "application/json"}, body=[b"{nonsense"]), "stream_truncated"),
    "a page": again(Reply(headers={"Content-Type": "text/html"}, body=[b"<h1>Welcome</h1>"]), "provider_protocol"),
    "a reset before the answer": again(Reply.raw(Action.ABORT), "provider_unavailable"),
    "a reset in the stream": again(Reply.sse(says("Hel"), Action.ABORT, done=False), "stream_truncated"),
    "a stream that is cut": again(Reply.sse(says("Hel"), Action.CLOSE, done=False), "stream_truncated"),
    "a stream that just ends": again(Reply.sse(says("Hel"), done=False), "stream_truncated"),
    "half an event": again(Reply.sse(says("Hel"), b'data: {"choi', done=False), "stream_truncated"),
    "only [DONE]": again(Reply.sse(), "provider_protocol"),
    "garbage in the stream": again(Reply.sse(says("Hel"), b"data: {nonsense}\n\n"), "provider_protocol"),
    "429 in the stream": again(breaks(code=429), "rate_limited"),
    "an overload in the stream": again(breaks(type="server_error"), "provider_unavailable"),
    "no credit in the stream": once(breaks(code="insufficient_quota"), "quota_exhausted"),
    "a bad request in the stream": once(breaks(code=400), "invalid_request"),
    "out of resources": again(Reply.sse(says("Hel", "insufficient_system_resource")), "provider_unavailable"),
    "silence": again(Reply.raw(Action.HANG), "provider_timeout"),
    "silence after the head": again(Reply(body=[Action.HANG]), "provider_timeout"),
    "silence in the stream": again(Reply.sse(says("Hel"), Action.HANG, done=False), "provider_timeout"),
}

#: What comes from the bus itself, and what a job has to look like for it.
OURS: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
    "unknown_provider": lambda: (CHAT, asks("hi", provider="nobody")),
    "unknown_task": lambda: ("os.system", {"request": {}}),
    "deadline_exceeded": lambda: (CHAT, asks("hi", deadline=time.time() - 1)),
    "internal": lambda: (CHAT, {"request": {**asks("hi")["request"], "model": "echo", "echo": {"error": "crash"}}}),
}


def asks(text: str, *, stream: bool = True, **options: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"request": {"messages": [message], "model": "m", "stream": stream}, **options}


@pytest.fixture
def provider() -> Iterator[ScriptedServer]:
    """It answers as the message asks for, or as it is scripted."""

    def answer(request: Request) -> Reply:
        return CASES[wanted(request)].reply

    with ScriptedServer(default=answer) as server:
        yield server


def wanted(request: Request) -> str:
    return str(request.json()["messages"][0]["content"])


@pytest.fixture
def settings(provider, tmp_path):
    (tmp_path / "deltabus.toml").write_text(f"""
        [providers.echo]
        models = ["echo"]
        [providers.scripted]
        plugin = "openai"
        base_url = "{provider.url}/v1"
        api_key = "none"
        [providers.hasty]
        plugin = "openai"
        base_url = "{provider.url}/v1"
        api_key = "none"
        timeouts = {{ first_byte = 0.3, between_bytes = 0.3 }}
    """)
    loaded = load(tmp_path / "deltabus.toml", environ={})

    def make(**overrides: Any) -> Settings:
        quick = {"drain_timeout": 0.0, "max_retries": MAX, "retry_delay": 0.001, "park_after": 100.0}
        return replace(loaded, **{**quick, **overrides})

    return make


def enqueue(site, envelope: dict[str, Any], function: str = CHAT) -> Any:
    return site.queue().enqueue(function, envelope)


def partial(failed: Failed) -> str:
    return str(failed.partial["choices"][0]["message"]["content"])


# What is tried again


def test_every_failure_has_its_code_and_is_tried_again_or_not(site, provider, settings, monkeypatch):
    tries: Counter[str] = Counter()

    class Tries(Observer):
        def calling(self, watch: Watch) -> None:
            tries[watch.task] += 1

    monkeypatch.setattr(AsyncWorker, "observers", lambda _: [Tries()])
    with site.worker(settings=settings()):
        # For one that is not silent, that a machine is slow must not be the reason of the failure.
        hasty = {name for name in CASES if name.startswith("silence")}
        jobs = {name: enqueue(site, asks(name, provider="hasty" if name in hasty else "scripted")) for name in CASES}
        failures = {name: site.ending(job.id) for name, job in jobs.items()}
    asked = Counter(map(wanted, provider.requests))
    # Who has little patience with a slow machine may be gone before the provider has heard of him.
    calls = {name: tries[job.id] if name in hasty else asked[name] for name, job in jobs.items()}
    found = {name: (end.error.code, end.error.retryable, calls[name]) for name, end in failures.items()}
    assert found == {
        name: (case.code, case.is_tried_again, 1 + MAX if case.is_tried_again else 1) for name, case in CASES.items()
    }


def test_what_the_bus_itself_refuses_is_not_tried_again(site, provider, settings):
    with site.worker(settings=settings()):
        for code, make in OURS.items():
            function, envelope = make()
            job = enqueue(site, envelope, function)
            failed = site.ending(job.id)
            assert failed.error.code == code
            assert not failed.error.retryable
            assert site.types(job.id).count("retrying") == 0
    assert provider.requests == []


def test_no_code_is_left_out():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TaskError)]
    # It takes a worker that dies: see tests/faults/test_pains.py.
    assert {kind.code for kind in kinds} == {case.code for case in CASES.values()} | {*OURS, "worker_lost"}


# How soon


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "1500", "retry_after": "7"}, 1.5),
        ({"retry_after": "in a while", "retry_after_ms": "250"}, 0.25),
    ],
)
def test_the_provider_is_given_the_time_that_it_asks_for(site, provider, settings, headers, seconds):
    provider.script(refuses(429, **headers))
    with site.worker(settings=settings(park_after=0.1)):
        job = enqueue(site, asks("429"))
        assert site.reaches(job.id, lambda event: isinstance(event, Retrying)).delay == seconds


def test_the_time_may_be_a_date(site, provider, settings):
    provider.script(refuses(503, retry_after=formatdate(time.time() + 600, usegmt=True)))
    with site.worker(settings=settings(park_after=1.0)):
        job = enqueue(site, asks("503"))
        assert 500 < site.reaches(job.id, lambda event: isinstance(event, Retrying)).delay <= 600


def test_a_provider_that_asks_for_more_than_an_hour_means_not_today(site, provider, settings):
    provider.script(refuses(429, retry_after="86400"))
    with site.worker(settings=settings()):
        assert site.ending(enqueue(site, asks("429")).id).error.code == "rate_limited"
    assert len(provider.requests) == 1


# How often


@pytest.mark.parametrize(("own", "calls"), [({}, 1 + MAX), ({"max": 0}, 1), ({"max": 5}, 6)])
def test_a_task_may_say_how_often(site, provider, settings, own, calls):
    with site.worker(settings=settings()):
        assert site.ending(enqueue(site, asks("500", retry=own)).id).error.code == "provider_unavailable"
    assert len(provider.requests) == calls


# What subscribers see


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_failures_before_the_first_delta_are_nobodys_business(site, provider, settings, stream):
    provider.script(refuses(429), Reply.raw(Action.ABORT), HELLO)
    with site.worker(settings=settings(after_delta="fail")):
        job = enqueue(site, asks("500", stream=stream))
        assert site.ending(job.id).result["choices"][0]["message"]["content"] == "Hello"
    assert site.story(job.id) == ["started", "delta", "completed"]
    assert len(provider.requests) == 3


def test_after_it_the_task_restarts_and_subscribers_are_told_to_discard(site, provider, settings):
    provider.script(Reply.sse(says("Help"), done=False), HELLO)
    with site.worker(settings=settings()):
        job = enqueue(site, asks("500"))
        assert site.ending(job.id).result["choices"][0]["message"]["content"] == "Hello"
    assert site.story(job.id) == ["started", "delta", "retrying", "started", "delta", "completed"]
    (retrying,) = [event for event in site.log(job.id) if isinstance(event, Retrying)]
    assert retrying.error.code == retrying.reason == "stream_truncated"


@pytest.mark.parametrize("whose", ["the settings'", "the task's own"])
def test_or_it_fails_and_keeps_the_part(site, provider, settings, whose):
    provider.script(refuses(429), Reply.sse(says("Hel"), says("p"), done=False))
    own = {"retry": {"after_delta": "fail"}} if whose == "the task's own" else {}
    with site.worker(settings=settings(after_delta="restart" if own else "fail")):
        job = enqueue(site, asks("500", **own))
        failed = site.ending(job.id)
    assert failed.error.code == "stream_truncated"
    assert partial(failed) == "Help"
    assert site.story(job.id) == ["started", "delta", "failed"]
    assert len(provider.requests) == 2


def test_what_is_left_when_all_tries_have_failed_is_the_last_part(site, provider, settings):
    for text in ("one", "two", "three"):
        provider.script(Reply.sse(says(text), done=False))
    with site.worker(settings=settings()):
        assert partial(site.ending(enqueue(site, asks("500")).id)) == "three"


# Long waits


def test_a_long_wait_takes_no_slot_and_whoever_comes_first_goes_on(site, provider, settings):
    provider.script(refuses(429, retry_after="60"), HELLO, HELLO)
    one_at_a_time = settings(concurrency=1, park_after=1.0)
    with site.worker(settings=one_at_a_time):
        parked = enqueue(site, asks("429"))
        site.until(lambda: parked.id in site.queue().scheduled_job_registry)
        before = time.time()
        other = enqueue(site, asks("500"))
        assert isinstance(site.ending(other.id), Completed)
        assert site.booked(other)
        assert site.fetch(parked).get_status() is JobStatus.SCHEDULED
        assert 50 < site.redis.zscore("rq:scheduled:chat", parked.id) - before <= 61
        assert site.leftovers() == set()
    site.redis.zadd("rq:scheduled:chat", {parked.id: 1})
    with site.worker(settings=one_at_a_time):
        assert isinstance(site.ending(parked.id), Completed)
    assert site.story(parked.id) == ["started", "retrying", "started", "delta", "completed"]


def test_rqs_own_scheduler_releases_it_too(site, provider, settings):
    provider.script(refuses(429, retry_after="60"), HELLO)
    with site.worker(settings=settings(park_after=1.0)):
        job = enqueue(site, asks("429"))
        site.until(lambda: job.id in site.queue().scheduled_job_registry)
    site.redis.zadd("rq:scheduled:chat", {job.id: 1})
    scheduler = RQScheduler([site.queue()], connection=site.redis, serializer="json")
    scheduler.acquire_locks()
    scheduler.enqueue_scheduled_jobs()
    scheduler.release_locks()
    assert site.queue().get_job_ids() == [job.id]
    with site.worker(settings=settings()):
        assert isinstance(site.ending(job.id), Completed)
    assert site.log(job.id)[-2].attempt == 2


def test_failures_are_counted_across_long_waits(site, provider, settings):
    provider.script(*[refuses(429, retry_after="60")] * (MAX + 1))
    job = enqueue(site, asks("429"))
    for failures in range(1, MAX + 1):
        with site.worker(settings=settings(park_after=1.0)):
            site.until(lambda: site.redis.hget(job.key, FAILURES_FIELD) == b"%d" % failures)  # noqa: B023 # in this turn
        assert job.id in site.queue().scheduled_job_registry
        site.redis.zadd("rq:scheduled:chat", {job.id: 1})
    with site.worker(settings=settings(park_after=1.0)):
        assert site.ending(job.id).error.code == "rate_limited"
    assert len(provider.requests) == 1 + MAX
    assert site.redis.hget(job.key, FAILURES_FIELD) is None


@pytest.mark.parametrize("park_after", [1.0, 100.0], ids=["parked", "in its slot"])
def test_nobody_waits_beyond_the_deadline(site, provider, settings, park_after):
    provider.script(refuses(429, retry_after="60"))
    with site.worker(settings=settings(park_after=park_after)):
        job = enqueue(site, asks("429", deadline=time.time() + 30))
        assert site.ending(job.id).error.code == "rate_limited"
    assert site.story(job.id) == ["started", "failed"]
    assert len(provider.requests) == 1


def test_a_task_whose_deadline_passes_while_it_is_parked_is_settled_without_a_call(site, provider, settings):
    provider.script(refuses(429, retry_after="60"))
    with site.worker(settings=settings(park_after=1.0)):
        job = enqueue(site, asks("429", deadline=time.time() + 600))
        site.until(lambda: job.id in site.queue().scheduled_job_registry)
    # Instead of waiting for its turn and the deadline.
    site.redis.zadd("rq:scheduled:chat", {job.id: 1})
    site.redis.hset(job.key, "data", json.dumps([CHAT, None, [asks("429", deadline=time.time() - 1)], {}]))
    with site.worker(settings=settings()):
        assert site.ending(job.id).error.code == "deadline_exceeded"
    assert len(provider.requests) == 1
