"""Payloads that cannot be run: each is a failed job with one clear message, and the worker goes on."""

from __future__ import annotations

import json
import os
import pickle
import tracemalloc
import zlib
from dataclasses import replace

import pytest
from rq import Queue
from rq.job import JobStatus
from rq.results import Result

from deltabus.events import Completed, Failed
from deltabus.settings import ProviderSettings

CHAT = "deltabus.tasks.chat"
SECRET = "the quick brown prompt jumps"
REQUEST = {"messages": [{"role": "user", "content": SECRET}], "stream": True}


@pytest.fixture
def refused(site, capfd):
    """Run what is enqueued; check that this job has failed as it should and that the next one is completed."""

    def refused(job_id, code, param, *words, **settings):
        good = site.enqueue()
        site.work(settings=site.settings(**settings))
        failed = site.ending(job_id)
        assert isinstance(failed, Failed), failed
        assert (failed.error.code, failed.error.param) == (code, param), failed.error
        for word in words:
            assert word in failed.error.message
        # RQ's records are there, and can be read by RQ's tools.
        job = site.fetch(job_id)
        assert job.get_status() is JobStatus.FAILED
        assert job_id in site.queue().failed_job_registry
        result = job.latest_result()
        assert result.type is Result.Type.FAILED
        assert failed.error.message in result.exc_string
        assert "queue chat 0, 0 executing, 1 finished, 1 failed" in site.rq("info", "--raw", "--only-queues")
        # The worker goes on, and nothing is left behind.
        assert isinstance(site.ending(good.id), Completed)
        assert site.leftovers() == set()
        # Nobody sees what was asked.
        output = capfd.readouterr()
        for text in (failed.error.message, result.exc_string, output.out, output.err):
            assert SECRET not in text

    return refused


def put(site, data, job_id="j"):
    """A job as a producer in any language may write it: `data` is whatever it likes."""
    site.redis.hset(
        f"rq:job:{job_id}", mapping={"data": data, "created_at": "2026-01-01T00:00:00Z", "status": "queued"}
    )
    site.redis.sadd("rq:queues", "rq:queue:chat")
    site.redis.rpush("rq:queue:chat", job_id)
    return job_id


def call(*args, function=CHAT, instance=None, kwargs=None):
    return json.dumps([function, instance, args, kwargs or {}]).encode()


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"\xff\xfe", b"[", b'["deltabus.tasks.chat"', zlib.compress(b"hello"), b"NaN", b'"\xed\xa0\x80"'],
    ids=repr,
)
def test_a_payload_that_is_not_json(site, refused, data):
    refused(put(site, data), "invalid_request", "data", "JSON")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ('{"temperature": NaN, "messages": "hello"}', "request.temperature"),
        ('{"messages": [{"role": "user", "content": "hello", "score": -Infinity}]}', "request.messages[0].score"),
        ('{"a secret key": [Infinity]}', "request.*[0]"),
    ],
)
def test_a_number_that_json_does_not_have_is_named(site, refused, request_, field):
    data = f'["{CHAT}", null, [{{"request": {request_}}}], {{}}]'.encode()
    refused(put(site, data), "invalid_request", field, "which JSON does not have: send null, or leave it out")


def test_a_payload_of_endless_depth(site, refused):
    refused(put(site, b'["' + CHAT.encode() + b'", null, [' + b"[" * 100_000), "invalid_request", "data", "JSON")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_is_never_opened(site, refused, tmp_path, protocol):
    trap = tmp_path / "sprung"
    data = pickle.dumps((CHAT, None, (Trap(trap),), {}), protocol=protocol)
    refused(put(site, zlib.compress(data)), "invalid_request", "data", "serializer='json'")
    assert not trap.exists()


def test_a_job_from_rqs_default_serializer(site, refused, tmp_path):
    trap = tmp_path / "sprung"
    job = Queue("chat", connection=site.redis).enqueue(CHAT, Trap(trap), meta={"trap": Trap(trap)})
    refused(job.id, "invalid_request", "data", "a pickle", "serializer='json'")
    assert not trap.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b"null",
        b"5",
        b'"x"',
        b"[]",
        b'["f"]',
        b"[null, null, [{}], {}]",
        b'["f", null, [{}], {}, 1]',
        b"[[],[],[],[]]",
    ],
    ids=repr,
)
def test_a_payload_that_is_not_a_call(site, refused, data):
    refused(put(site, data), "invalid_request", "data", "[function, null, [envelope], {}]")


@pytest.mark.parametrize(
    "data",
    [
        call(),
        call({"request": REQUEST}, {}),
        call(kwargs={"envelope": {"request": REQUEST}}),
        call({"request": REQUEST}, kwargs={"x": 1}),
        call({"request": REQUEST}, instance={"a": 1}),
        json.dumps([CHAT, None, {"request": REQUEST}, {}]).encode(),
    ],
    ids=["no argument", "two", "a keyword", "both", "a method", "not a list"],
)
def test_a_call_with_other_than_one_argument(site, refused, data):
    refused(put(site, data), "invalid_request", "data", "exactly one argument")


@pytest.mark.parametrize(
    "function", ["os.system", "builtins.eval", "deltabus.tasks.task", "", "deltabus.tasks:chat", "x" * 9999]
)
def test_a_function_that_is_not_registered(site, refused, function, tmp_path):
    trace = tmp_path / "ran"
    refused(put(site, call(f"touch {trace}", function=function)), "unknown_task", "function", "not registered")
    assert not trace.exists()


def test_a_function_that_is_nearly_registered(site, refused):
    data = call({"request": REQUEST}, function="deltabus.task.chat")
    refused(put(site, data), "unknown_task", "function", "did you mean `deltabus.tasks.chat`?")


def test_a_function_that_is_not_registered_is_never_imported(site, refused, install, tmp_path):
    trace = tmp_path / "imported"
    install("trap", f"open({str(trace)!r}, 'w').close()\ndef spring(_): pass\n")
    refused(put(site, call({}, function="trap.spring")), "unknown_task", "function", "`trap.spring`")
    assert not trace.exists()


def test_a_registered_function_that_cannot_be_imported(site, refused, install):
    install("broken", "raise RuntimeError('no licence')", tasks={"run": "broken:run"})
    data = call({"request": REQUEST}, function="broken.run")
    refused(put(site, data), "unknown_task", "function", "broken 1.0", "RuntimeError: no licence")


@pytest.mark.parametrize(
    ("source", "words"), [("def run(_): pass", "`deltabus.tasks.task`"), ("run = 5", "is not callable")]
)
def test_a_registered_function_that_is_no_task(site, refused, install, source, words):
    install("plain", source, tasks={"run": "plain:run"})
    data = call({"request": REQUEST}, function="plain.run")
    refused(put(site, data), "unknown_task", "function", words)


ENVELOPES = {
    "a list": ([], "envelope", "must be a JSON object"),
    "text": ("x", "envelope", "must be a JSON object"),
    "version 2": ({"v": 2, "request": REQUEST}, "v", "version 2 is not supported"),
    "version as text": ({"v": "1", "request": REQUEST}, "v", "version '1'"),
    "version true": ({"v": True, "request": REQUEST}, "v", "version True"),
    "no request": ({"v": 1}, "request", "`request` is required"),
    "request of text": ({"request": SECRET}, "request", "object"),
    "unknown field": ({"request": REQUEST, "modle": "x"}, "modle", "unknown field"),
    "near field": ({"request": REQUEST, "meta_data": {}}, "meta_data", "did you mean `metadata`?"),
    "parameter outside": ({"request": REQUEST, "temperature": 1}, "temperature", "go inside `request`"),
    "deadline of text": ({"request": REQUEST, "deadline": "soon"}, "deadline", "float"),
    "timeout 0": ({"request": REQUEST, "timeout": 0}, "timeout", "above 0"),
    "bad reply_to": ({"request": REQUEST, "reply_to": "two words"}, "reply_to", "channel"),
    "another task's channel": ({"request": REQUEST, "reply_to": "deltabus:{x}:events"}, "reply_to", "deltabus:…"),
    "RQ's commands": ({"request": REQUEST, "reply_to": "rq:pubsub:worker-1"}, "reply_to", ":pubsub:"),
    "header": ({"request": REQUEST, "headers": {"X": 1}}, "headers.*", "str"),
    "credentials": ({"request": REQUEST, "headers": {"Authorization": SECRET}}, "headers.Authorization", "credentials"),
    "no messages": ({"request": {}}, "request.messages", "required"),
    "bad role": ({"request": {"messages": [{"role": "me", "content": SECRET}]}}, "request.messages[0].role", ""),
    "unknown provider": ({"request": REQUEST, "provider": "ecko"}, "provider", "did you mean `echo`?"),
}


@pytest.mark.parametrize(("envelope", "param", "words"), ENVELOPES.values(), ids=ENVELOPES)
def test_an_envelope_that_breaks_a_rule(site, refused, envelope, param, words):
    code = "unknown_provider" if param == "provider" else "invalid_request"
    refused(put(site, call(envelope)), code, param, words)


def test_a_refusal_is_not_published_on_another_tasks_channel(site, refused):
    channel = "deltabus:{victim}:events"
    with site.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(channel)
        refused(put(site, call({"request": REQUEST, "reply_to": channel})), "invalid_request", "reply_to", "channel")
        site.redis.publish(channel, "the first")
        while (message := pubsub.get_message(timeout=60)) is None:
            pass
        assert message["data"] == b"the first"


@pytest.mark.parametrize("deadline", [1_000_000_000.0, 0, -1.0])
def test_a_deadline_that_has_passed(site, refused, deadline):
    envelope = {"request": REQUEST, "deadline": deadline}
    refused(put(site, call(envelope)), "deadline_exceeded", "deadline", "passed")


@pytest.mark.parametrize("pack", [bytes, zlib.compress], ids=["plain", "compressed"])
def test_a_payload_over_the_limit(site, refused, pack):
    data = pack(call({"request": REQUEST, "metadata": {"ballast": "\x00" * 50_000}}))
    refused(put(site, data), "payload_too_large", "data", "max_request_bytes", max_request_bytes=40_000)


def bomb():
    """64 MB in less than 100 kB."""
    fuse = zlib.compressobj()
    return b"".join(fuse.compress(b"\x00" * 1_000_000) for _ in range(64)) + fuse.flush()


def test_a_payload_that_unfolds_without_end(site, refused):
    refused(put(site, bomb()), "payload_too_large", "data", "max_request_bytes")


def test_a_payload_that_would_unfold_twice(site, refused):
    tracemalloc.start()
    refused(put(site, zlib.compress(bomb())), "invalid_request", "data", "not JSON")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32_000_000


def test_a_payload_that_waits_for_another_job_is_not_unfolded_when_that_ends(site):
    first = site.enqueue()
    second = site.enqueue(depends_on=first)
    site.redis.hset(second.key, "data", bomb())
    tracemalloc.start()
    site.work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32_000_000
    assert isinstance(site.ending(first.id), Completed)
    assert isinstance(site.ending(second.id), Failed)
    assert site.fetch(second).get_status() is JobStatus.FAILED


def test_an_answer_over_the_limit(site, refused):
    request = {**REQUEST, "echo": {"text": SECRET, "words": 1000}}
    refused(
        put(site, call({"request": request})), "payload_too_large", None, "max_answer_bytes", max_answer_bytes=20_000
    )


def test_a_model_without_a_route(site, refused):
    providers = {"echo": ProviderSettings(name="echo", plugin="echo", models=("echo-*",))}
    data = call({"request": {**REQUEST, "model": "gpt-9"}})
    refused(
        put(site, data), "unknown_provider", "request.model", "no provider takes the model `gpt-9`", providers=providers
    )


RAISES_AT_START = """
from deltabus.provider import Provider

class Acme(Provider):
    def __init__(self, name, settings):
        raise RuntimeError("no licence")
    async def chat(self, request):
        yield
"""

PLUGINS = {
    "import": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "start": (RAISES_AT_START, "RuntimeError: no licence"),
    "class": ("Acme = 5", "is not a class"),
}


@pytest.mark.parametrize(("source", "words"), PLUGINS.values(), ids=PLUGINS)
def test_a_plugin_that_is_broken(site, refused, install, source, words):
    install("acme", source, providers={"acme": "acme:Acme"})
    echo = ProviderSettings(name="echo", plugin="echo")
    providers = {"echo": echo, "acme": replace(echo, name="acme", plugin="acme")}
    data = call({"request": REQUEST, "provider": "acme"})
    refused(put(site, data), "unknown_provider", None, words, providers=providers)


RAISES_LATER = """
from deltabus.provider import Provider

class Acme(Provider):
    def __init__(self, name, settings):
        pass
    async def chat(self, request):
        prompt = request.body["messages"][0]["content"]
        yield {}[len(prompt)]
"""


def test_a_plugin_that_raises_what_it_may_not(site, refused, install):
    install("acme", RAISES_LATER, providers={"acme": "acme:Acme"})
    echo = ProviderSettings(name="echo", plugin="echo")
    providers = {"echo": echo, "acme": replace(echo, name="acme", plugin="acme")}
    data = call({"request": REQUEST, "provider": "acme"})
    refused(put(site, data), "internal", None, "worker's log", providers=providers)
