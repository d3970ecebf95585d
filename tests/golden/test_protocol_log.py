"""What the scripts leave in Redis: a log's entries and what its channel carried, byte for byte."""

from __future__ import annotations

import re

import redis
import redis.asyncio

from deltabus import keys
from deltabus.events import Cancelled, Completed, Progress, Retrying
from deltabus.log import Log
from deltabus.settings import Settings

TASK = "t-1"
AT = 1763777777.25
#: The test's own message, after everybody else's.
END = b"end"
#: Odd spacing, escapes and a number no float holds: what a provider sent goes out as it came.
CHUNKS = (b'{"n": 1, "text":"na\\u00efve"}', '{"text":"日本 🙂\u2028","big":12345678901234567890.0}'.encode())


def transcript(client: redis.Redis, listener: redis.client.PubSub) -> bytes:
    """The log as `id field event`, then the messages as `channel message`; times made equal."""
    lines = [
        b" ".join((entry, *(part for pair in fields.items() for part in pair)))
        for entry, fields in client.xrange(keys.log(TASK))
    ]
    client.publish(keys.events(TASK), END)
    for message in listener.listen():
        if message["data"] == END:
            break
        if message["type"] == "message":
            lines.append(b"%b %b" % (message["channel"], message["data"]))
    return re.sub(rb'("type":"started"[^}]*"at":)[0-9.e+]+', rb"\g<1>%.2f" % AT, b"\n".join(lines) + b"\n")


def write(redis_url: str, run, play, max_log_bytes: int = 1 << 20) -> bytes:
    """What `play(log)` leaves behind."""

    async def main() -> None:
        async with redis.asyncio.Redis.from_url(redis_url) as connection:
            log = Log(connection, Settings(redis_url=redis_url, max_log_bytes=max_log_bytes))
            await play(log)
            await log.aclose()

    with redis.Redis.from_url(redis_url) as client, client.pubsub() as listener:
        listener.subscribe(keys.events(TASK), keys.results("chat"), "svc-a:replies")
        for _ in range(3):
            listener.get_message(timeout=60)
        run(main())
        return transcript(client, listener)


def refuse(reason: Exception) -> None:
    raise AssertionError(reason)


def test_a_task_from_its_first_attempt_to_its_seal(golden, redis_url, run):
    async def play(log: Log) -> None:
        place = {"worker": "host.1", "queue": "chat", "reply_to": "svc-a:replies", "on_interrupt": refuse}
        attempt = await log.begin(TASK, **place)
        await attempt.emit(Progress(task=TASK, at=AT, done=1, total=2))
        await attempt.write(CHUNKS[0])
        await attempt.emit(Retrying(task=TASK, at=AT, reason="rate limited", delay=1.5))
        attempt = await log.begin(TASK, **place)
        for chunk in CHUNKS:
            await attempt.write(chunk)
        await attempt.seal(Completed(task=TASK, at=AT, result={"text": "日本"}, execution="e1"))

    golden("log.txt", write(redis_url, run, play))


def test_a_long_log_gives_way_to_a_snapshot(golden, redis_url, run):
    async def play(log: Log) -> None:
        attempt = await log.begin(TASK, worker="host.1", queue="chat", on_interrupt=refuse)
        attempt.snapshot = lambda: [b'{"text":"one two"}']
        for word in (b"one", b"two", b"three"):
            await attempt.write(b'{"text":"%b", "filler":"%b"}' % (word, b"." * 64))
            await attempt.emit(Progress(task=TASK, at=AT, done=1))
        await attempt.seal(Completed(task=TASK, at=AT, result=None))

    golden("log-snapshot.txt", write(redis_url, run, play, max_log_bytes=64))


def test_a_task_that_never_began_has_one_event(golden, redis_url, run):
    async def play(log: Log) -> None:
        await log.settle(TASK, Cancelled(task=TASK, at=AT, reason="the user left"), queue="chat")

    golden("log-unstarted.txt", write(redis_url, run, play))
