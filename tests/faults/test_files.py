"""Workers die, freeze and leave in the middle of a file: it gets there once and whole, and nothing else is left."""

from __future__ import annotations

import hashlib
import random
import signal
from collections.abc import Iterator

import pytest
from faults import Scene, attempts
from processes import PATIENCE

from deltabus.errors import TaskCancelled, TaskFailed
from deltabus.events import Completed
from deltabus.testing import check_events
from deltabus.testing.api import ApiServer, Fault

DATA = random.Random(8).randbytes(4_000_000)

#: Bytes after which the provider reads no further, the first time.
STALL = 1_000_000


@pytest.fixture
def files() -> Iterator[ApiServer]:
    """A provider that takes the first upload in part and then says nothing."""
    with ApiServer() as server:
        server.fault(Fault.stall(after=STALL), on="POST /files")
        yield server


def settings(files: ApiServer) -> dict[str, str]:
    return {"OPENAI_BASE_URL": files.url, "OPENAI_API_KEY": "sk-faults-0123456789"}


def arrives(scene: Scene, files: ApiServer, task_id: str) -> int:
    """The file is at the provider, once and whole; how many attempts it took."""
    events = list(scene.bus.task(task_id).events())
    check_events(events)
    ending = events[-1]
    assert isinstance(ending, Completed), ending
    (stored,) = files.files
    assert (stored.id, stored.sha256) == (ending.result["id"], hashlib.sha256(DATA).hexdigest())
    assert files.left == [stored.id]
    return attempts(events)


def test_the_upload_of_a_killed_worker_is_done_again_by_another(scene: Scene, files: ApiServer) -> None:
    with scene.worker("file", **settings(files)) as victim:
        task = scene.bus.upload(DATA)
        files.received(1, "POST /files").wait(PATIENCE)
        victim.process.kill()
        with scene.worker("file", **settings(files)):
            assert arrives(scene, files, task.id) == 2
            scene.nothing_is_left()


def test_the_upload_of_a_frozen_worker_is_dropped_when_it_wakes(scene: Scene, files: ApiServer) -> None:
    files.fault(Fault.stall(after=STALL), on="POST /files")  # the second one too: it is under way when the first wakes
    with scene.worker("file", **settings(files)) as frozen:
        task = scene.bus.upload(DATA)
        files.received(1, "POST /files").wait(PATIENCE)
        frozen.process.send_signal(signal.SIGSTOP)
        with scene.worker("file", **settings(files)) as second:
            files.received(2, "POST /files").wait(PATIENCE)
            frozen.process.send_signal(signal.SIGCONT)
            frozen.wait_for("fenced")
            second.process.kill()
            assert arrives(scene, files, task.id) == 3


def test_a_worker_that_leaves_hands_an_upload_back(scene: Scene, files: ApiServer) -> None:
    with scene.worker("file", **settings(files), DELTABUS_DRAIN_TIMEOUT="0") as leaving:
        task = scene.bus.upload(DATA)
        files.received(1, "POST /files").wait(PATIENCE)
        leaving.process.send_signal(signal.SIGTERM)
        leaving.end()
    assert files.left == []
    with scene.worker("file", **settings(files)):
        assert arrives(scene, files, task.id) == 2


def test_a_cancelled_upload_leaves_its_provider_at_once(scene: Scene, files: ApiServer) -> None:
    with scene.worker("file", **settings(files)):
        task = scene.bus.upload(DATA)
        files.received(1, "POST /files").wait(PATIENCE)
        assert task.cancel("enough")
        with pytest.raises(TaskCancelled, match="enough"):
            task.result(timeout=PATIENCE)
        scene.nothing_is_left()
    assert files.left == []


def test_a_blob_that_has_lost_its_end_is_not_sent(scene: Scene, files: ApiServer) -> None:
    files.mend()
    with scene.worker("file", **settings(files)):
        blob = scene.bus.blob(DATA)
        scene.redis.ltrim(f"deltabus:blob:{blob}", 0, 1)
        task = scene.bus.upload({"blob": blob, "size": len(DATA)})
        with pytest.raises(TaskFailed, match=r"is announced as 4000000 bytes, but there are 2097152"):
            task.result(timeout=PATIENCE)
    assert files.left == []
