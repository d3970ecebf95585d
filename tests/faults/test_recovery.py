"""Workers die and freeze: no task is lost, none is run by two, none ends twice."""

from __future__ import annotations

import asyncio
import signal

from faults import FAST, Scene, attempts
from processes import DELTABUS, Background, environ
from redis.asyncio import Redis

from deltabus import keys
from deltabus.cli import exits
from deltabus.events import Completed, Started
from deltabus.jobs import OPEN_FIELD
from deltabus.log import Log
from deltabus.settings import Settings


def test_what_a_killed_worker_was_running_is_run_again(scene: Scene) -> None:
    with scene.worker() as victim:
        tasks = scene.chat(20, words=30, interval=0.1)
        for task in tasks:
            scene.streams(task)
        victim.process.kill()
        with scene.worker():
            for task in tasks:
                assert attempts(scene.words(task, 30)) == 2
        scene.nothing_is_left()


def test_a_worker_of_the_same_name_takes_up_the_work_of_the_one_that_was_killed(scene: Scene) -> None:
    with scene.worker("--name", "pod-0") as victim:
        (task,) = scene.chat(words=30, interval=0.05)
        scene.streams(task)
        victim.process.kill()
        victim.process.wait()
        with scene.worker("--name", "pod-0"):
            assert attempts(scene.words(task, 30)) == 2


def test_it_does_so_at_once_where_the_killed_one_was_a_process_of_its_own_host(scene: Scene) -> None:
    """However long the lease lasts: a test that waited for it would fail."""
    forever = {"DELTABUS_LEASE": "3600"}
    with scene.worker("--name", "pod-0", **forever) as victim:
        (task,) = scene.chat(words=30, interval=0.05)
        scene.streams(task)
        victim.process.kill()
        victim.process.wait()
        with scene.worker("--name", "pod-0", **forever):
            assert attempts(scene.words(task, 30)) == 2


def test_a_frozen_worker_keeps_its_name(scene: Scene) -> None:
    with scene.worker("--name", "pod-0") as frozen:
        frozen.process.send_signal(signal.SIGSTOP)
        scene.until(lambda: (scene.redis.zscore(keys.workers("rq"), "pod-0") or 0) < scene.redis.time()[0])
        with Background((*DELTABUS, "worker", "--name", "pod-0"), environ=environ(scene.url, **FAST)) as second:
            assert second.end() == exits.USAGE


def test_a_frozen_worker_is_fenced_and_goes_on_with_new_work(scene: Scene) -> None:
    with scene.worker() as frozen:
        (task,) = scene.chat(words=60, interval=0.05)
        scene.streams(task)
        frozen.process.send_signal(signal.SIGSTOP)
        with scene.worker() as other:
            scene.streams(task, attempt=2)
            frozen.process.send_signal(signal.SIGCONT)
            frozen.wait_for("fenced")
            assert "is away" not in frozen.said
            assert attempts(scene.words(task, 60)) == 2
            other.process.kill()
        (later,) = scene.chat(words=3)
        assert attempts(scene.words(later, 3)) == 1
        scene.nothing_is_left()


def test_a_crash_between_the_seal_and_the_bookkeeping_is_repaired_without_the_provider(scene: Scene) -> None:
    (task,) = scene.chat(words=3)

    async def seal() -> None:
        async with Redis.from_url(scene.server.url) as client:
            log = Log(client, Settings())
            attempt = await log.begin(task.id, worker="dead", queue="chat", on_interrupt=lambda _: None)
            await attempt.seal(Completed(task=task.id, at=1.0, result={"from": "the dead"}, execution="of-the-dead"))
            await log.aclose()

    asyncio.run(seal())
    scene.redis.hset(f"rq:job:{task.id}", OPEN_FIELD, 1)  # it was started, and is not booked
    with scene.worker():
        assert scene.redis.xread({f"rq:results:{task.id}": "0"}, block=20_000)
        scene.nothing_is_left()
    assert scene.redis.hget(f"rq:job:{task.id}", "status") == b"finished"
    events = list(task.events())
    assert [type(event) for event in events] == [Started, Completed]
    assert task.result() == {"from": "the dead"}
