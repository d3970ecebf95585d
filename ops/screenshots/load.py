"""A bus under load: workers as processes, and somebody who keeps them busy."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

from deltabus import Bus
from deltabus.embedded import EmbeddedRedis
from deltabus.settings import Settings, load

#: Seconds that a worker may take to begin, or to end.
PATIENCE: Final = 60.0

#: Queues in order of priority, and what part of the tasks goes there.
QUEUES: Final = {"urgent": 0.15, "chat": 0.55, "batch": 0.3}

#: How some tasks fail.
ERRORS: Final = ("rate_limited", "invalid_request", "provider_timeout")

#: Seconds from one task to the next.
PAUSE: Final = 0.2


@contextmanager
def loaded(workers: int, slots: int, streams: int) -> Iterator[Settings]:
    """The settings of a bus that is kept busy while the block runs.

    Args:
        slots: of each worker.
        streams: that are begun at once, before the others come one by one.
    """
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        settings = load(environ={"DELTABUS_REDIS_URL": redis.url})
        bus = stack.enter_context(Bus(settings=settings))
        dice = random.Random(7)  # noqa: S311 # no secret
        for _ in range(streams):
            _enqueue(bus, dice)
        for number in range(1, workers + 1):
            stack.enter_context(_worker(redis.url, folder, f"worker-{number}", slots))
        stack.enter_context(_producer(bus, dice))
        yield settings


def _enqueue(bus: Bus, dice: random.Random) -> None:
    (queue,) = dice.choices(list(QUEUES), list(QUEUES.values()))
    script: dict[str, Any] = {"words": dice.randrange(100, 900), "interval": dice.uniform(0.02, 0.08)}
    retry = None
    if dice.random() < 0.05:
        script |= {"error": dice.choice(ERRORS), "fail_after": 5}
        retry = {"max": 0}
    bus.chat(messages="Tell me a story.", model="gpt-4o-mini", queue=queue, retry=retry, echo=script)


@contextmanager
def _producer(bus: Bus, dice: random.Random) -> Iterator[None]:
    done = threading.Event()

    def produce() -> None:
        while not done.wait(PAUSE):
            _enqueue(bus, dice)

    thread = threading.Thread(target=produce)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _worker(url: str, folder: str, name: str, slots: int) -> Iterator[None]:
    others = "DELTABUS_|OPENAI_|ANTHROPIC_|GEMINI_|GOOGLE_|REDIS_|RQ_"
    environ = {key: value for key, value in os.environ.items() if not re.match(others, key)}
    words = ["worker", *QUEUES, "--name", name, "--concurrency", str(slots), "--log-format", "json"]
    process = subprocess.Popen(  # noqa: S603 # our own command line
        [sys.executable, "-P", "-m", "deltabus.cli", *words],
        cwd=folder,
        env={**environ, "DELTABUS_REDIS_URL": url, "DELTABUS_DRAIN_TIMEOUT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    # Leaving its block closes the pipe and waits.
    with process:
        assert process.stderr is not None
        try:
            if not any("worker started" in line for line in process.stderr):
                raise RuntimeError(f"{name} did not start: exit code {process.wait(PATIENCE)}")
            reader = threading.Thread(target=_drain, args=(process.stderr,))
            reader.start()
            try:
                yield
            finally:
                process.terminate()
                reader.join()
        finally:
            process.kill()


def _drain(stream: IO[str]) -> None:
    """Read what it says, so that it can go on saying it."""
    for _ in stream:
        pass
