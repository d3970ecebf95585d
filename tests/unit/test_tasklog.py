"""The log of tasks: a line each while there is room, and sums of the rest."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from deltabus import tasklog, telemetry
from deltabus.envelope import Envelope
from deltabus.errors import ErrorInfo, RateLimited
from deltabus.events import Cancelled, Completed, Failed
from deltabus.tasklog import BURST, TaskLog
from deltabus.telemetry import Watch


@pytest.fixture
def watch():
    watch = Watch("t1", "chat", 2, "w", Envelope(request={"model": "m-1", "messages": "a prompt"}, tenant="acme"))
    watch.provider = "main"
    watch.call()
    return watch


def completed(result=None):
    return Completed(task="t1", at=1.0, result=result)


def test_the_line_of_a_task_says_who_did_it_how_long_it_took_and_what_it_cost(watch):
    watch.delta()
    watch.delta()
    with capture_logs() as lines:
        TaskLog(1).settled(watch, completed({"choices": "an answer", "usage": {"prompt_tokens": 3}}))
    (line,) = lines
    assert line.pop("seconds") >= line.pop("first_delta") >= 0
    assert line == {
        "log_level": "info",
        "event": "task finished",
        "task": "t1",
        "attempt": 2,
        "queue": "chat",
        "provider": "main",
        "model": "m-1",
        "tenant": "acme",
        "outcome": "completed",
        "deltas": 2,
        "tokens": {"prompt": 3},
    }


def test_a_failed_try_is_told_by_its_code_and_without_the_providers_words(watch):
    with capture_logs() as lines:
        TaskLog(1).failed(watch, RateLimited("you said: a prompt", status=429, request_id="r-1"), 0.5)
    (line,) = lines
    assert (line["code"], line["status"], line["request_id"], line["retry_in"]) == ("rate_limited", 429, "r-1", 0.5)
    assert "a prompt" not in str(line)


def test_what_is_beyond_the_room_is_summed_up_by_its_ending(watch, monkeypatch):
    monkeypatch.setattr(tasklog, "perf_counter", lambda: 1000.0)  # or the next second would bring room for another line
    failed = Failed(task="t1", at=1.0, error=ErrorInfo(code="not_found", message="no"))

    async def main():
        log = TaskLog(1)
        for _ in range(BURST):
            log.settled(watch, completed())
        with capture_logs() as lines:
            for event in (completed(), completed(), failed, Cancelled(task="t1", at=1.0)):
                log.settled(watch, event)
            log.failed(watch, RateLimited("no"), None)
            log.sum_up()
            log.sum_up()
        return lines

    lines = asyncio.run(main())
    assert [line["tasks"] for line in lines] == [
        {"completed": 2, "failed, not_found": 1, "cancelled": 1, "attempts failed, rate_limited": 1}
    ]


def test_sums_are_nobodys_though_a_task_is_the_first_to_be_counted(watch, monkeypatch):
    monkeypatch.setattr(tasklog, "SUM_INTERVAL", 0.0)
    said = asyncio.Event()
    whose = []

    def sum_up(log: TaskLog) -> None:
        whose.append(telemetry.watch())
        said.set()

    async def main():
        monkeypatch.setattr(TaskLog, "sum_up", sum_up)
        log = TaskLog(0)
        token = telemetry.attend(watch)
        log.settled(watch, completed())
        await said.wait()
        assert telemetry.watch() is watch
        telemetry.leave(token)

    asyncio.run(main())
    assert whose == [None]


def test_without_lines_there_are_sums_alone(watch):
    async def main():
        log = TaskLog(0)
        with capture_logs() as lines:
            log.settled(watch, completed())
            log.sum_up()
        return lines

    (line,) = asyncio.run(main())
    assert line["tasks"] == {"completed": 1}
