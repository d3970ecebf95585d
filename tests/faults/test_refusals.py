"""Redis answers, and does not serve: it loads, is a replica, has no memory or no disk left. Streams wait, and go on."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import Scene, attempts

from deltabus.embedded import EmbeddedRedis

#: Refusals to wait for: every part of a worker that talks to Redis has met one by then, and tried again.
REFUSALS = 25


@contextlib.contextmanager
def out_of_memory(scene: Scene) -> Iterator[str]:
    scene.redis.config_set("maxmemory", "1")
    yield "OOM"
    scene.redis.config_set("maxmemory", "0")


@contextlib.contextmanager
def read_only(scene: Scene) -> Iterator[str]:
    scene.redis.replicaof("127.0.0.1", "1")
    yield "READONLY"
    scene.redis.replicaof("no", "one")


@contextlib.contextmanager
def master_down(scene: Scene) -> Iterator[str]:
    scene.redis.config_set("replica-serve-stale-data", "no")
    scene.redis.replicaof("127.0.0.1", "1")
    yield "MASTERDOWN"
    scene.redis.replicaof("no", "one")


@contextlib.contextmanager
def no_disk(scene: Scene) -> Iterator[str]:
    """Its files may not grow any more: writing the append-only file fails as it does on a full disk."""
    pid = scene.server.pid
    limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    files = [path for path in scene.server.directory.rglob("appendonly*") if path.is_file()]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (max(_size(path) for path in files), limit[1]))
    yield "MISCONF"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.parametrize("refusal", [out_of_memory, read_only, master_down, no_disk])
def test_a_redis_that_refuses_is_waited_out(
    durable: Scene, refusal: Callable[[Scene], contextlib.AbstractContextManager[str]]
) -> None:
    with durable.worker() as worker:
        tasks = durable.chat(10, words=40, interval=0.05)
        for task in tasks:
            durable.streams(task)
        with refusal(durable) as error:
            durable.refuses(error, REFUSALS)
        for task in tasks:
            assert attempts(durable.words(task, 40)) == 1
        durable.takes_new_work()
        said = worker.wait_for("is back")
    assert said.count("is there and takes no writes") == 1
    assert said.count("is away") <= 1  # the connections of a server that becomes a replica may break first
    assert "Traceback" not in said
    assert "not a list" not in said


@pytest.mark.parametrize("refusal", [out_of_memory, read_only, no_disk])
def test_an_idle_worker_that_was_refused_takes_work_afterwards(
    durable: Scene, refusal: Callable[[Scene], contextlib.AbstractContextManager[str]]
) -> None:
    with durable.worker() as worker:
        durable.takes_new_work()
        with refusal(durable) as error:
            durable.refuses(error, REFUSALS)
        durable.takes_new_work()
        said = worker.wait_for("is back")
    assert said.count("is there and takes no writes") == 1
    assert said.count("is away") <= 1  # the connections of a server that becomes a replica may break first


def test_a_redis_that_loads_its_data_is_waited_out() -> None:
    """It takes its time for each key, until it is told that it may go on."""
    slowly = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
    with EmbeddedRedis(args=slowly) as server:
        scene = Scene(server)
        with scene.worker() as worker:
            tasks = scene.chat(10, words=40, interval=0.05)
            for task in tasks:
                scene.streams(task)
            server.restart()
            scene.refuses("LOADING", 3)
            scene.redis.config_set("key-load-delay", "0")
            for task in tasks:
                assert attempts(scene.words(task, 40)) == 1
            scene.takes_new_work()
            said = worker.wait_for("is back")
        assert said.count("is away") == 1
        assert "Traceback" not in said
        scene.close()
