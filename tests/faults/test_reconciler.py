"""Tasks that stock RQ workers lose or end without a word, while one of ours serves the same queues."""

from __future__ import annotations

import sys

from processes import environ, run
from rq import Queue
from rq.job import Job

from deltabus.events import Cancelled

#: RQ's own worker of several queues: it dies after the pop, before it has noted the job anywhere.
DIES_AFTER_ITS_POP = """
import os, signal, sys
from rq.cli import main
from rq.worker.worker_classes import Worker
Worker.execute_job = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
main(sys.argv[1:])
"""


def test_a_task_that_a_stock_worker_of_several_queues_took_to_its_grave_is_found_and_run(scene):
    [lost] = scene.chat(words=3)
    command = [sys.executable, "-c", DIES_AFTER_ITS_POP, "worker", "--url", scene.server.url, "urgent", "chat"]
    killed = run(command, environ=environ(scene.server.url))
    assert killed.returncode == -9, killed.stderr
    assert scene.redis.llen("rq:queue:chat") == 0
    with scene.worker(DELTABUS_LEASE="1"):
        scene.words(lost, 3)
        scene.nothing_is_left()


def test_a_task_that_rq_cancels_while_it_waits_ends_for_those_who_follow_it(scene):
    with scene.worker(DELTABUS_LEASE="1", DELTABUS_CONCURRENCY="1") as worker:
        [running] = scene.chat(words=9, stall_after=1)
        [waiting] = scene.chat(words=3)
        scene.streams(running)
        Job.fetch(waiting.id, connection=scene.redis, serializer="json").cancel()
        *_, ending = waiting.events()
        assert isinstance(ending, Cancelled)
        worker.wait_for("sealed the log of a task that RQ has ended")
        assert Queue("chat", connection=scene.redis).count == 0
        running.cancel()
