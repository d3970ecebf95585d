"""Deadlines and sizes: what is over one ends in one clear error, without needless calls, and hurts nobody else."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from faults import Scene
from processes import PATIENCE, Background
from redis import Redis
from rq import Queue
from rq.job import Job
from scripted import HELLO, limited, says, speaks_to, text

from deltabus import Task
from deltabus.events import Delta, Failed, Started
from deltabus.testing import Action, Reply, ScriptedServer

CHAT = "deltabus.tasks.chat"

#: Seconds that are long enough to get there, on a machine that is at something else too, and short enough to wait for.
SOON = 3

#: A task function that streams what it is asked to, and returns what it is asked to.
ODD = """
from deltabus.tasks import task
from deltabus.errors import NotFound
from deltabus.events import Progress

@task
async def stream(context):
    request = context.envelope.request
    for number in range(request["count"]):
        await context.attempt.write(b'{"filler": "%s"}' % (b"x" * 1000))
        await context.attempt.emit(Progress(task=context.task, at=1.0, done=number))
    return {"count": request["count"]}

@task
async def progress(context):
    for number in range(2000):
        await context.attempt.emit(Progress(task=context.task, at=1.0, done=number))
    return "done"

@task
async def partly(context):
    context.partial = lambda: object()
    raise NotFound("nothing is there")

@task
async def give(context):
    return object() if context.envelope.request["what"] == "no JSON" else "x" * 50_000
"""


@contextlib.contextmanager
def worker(scene: Scene, provider: ScriptedServer, **settings: str) -> Iterator[Background]:
    with scene.worker(**{**speaks_to(provider), **settings}) as process:
        yield process


@pytest.fixture
def odd(tmp_path: Path) -> Mapping[str, str]:
    """Settings of a worker that has further task functions."""
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    names = ("stream", "progress", "partly", "give")
    (info / "entry_points.txt").write_text("[deltabus.tasks]\n" + "".join(f"{n} = odd:{n}\n" for n in names))
    (tmp_path / "odd.py").write_text(ODD)
    return {"PYTHONPATH": str(tmp_path)}


def ask(scene: Scene, **options: Any) -> Task:
    return scene.bus.chat(messages="hi", model="m", **options)


def failed(scene: Scene, task: Task, code: str, *says: str) -> Failed:
    """It ends so, in its log and in RQ's records; `says` are what its message may say."""
    ending = scene.ending(task)
    assert isinstance(ending, Failed)
    assert (ending.error.code, ending.error.retryable) == (code, False)
    assert any(words in ending.error.message for words in says)
    scene.nothing_is_left()
    job = Job.fetch(task.id, connection=scene.redis, serializer="json")
    scene.until(lambda: job.get_status() == "failed", job.get_status)
    result = job.latest_result()
    assert result is not None
    assert f"{code}: {ending.error.message}" in str(result.exc_string)
    assert scene.redis.zscore("rq:failed:chat", task.id) is not None
    return ending


def goes_on(scene: Scene, provider: ScriptedServer) -> None:
    """The worker takes new work."""
    provider.script(HELLO)
    assert text(ask(scene)) == "Hello"
    scene.nothing_is_left()


def until(scene: Scene, at: float) -> None:
    scene.until(lambda: time.time() > at)


# Deadlines


def test_a_task_that_expires_in_its_queue_is_not_sent_to_the_provider(scene: Scene, provider: ScriptedServer) -> None:
    deadline = time.time() + 0.2
    late = [ask(scene, deadline=deadline) for _ in range(3)]
    until(scene, deadline)
    with worker(scene, provider):
        for task in late:
            failed(scene, task, "deadline_exceeded", "before it could begin")
        assert provider.requests == []
        goes_on(scene, provider)


def test_a_task_behind_a_full_worker_ends_when_its_turn_comes(scene: Scene, provider: ScriptedServer) -> None:
    provider.script(Reply.sse(says("Hel"), Action.HANG, done=False))
    with worker(scene, provider, DELTABUS_CONCURRENCY="1"):
        first = ask(scene)
        scene.streams(first)
        deadline = time.time() + 0.2
        behind = ask(scene, deadline=deadline)
        until(scene, deadline)
        assert behind.status().state == "queued"
        assert first.cancel()
        failed(scene, behind, "deadline_exceeded", "before it could begin")
        assert len(provider.requests) == 1
        goes_on(scene, provider)


def test_a_scheduled_task_whose_deadline_comes_first_is_not_sent(scene: Scene, provider: ScriptedServer) -> None:
    queue = Queue("chat", connection=scene.redis, serializer="json")
    deadline = time.time() + 0.2
    envelope = {"request": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}, "deadline": deadline}
    job = queue.enqueue(CHAT, envelope)
    scene.redis.delete("rq:queue:chat")
    scene.redis.hset(job.key, "status", "scheduled")
    scene.redis.zadd("rq:scheduled:chat", {job.id: deadline + 0.2})
    with worker(scene, provider):
        failed(scene, scene.bus.task(job.id), "deadline_exceeded", "before it could begin")
        assert provider.requests == []


def test_a_parked_task_that_nobody_released_in_time_is_not_sent_again(scene: Scene, provider: ScriptedServer) -> None:
    provider.script(limited(retry_after="60"))
    with worker(scene, provider, DELTABUS_PARK_AFTER="0"):
        parked = ask(scene, deadline=time.time() + 600)
        scene.until(lambda: scene.redis.zscore("rq:scheduled:chat", parked.id))
    # Ten minutes later.
    function, instance, (envelope,), options = json.loads(scene.redis.hget(f"rq:job:{parked.id}", "data"))
    envelope["deadline"] -= 601
    data = json.dumps([function, instance, [envelope], options])
    scene.redis.hset(f"rq:job:{parked.id}", "data", data)
    scene.redis.zadd("rq:scheduled:chat", {parked.id: 1})
    with worker(scene, provider):
        failed(scene, parked, "deadline_exceeded", "before it could begin")
        assert len(provider.requests) == 1


def test_no_retry_waits_past_the_deadline(scene: Scene, provider: ScriptedServer) -> None:
    """It fails at once, with what the provider said: nobody gains by waiting."""
    provider.script(limited(retry_after="30"))
    with worker(scene, provider):
        task = ask(scene, deadline=time.time() + 20)
        ending = scene.ending(task)
        assert isinstance(ending, Failed)
        assert (ending.error.code, ending.error.status) == ("rate_limited", 429)
        assert len(provider.requests) == 1
        goes_on(scene, provider)


@pytest.mark.parametrize("limit", ["deadline", "timeout", "job_timeout", "the worker's"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streaming", "silent"])
def test_an_attempt_that_takes_too_long_is_ended_and_its_connection_closed(
    scene: Scene, provider: ScriptedServer, limit: str, streamed: bool
) -> None:
    settings = {"DELTABUS_JOB_TIMEOUT": str(SOON)} if limit == "the worker's" else {}
    with worker(scene, provider, **settings):
        goes_on(scene, provider)  # what the first task of a process loads is no part of the time allowed
        provider.script(Reply.sse(*([says("Hel")] if streamed else []), Action.HANG, done=False))
        envelope: dict[str, Any] = {
            "request": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        }
        if limit == "the worker's":  # of a job that says nothing of it
            job = {"origin": "chat", "status": "queued", "created_at": "2026-01-31T12:00:00.000Z"}
            with Redis.from_url(scene.server.url) as client, client.pipeline() as pipe:
                pipe.hset("rq:job:plain", mapping={**job, "data": json.dumps([CHAT, None, [envelope], {}])})
                pipe.rpush("rq:queue:chat", "plain")
                pipe.execute()
            task = scene.bus.task("plain")
        elif limit == "job_timeout":
            task = scene.bus.enqueue(CHAT, envelope, job_timeout=SOON)
        else:
            value = time.time() + SOON if limit == "deadline" else float(SOON)
            task = scene.bus.enqueue(CHAT, {**envelope, limit: value})
        ending = failed(scene, task, "deadline_exceeded", "the time allowed for this task is over", "deadline passed")
        provider.requests[1].closed.wait(PATIENCE)
        if streamed:
            assert ending.partial["choices"][0]["message"]["content"] == "Hel"
        assert len(provider.requests) == 2
        goes_on(scene, provider)


# Sizes


def test_a_payload_that_is_too_large_never_reaches_the_provider(scene: Scene, provider: ScriptedServer) -> None:
    with worker(scene, provider, DELTABUS_MAX_REQUEST_BYTES="10000"):
        large = ask(scene, metadata={"ballast": "x" * 20_000})
        failed(scene, large, "payload_too_large", "max_request_bytes")
        assert provider.requests == []
        goes_on(scene, provider)


def test_an_answer_that_is_too_large_is_left_while_it_streams(scene: Scene, provider: ScriptedServer) -> None:
    provider.script(Reply.sse(*[says("x" * 1000)] * 50, Action.HANG, done=False), HELLO)
    with worker(scene, provider, DELTABUS_MAX_ANSWER_BYTES="20000"):
        large = ask(scene)
        provider.received(1).wait(PATIENCE)
        small = ask(scene)
        ending = failed(scene, large, "payload_too_large", "max_answer_bytes")
        provider.requests[0].closed.wait(PATIENCE)
        assert len(ending.partial["choices"][0]["message"]["content"]) <= 20_000
        assert text(small) == "Hello"
        goes_on(scene, provider)


def test_an_answer_in_one_piece_that_is_too_large_is_refused(scene: Scene, provider: ScriptedServer) -> None:
    message = {"role": "assistant", "content": "x" * 50_000}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    provider.script(Reply.json(answer))
    with worker(scene, provider, DELTABUS_MAX_ANSWER_BYTES="20000"):
        large = ask(scene, stream=False)
        ending = failed(scene, large, "payload_too_large", "max_answer_bytes")
        assert ending.partial is None
        assert len(provider.requests) == 1
        goes_on(scene, provider)


def test_a_long_answer_is_replayed_from_a_log_that_stays_small(scene: Scene, provider: ScriptedServer) -> None:
    provider.script(Reply.sse(*[says("word ")] * 2000, says("", "stop")))
    with worker(scene, provider, DELTABUS_MAX_LOG_BYTES="20000"):
        long = ask(scene)
        assert text(long) == "word " * 2000
        scene.ending(long)
        goes_on(scene, provider)


def test_a_task_that_streams_without_end_fails_where_nothing_can_stand_for_it(
    scene: Scene, provider: ScriptedServer, odd: Mapping[str, str]
) -> None:
    with worker(scene, provider, DELTABUS_MAX_LOG_BYTES="20000", **odd):
        endless = scene.bus.enqueue("odd.stream", {"request": {"count": 10_000}})
        failed(scene, endless, "payload_too_large", "max_log_bytes")
        assert sum(len(message) for message in endless.messages()) < 40_000
        short = scene.bus.enqueue("odd.stream", {"request": {"count": 5}})
        assert short.result(PATIENCE) == {"count": 5}
        assert sum(isinstance(event, Delta) for event in short.events()) == 5
        goes_on(scene, provider)


def test_how_far_a_task_is_does_not_fill_its_log(
    scene: Scene, provider: ScriptedServer, odd: Mapping[str, str]
) -> None:
    with worker(scene, provider, DELTABUS_MAX_LOG_BYTES="20000", **odd):
        task = scene.bus.enqueue("odd.progress", {"request": {}})
        assert task.result(PATIENCE) == "done"
        assert sum(len(message) for message in task.messages()) < 25_000


@pytest.mark.parametrize(
    ("what", "told"),
    [("too much", ("payload_too_large", "max_answer_bytes")), ("no JSON", ("internal", "cannot be written as JSON"))],
)
def test_a_result_that_cannot_be_logged_hurts_only_its_task(
    scene: Scene, provider: ScriptedServer, odd: Mapping[str, str], what: str, told: tuple[str, str]
) -> None:
    with worker(scene, provider, DELTABUS_MAX_ANSWER_BYTES="20000", **odd):
        task = scene.bus.enqueue("odd.give", {"request": {"what": what}})
        failed(scene, task, *told)
        assert [type(event) for event in task.events()] == [Started, Failed]
        goes_on(scene, provider)


def test_a_part_that_cannot_be_logged_does_not_hide_the_failure(
    scene: Scene, provider: ScriptedServer, odd: Mapping[str, str]
) -> None:
    with worker(scene, provider, **odd):
        ending = failed(scene, scene.bus.enqueue("odd.partly", {"request": {}}), "not_found", "nothing is there")
        assert ending.partial is None
        goes_on(scene, provider)
