"""Workers die and freeze: no task is lost, none is run by two, none ends twice."""

from __future__ import annotations

import asyncio
import signal

from faults import FAST, Scene, attempts
from processes import DELTABUS, Background, environ
from redis.asyncio import Redis
from talker import Talker, talk, told

from deltabus import keys
from deltabus.cli import exits
from deltabus.events import Completed, Started
from deltabus.jobs import OPEN_FIELD
from deltabus.log import Log
from deltabus.settings import Settings


def test_what_a_killed_worker_was_running_is_run_again(scene: Scene, talker: Talker) -> None:
    with scene.worker(**talker.settings) as victim:
        tasks = talk(scene.bus, 20)
        for task in tasks:
            scene.streams(task)
        victim.process.kill()
        talker.let_end()
        with scene.worker(**talker.settings):
            for task in tasks:
                assert told(task) == 2
            scene.nothing_is_left()


def test_a_worker_of_the_same_name_takes_up_the_work_of_the_one_that_was_killed(scene: Scene, talker: Talker) -> None:
    with scene.worker("--name", "pod-0", **talker.settings) as victim:
        (task,) = talk(scene.bus)
        scene.streams(task)
        victim.process.kill()
        victim.process.wait()
        talker.let_end()
        with scene.worker("--name", "pod-0", **talker.settings):
            assert told(task) == 2


def test_it_does_so_at_once_where_the_killed_one_was_a_process_of_its_own_host(scene: Scene, talker: Talker) -> None:
    """However long the lease lasts: a test that waited for it would fail."""
    settings = {"DELTABUS_LEASE": "3600", **talker.settings}
    with scene.worker("--name", "pod-0", **settings) as victim:
        (task,) = talk(scene.bus)
        scene.streams(task)
        victim.process.kill()
        victim.process.wait()
        talker.let_end()
        with scene.worker("--name", "pod-0", **settings):
            assert told(task) == 2


def test_a_frozen_worker_keeps_its_name(scene: Scene) -> None:
    with scene.worker("--name", "pod-0") as frozen:
        frozen.process.send_signal(signal.SIGSTOP)
        scene.until(lambda: (scene.redis.zscore(keys.workers("rq"), "pod-0") or 0) < scene.redis.time()[0])
        with Background((*DELTABUS, "worker", "--name", "pod-0"), environ=environ(scene.url, **FAST)) as second:
            assert second.end() == exits.USAGE


def test_a_frozen_worker_is_fenced_and_goes_on_with_new_work(scene: Scene, talker: Talker) -> None:
    with scene.worker(**talker.settings) as frozen:
        (task,) = talk(scene.bus)
        scene.streams(task)
        frozen.process.send_signal(signal.SIGSTOP)
        with scene.worker(**talker.settings) as other:
            scene.streams(task, attempt=2)
            frozen.process.send_signal(signal.SIGCONT)
            frozen.wait_for("fenced")
            assert "is away" not in frozen.said
            talker.let_end()
            assert told(task) == 2
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
