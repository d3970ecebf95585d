"""A task is cancelled: by whomever, whatever it is at, it ends once, and its provider is left at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from faults import Scene, attempts
from processes import DELTABUS, PATIENCE, environ, run
from rq import Queue
from rq.command import send_stop_job_command
from scripted import STILL, limited, says, speaks_to

from deltabus import AsyncBus, Task, keys
from deltabus.events import Cancelled, Completed, Retrying
from deltabus.testing import Action, Reply, ScriptedServer

#: Says a word, and then nothing.
SILENT = Reply.sse(says("Hel"), Action.HANG, done=False)

#: Says a word, and then that it has failed: what was said is void.
BROKEN = Reply.sse(says("Hel"), {"error": {"message": "overloaded", "code": 503}}, done=False)

#: Settings of a worker that waits for a minute between two tries.
PATIENT = {"DELTABUS_RETRY_DELAY": "1000", "DELTABUS_MAX_RETRY_DELAY": "1000", "DELTABUS_PARK_AFTER": "2000"}


# Who cancels


def by_bus(_: Scene, task: Task) -> None:
    assert task.cancel("enough") is True


def by_async_bus(scene: Scene, task: Task) -> None:
    async def main() -> None:
        async with AsyncBus(scene.server.url) as bus:
            assert await bus.task(task.id).cancel("enough") is True

    asyncio.run(main())


def by_command_line(scene: Scene, task: Task) -> None:
    command = (*DELTABUS, "cancel", task.id, "--reason", "enough")
    assert run(command, environ=environ(scene.server.url)).returncode == 0


def by_rq(scene: Scene, task: Task) -> None:
    send_stop_job_command(scene.redis, task.id, serializer="json")


def by_two_commands(scene: Scene, task: Task) -> None:
    """As another language does it: see ops/protocol.md."""
    scene.redis.execute_command("SET", keys.cancel(task.id), "enough", "EX", 86400)
    scene.redis.execute_command("PUBLISH", "deltabus:cancel", task.id)


EVERYBODY = [by_bus, by_async_bus, by_command_line, by_rq, by_two_commands]


def test_whoever_cancels_the_silent_provider_is_left_at_once(scene: Scene, provider: ScriptedServer) -> None:
    """No heartbeat comes within this test: it is the announcement that does it."""
    with scene.worker(**speaks_to(provider), **STILL):
        for number, cancel in enumerate(EVERYBODY):
            provider.script(SILENT)
            task = scene.bus.chat(messages="hi", model="m")
            scene.streams(task)
            cancel(scene, task)
            provider.requests[number].closed.wait(PATIENCE)
            ending = scene.ending(task)
            assert isinstance(ending, Cancelled), cancel
            assert ending.reason == ("stopped by RQ's stop command" if cancel is by_rq else "enough")
        scene.nothing_is_left()
        assert len(provider.requests) == len(EVERYBODY)


def test_a_provider_that_has_not_answered_yet_is_left_at_once(scene: Scene, provider: ScriptedServer) -> None:
    provider.script(Reply.raw(Action.HANG))
    with scene.worker(**speaks_to(provider), **STILL):
        task = scene.bus.chat(messages="hi", model="m")
        provider.received(1).wait(PATIENCE)
        assert task.cancel("enough") is True
        provider.requests[0].closed.wait(PATIENCE)
        assert isinstance(scene.ending(task), Cancelled)


@pytest.mark.parametrize("cancel", [by_bus, by_rq, by_two_commands])
@pytest.mark.parametrize("reply", [limited(), BROKEN], ids=["unseen", "told"])
def test_a_task_is_cancelled_between_two_tries(
    scene: Scene, provider: ScriptedServer, reply: Reply, cancel: Callable[[Scene, Task], None]
) -> None:
    provider.script(reply)
    with scene.worker(**speaks_to(provider), **STILL, **PATIENT) as worker:
        task = scene.bus.chat(messages="hi", model="m")
        worker.wait_for("attempt failed")
        if reply is BROKEN:
            scene.reaches(task, lambda event: isinstance(event, Retrying))
        cancel(scene, task)
        assert isinstance(scene.ending(task), Cancelled)
        scene.nothing_is_left()
    assert len(provider.requests) == 1


def test_a_parked_task_that_is_cancelled_by_its_key_alone_makes_no_further_try(
    scene: Scene, provider: ScriptedServer
) -> None:
    provider.script(limited(Retry_After="60"))
    with scene.worker(**speaks_to(provider)):
        task = scene.bus.chat(messages="hi", model="m")
        scene.until(lambda: scene.redis.zscore("rq:scheduled:chat", task.id) is not None)
        by_two_commands(scene, task)
        scene.redis.zadd("rq:scheduled:chat", {task.id: 1})
        assert isinstance(scene.ending(task), Cancelled)
        scene.nothing_is_left()
    assert len(provider.requests) == 1


def test_a_task_between_its_queue_and_a_worker_is_cancelled(scene: Scene) -> None:
    (task,) = scene.chat(words=3)
    scene.redis.lmove("rq:queue:chat", "rq:queue:chat:intermediate")
    assert task.cancel("enough") is True
    with scene.worker():
        assert isinstance(scene.ending(task), Cancelled)
        assert len(list(task.events())) == 1
        scene.nothing_is_left()


@pytest.mark.parametrize("cancel", [by_bus, by_command_line, by_two_commands])
def test_a_task_whose_worker_is_dead_is_cancelled_and_not_run_again(
    scene: Scene, provider: ScriptedServer, cancel: Callable[[Scene, Task], None]
) -> None:
    provider.script(SILENT)
    with scene.worker(**speaks_to(provider)) as worker:
        task = scene.bus.chat(messages="hi", model="m")
        scene.streams(task)
        worker.process.kill()
    cancel(scene, task)
    with scene.worker(**speaks_to(provider)):
        ending = scene.ending(task)
        assert isinstance(ending, Cancelled)
        assert ending.reason == "enough"
        scene.nothing_is_left()
    assert attempts(list(task.events())) == 1
    assert len(provider.requests) == 1


def test_a_cancel_that_races_with_the_end_makes_no_second_one(scene: Scene) -> None:
    """Some come before the seal, some after; the ending that is logged is the one that RQ has.

    Of six tasks, one does not end before it is cancelled, and one has ended.
    """
    with scene.worker(), scene.worker(), ThreadPoolExecutor(8) as threads:

        def run(number: int) -> tuple[Task, bool]:
            (task,) = scene.chat(words=4, **({"stall_after": 1} if number % 6 == 0 else {"interval": 0.005}))
            for _ in islice(task.events(), number % 6 + 1 if number % 6 < 5 else None):
                pass
            return task, task.cancel("enough")

        said = dict(threads.map(run, range(200)))
        endings: Counter[type] = Counter()
        for task, accepted in said.items():
            ending = scene.ending(task)
            endings[type(ending)] += 1
            assert accepted or isinstance(ending, Completed)
            assert task.cancel() is False
            assert scene.ending(task) == ending
        assert set(endings) == {Completed, Cancelled}
        scene.nothing_is_left()
        queue = Queue("chat", connection=scene.redis, serializer="json")
        assert queue.finished_job_registry.count == endings[Completed]
        assert queue.canceled_job_registry.count == endings[Cancelled]
