"""What a producer leaves in Redis: the job's hash with the envelope in it, byte for byte, and its place in line."""

from __future__ import annotations

import re

import redis
from rq.job import Job

from deltabus import Bus

TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def left_behind(url: str) -> bytes:
    """Every key, with its fields in their order; times made equal."""
    lines = []
    with redis.Redis.from_url(url) as client:
        for key in sorted(client.keys()):
            match client.type(key):
                case b"hash":
                    fields = sorted(client.hgetall(key).items())
                    lines += [b" ".join((key, field, value or b"(empty)")) for field, value in fields]
                case b"list":
                    lines += [b" ".join((key, item)) for item in client.lrange(key, 0, -1)]
                case b"set":
                    lines += [b" ".join((key, item)) for item in sorted(client.smembers(key))]
                case other:
                    lines.append(b" ".join((key, other)))
            lines[-1] += b" (lives for ever)" if client.ttl(key) == -1 else b" (expires)"
    return TIME.sub(b"2026-01-31T12:00:00.123456Z", b"\n".join(lines) + b"\n")


def test_a_task_with_everything(golden, redis_url):
    with Bus(redis_url, queue="fast") as bus:
        bus.chat(
            {"model": "gpt-4o", "x-new": {"kept": [1, 2.5, None]}},
            messages="naïve 日本 🙂",
            stream=True,
            task_id="t-1",
            provider="openai",
            deadline=1763777777.5,
            timeout=120,
            reply_to="svc-a:replies",
            tenant="acme",
            headers={"X-Team": "search"},
            metadata={"ticket": "42"},
            trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )

    golden("job.txt", left_behind(redis_url))


def test_a_task_with_next_to_nothing(golden, redis_url):
    with Bus(redis_url) as bus:
        bus.chat(messages="hi", task_id="t-1")

    golden("job-short.txt", left_behind(redis_url))


def test_rq_reads_what_the_bus_wrote(redis_url):
    with Bus(redis_url) as bus:
        bus.chat(messages="hi", task_id="t-1")

    with redis.Redis.from_url(redis_url) as client:
        job = Job.fetch("t-1", connection=client, serializer="json")
        assert (job.func_name, job.args[0]["request"]["messages"][0]["content"]) == ("deltabus.tasks.chat", "hi")
        assert client.hgetall(job.key).keys() <= {name.encode() for name in job.to_dict()} | {b"enqueued_at"}
