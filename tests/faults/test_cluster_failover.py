"""A Cluster whose masters have replicas: one dies or hands over, comes or goes, and slots are on their way for long."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest
from clustersite import PREFIX, Site
from talker import Talker, talk, told

from chaos.nodes import Move, Nodes, ask
from deltabus import Bus, BusUnavailable, Cancelled, Completed, Task, keys
from deltabus.embedded import EmbeddedRedis
from deltabus.settings import Settings


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes(replicas=True, spares=1) as nodes:
        yield nodes


@pytest.fixture
def site(nodes: Nodes) -> Iterator[Site]:
    for server in nodes.masters:
        ask(server, "FLUSHALL")
    site = Site(nodes)
    yield site
    site.close()


def home(site: Site) -> EmbeddedRedis:
    """The master that has RQ's keys."""
    return site.nodes.owner(site.nodes.slot(PREFIX))


def elsewhere(site: Site, tasks: list[Task]) -> tuple[int, list[Task]]:
    """A slot of a master that has only logs, and the tasks of these whose logs it has."""
    rq = home(site)
    places = [(task, site.nodes.slot(keys.log(task.id))) for task in tasks]
    slot, other = next((slot, owner) for _, slot in places if (owner := site.nodes.owner(slot)) is not rq)
    return slot, [task for task, slot in places if site.nodes.owner(slot) is other]


def booked(site: Site, task: Task) -> None:
    """RQ's record of its end follows a moment after its log's."""
    job = f"{PREFIX}:job:{task.id}"
    site.until(lambda: site.redis.hget(job, "status") == b"finished", "the end is not booked")


def meanwhile(site: Site, what: Callable[[], object]) -> list[Task]:
    """Let it happen, and send tasks as long as it lasts."""
    thread = threading.Thread(target=what)
    thread.start()
    tasks = []
    while thread.is_alive():
        tasks += site.chat(1, words=3)
        thread.join(0.2)
    return tasks


@pytest.mark.parametrize(("how", "whose"), [("killed", "rq"), ("handed over", "logs")])
def test_streams_and_producers_go_on_when_a_replica_takes_over(
    site: Site, talker: Talker, whose: str, how: str
) -> None:
    with site.worker(**talker.settings):
        tasks = talk(site.bus, 9)
        for task in tasks:
            site.streams(task)
        slot = site.nodes.slot(PREFIX) if whose == "rq" else elsewhere(site, tasks)[0]
        before = site.nodes.owner(slot)
        sent = meanwhile(site, lambda: (site.nodes.crash if how == "killed" else site.nodes.fail_over)(slot))
        assert site.nodes.owner(slot) is not before
        talker.let_end()
        for task in tasks:
            told(task)
        for task in sent:
            assert site.completes(task, 3) == 1


class Deaf:
    """A replica that hears nothing of its master, until that is dead; a context manager.

    Args:
        slot: one of the master's.
    """

    def __init__(self, site: Site, slot: int) -> None:
        self._nodes, self._slot = site.nodes, slot
        self._master = site.nodes.owner(slot)
        self._replica = site.nodes.replica(self._master)

    def __enter__(self) -> None:
        os.kill(self._replica.pid, signal.SIGSTOP)
        # Else what is sent on it meanwhile would be read in the end.
        ask(self._master, "CLIENT", "KILL", "TYPE", "replica")

    def __exit__(self, *_: object) -> None:
        self._master.kill()
        os.kill(self._replica.pid, signal.SIGCONT)
        self._nodes.depose(self._master, self._replica, self._slot)


def test_an_end_that_a_dead_master_took_with_it_is_told_anew_by_what_rq_knows(site: Site, talker: Talker) -> None:
    with site.worker(**talker.settings):
        tasks = talk(site.bus, 9)
        for task in tasks:
            site.streams(task)
        slot, lost = elsewhere(site, tasks)
        with Deaf(site, slot):
            talker.let_end()
            for task in tasks:
                assert told(task) == 1
                # Whoever books it has heard that the log is sealed, and does not seal it again.
                booked(site, task)
        for task in lost:
            # The second attempt is the telling: only a log that had no end any more gets one.
            site.until(lambda: site.redis.xrange(keys.log(task.id), keys.SEAL), "its log stays open")  # noqa: B023
            assert told(task) == 2


def test_a_run_of_which_rqs_dead_master_took_the_end_with_it_is_not_run_again(site: Site, talker: Talker) -> None:
    with site.worker(**talker.settings):
        tasks = talk(site.bus, 5)
        for task in tasks:
            site.streams(task)
        site.synchronise(home(site))
        with Deaf(site, site.nodes.slot(PREFIX)):
            talker.let_end()
            for task in tasks:
                assert told(task) == 1
        for task in tasks:
            booked(site, task)
        remembered = [task for task in tasks if site.nodes.owner(site.nodes.slot(keys.log(task.id))) is not home(site)]
        for task in remembered:
            assert told(task) == 1


def test_a_task_of_which_rqs_dead_master_took_all_record_along_ends_once(site: Site, talker: Talker) -> None:
    """To whoever runs it, it is as if somebody had deleted the job; unless its log is lost too, and so tells of it."""
    with site.worker(**talker.settings):
        with Deaf(site, site.nodes.slot(PREFIX)):
            tasks = talk(site.bus, 5)
            for task in tasks:
                site.streams(task)
        with_rq = [task for task in tasks if site.nodes.owner(site.nodes.slot(keys.log(task.id))) is home(site)]
        for task in tasks:
            if task not in with_rq:
                assert isinstance(list(task.events())[-1], Cancelled)
        talker.let_end()
        for task in with_rq:
            assert isinstance(list(task.events())[-1], Completed)


def refused(server: EmbeddedRedis) -> int:
    """How often it has said that keys are on their way."""
    lines = str(ask(server, "INFO", "errorstats")).splitlines()
    return sum(
        int(line.partition("count=")[2]) for line in lines if line.startswith(("errorstat_ASK", "errorstat_TRY"))
    )


def test_a_slot_that_is_long_on_its_way_is_waited_for(site: Site, talker: Talker) -> None:
    """RQ's own, and that of a log: keys are at neither end alone (`ASK`), or at both (`TRYAGAIN`)."""
    with site.worker(**talker.settings):
        tasks = talk(site.bus, 6)
        for task in tasks:
            site.streams(task)
        slot, _ = elsewhere(site, tasks)
        for moved in (slot, site.nodes.slot(PREFIX)):
            source = site.nodes.owner(moved)
            target = next(server for server in site.nodes.masters if server is not source)
            move = Move(site.nodes, moved, target)
            ask(source, "CONFIG", "RESETSTAT")
            move.begin()
            site.until(lambda: refused(source) >= 3, "nobody asks for what is perhaps elsewhere")  # noqa: B023
            move.carry(1)
            site.until(lambda: refused(source) >= 6, "nobody asks for what is in part elsewhere")  # noqa: B023
            while move.carry():
                pass
            site.until(lambda: refused(source) >= 9, "nobody asks for what is elsewhere")  # noqa: B023
            with (
                Bus(settings=Settings(redis_url=site.nodes.url, rq_key_prefix=PREFIX, redis_timeout=0.5)) as bus,
                pytest.raises(BusUnavailable) if moved != slot else pytest.MonkeyPatch.context(),
            ):
                bus.chat({"echo": {"words": 1}}, messages="hello")
            sent = meanwhile(site, move.end)
        talker.let_end()
        for task in tasks:
            assert told(task) == 1
        for task in sent:
            site.completes(task, 3)


def test_a_node_that_comes_is_found_and_one_that_goes_is_missed_by_nobody(site: Site, talker: Talker) -> None:
    with site.worker(**talker.settings) as worker:
        tasks = talk(site.bus, 6)
        for task in tasks:
            site.streams(task)
        host = home(site)
        guest = site.nodes.join()
        slots = [site.nodes.slot(PREFIX), *(site.nodes.slot(keys.log(task.id)) for task in tasks[:3])]
        owners = [site.nodes.owner(slot) for slot in slots]
        for slot in slots:
            site.nodes.move(slot, guest)
        for task in site.chat(3, words=3):
            assert site.completes(task, 3) == 1
        assert any(key.startswith(b"{rq}:") for key in site.keys(guest))
        for slot, owner in zip(slots, owners, strict=True):
            site.nodes.move(slot, owner)
        site.nodes.leave(guest)
        assert home(site) is host
        for task in site.chat(3, words=3):
            assert site.completes(task, 3) == 1
        talker.let_end()
        for task in tasks:
            assert told(task) == 1
        assert worker.process.poll() is None
