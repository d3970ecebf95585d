"""A replica takes over behind a stable address: what it had not heard of yet is lost, and no task with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis
from faults import Scene, attempts
from line import Line
from processes import PATIENCE
from talker import Talker, talk, told

from deltabus import Task
from deltabus.embedded import EmbeddedRedis


class Pair:
    """A master, its replica, and the address that leads to one of them."""

    def __init__(self, master: EmbeddedRedis, replica: EmbeddedRedis, line: Line) -> None:
        self.master = master
        self.replica = replica
        self.line = line
        self.scene = Scene(master, line.url)
        self.at_master = redis.Redis.from_url(master.url)
        self.at_replica = redis.Redis.from_url(replica.url)

    def close(self) -> None:
        self.scene.close()
        self.at_master.close()
        self.at_replica.close()

    def synchronise(self) -> None:
        """Everything that was written so far is on the replica."""
        self.at_master.set("synchronised", 1)
        assert self.at_master.wait(1, int(PATIENCE * 1000)) == 1


@pytest.fixture
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(EmbeddedRedis(args=["--repl-diskless-sync-delay", "0"]))
        replica = stack.enter_context(EmbeddedRedis(args=["--replicaof", "127.0.0.1", str(urlsplit(master.url).port)]))
        pair = Pair(master, replica, stack.enter_context(Line(master.url)))
        stack.callback(pair.close)
        pair.synchronise()
        yield pair


def booked(scene: Scene, task: Task) -> None:
    """RQ's record of its end follows a moment after its log's."""
    scene.until(lambda: scene.redis.hget(f"rq:job:{task.id}", "status") == b"finished")


def test_streams_outlive_a_planned_failover_though_the_old_master_keeps_their_connections(pair: Pair) -> None:
    """It goes on answering, as a replica: whoever stays with it is refused for ever."""
    scene = pair.scene
    with scene.worker() as worker:
        tasks = scene.chat(20, words=40, interval=0.05)
        for task in tasks:
            scene.streams(task)
        pair.line.lead_to(pair.replica.url)
        pair.at_master.execute_command("FAILOVER")
        for task in tasks:
            assert attempts(scene.words(task, 40)) == 1
        scene.takes_new_work()
        said = worker.wait_for("is back")
        assert said.count("is there and takes no writes") == 1


def test_what_the_replica_had_not_heard_of_is_made_up_for(pair: Pair, talker: Talker) -> None:
    """Streams whose log is behind, queued ones it knows nothing of, and some that had ended and run again there."""
    scene = pair.scene
    with scene.worker(DELTABUS_CONCURRENCY="30", **talker.settings):
        behind = talk(scene.bus, 10, "behind")
        over = talk(scene.bus, 10, "over")
        for task in [*behind, *over]:
            scene.streams(task)
        pair.synchronise()
        pair.at_replica.replicaof("NO", "ONE")
        unheard = talk(scene.bus, 5, "unheard")
        talker.let_end("over")
        for task in over:
            assert told(task) == 1
            booked(scene, task)
        # Who books this has heard that those are booked, and does not do so again there.
        (later,) = scene.chat(words=3)
        booked(scene, later)
        for task in unheard:
            scene.streams(task)
        pair.line.lead_to(pair.replica.url)
        pair.master.kill()
        pair.line.cut()
        talker.let_end("behind")
        talker.let_end("unheard")
        for task in [*behind, *unheard]:
            assert told(task) == 1
        # Redis says that they run, and nobody runs them: whoever was to run them does so again.
        for task in over:
            assert told(task) == 2
        scene.takes_new_work()
        for task in [*behind, *over]:
            assert scene.redis.hget(f"rq:job:{task.id}", "status") == b"finished"
        assert scene.redis.zcard("rq:failed:chat") == 0


def test_a_job_that_was_taken_unheard_is_run_once_to_its_end(pair: Pair) -> None:
    """The replica has it in its queue: it is taken again while it still runs."""
    scene = pair.scene
    tasks = scene.chat(5, words=60, interval=0.05)
    pair.synchronise()
    pair.at_replica.replicaof("NO", "ONE")
    with scene.worker():
        for task in tasks:
            scene.streams(task)
        pair.line.lead_to(pair.replica.url)
        pair.master.kill()
        pair.line.cut()
        for task in tasks:
            assert scene.completes(task, 60) >= 1
        scene.takes_new_work()
        for task in tasks:
            assert scene.redis.hget(f"rq:job:{task.id}", "status") == b"finished"
