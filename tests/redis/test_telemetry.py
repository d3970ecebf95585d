"""What an observer is told of a worker, in which order, and that it can harm nobody."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from deltabus.events import Terminal
from deltabus.telemetry import Observer, Watch
from deltabus.worker import AsyncWorker


class Recorder(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ...]] = []
        self.watches: list[Watch] = []
        self.gaps: list[float] = []
        self.appends: list[float] = []

    def started(self, slots: int) -> None:
        self.heard.append(("started", str(slots)))

    def draining(self) -> None:
        self.heard.append(("draining",))

    def taken(self, queue: str, used: int) -> None:
        self.heard.append(("taken", queue, str(used)))

    def freed(self, used: int) -> None:
        self.heard.append(("freed", str(used)))

    def begun(self, watch: Watch) -> None:
        self.watches.append(watch)
        watch.gaps = self.gaps.append
        watch.appends = self.appends.append
        self.heard.append(("begun", str(watch.attempt)))

    def calling(self, watch: Watch) -> None:
        self.heard.append(("calling", str(watch.tries)))

    def first_delta(self, watch: Watch) -> None:
        self.heard.append(("first_delta", watch.provider))

    def failed(self, watch: Watch, error: Any, retry_in: float | None) -> None:
        self.heard.append(("failed", error.code, "again" if retry_in is not None else "not again"))

    def settled(self, watch: Watch, event: Terminal) -> None:
        self.heard.append(("settled", str(watch.attempt), type(event).__name__))

    def ended(self, watch: Watch, ending: str) -> None:
        self.heard.append(("ended", ending))


class Careless(Observer):
    def begun(self, watch: Watch) -> None:
        raise ValueError("careless")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()

    def observers(_: AsyncWorker) -> Sequence[Observer]:
        return [Careless(), found]

    monkeypatch.setattr(AsyncWorker, "observers", observers)
    return found


def of_tasks(recorder: Recorder) -> list[tuple[str, ...]]:
    return [fact for fact in recorder.heard if fact[0] not in ("started", "draining")]


def test_of_a_streamed_task_comes_every_step_and_the_watch_has_its_facts(site, recorder):
    task = site.enqueue(script={"text": "one two three"}).id
    site.work(settings=site.settings(concurrency=7))
    assert recorder.heard[0] == ("started", "7")
    assert recorder.heard[-1] == ("draining",)
    assert of_tasks(recorder) == [
        ("taken", "chat", "1"),
        ("begun", "1"),
        ("calling", "1"),
        ("first_delta", "echo"),
        ("settled", "1", "Completed"),
        ("ended", "completed"),
        ("freed", "0"),
    ]
    (watch,) = recorder.watches
    assert (watch.task, watch.queue, watch.provider) == (task, "chat", "echo")
    assert watch.deltas > 1
    assert watch.began <= watch.called <= watch.first_delta <= watch.last_delta
    assert len(recorder.gaps) == watch.deltas - 1
    assert recorder.appends
    assert min(recorder.appends) > 0


def test_a_failure_is_told_with_what_follows_it(site, recorder):
    site.enqueue(script={"error": "rate_limited", "fail_after": 1, "fail_attempts": 1, "retry_after": 0.001})
    site.enqueue(script={"error": "permission", "fail_after": 0})
    site.work(settings=site.settings(concurrency=1, retry_delay=0.0))
    failures = [fact for fact in recorder.heard if fact[0] in ("begun", "failed", "settled", "ended")]
    assert failures == [
        ("begun", "1"),
        ("failed", "rate_limited", "again"),
        ("ended", "retrying"),
        ("begun", "2"),
        ("settled", "2", "Completed"),
        ("ended", "completed"),
        ("begun", "1"),
        ("failed", "permission", "not again"),
        ("settled", "1", "Failed"),
        ("ended", "failed"),
    ]


def test_a_task_that_is_refused_is_settled_without_an_attempt(site, recorder):
    site.queue().enqueue("deltabus.tasks.chat", {"request": 7})
    site.work()
    assert of_tasks(recorder) == [("taken", "chat", "1"), ("settled", "0", "Failed"), ("freed", "0")]


def test_an_observer_that_raises_is_logged_and_nothing_else(site, recorder, caplog):
    caplog.set_level(logging.ERROR)
    task = site.enqueue().id
    site.work()
    assert site.types(task)[-1] == "completed"
    assert "an observer failed at begun" in caplog.text
