"""A worker that dies in a user's test dies as one does that is killed, and another takes its tasks over."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from deltabus import AsyncTask, Bus, TaskFailed
from deltabus.events import Completed, Delta, Started
from deltabus.settings import load
from deltabus.testing import Reply, ScriptedServer, Signal, check_events, memory_bus

CHUNK = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "word "}}]}
LAST = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

#: A task function that leaves a trace where it is ended rather than killed.
COUNT = """
import asyncio
from deltabus.tasks import task

ended, hold = [], asyncio.Event()

@task
async def count(context):
    try:
        for number in range(4):
            await context.attempt.write(b'{"number": %d}' % number)
        return {"attempt": context.attempt.number}
    finally:
        ended.append(context.attempt.number)
        await asyncio.sleep(0)
"""


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package with that task function."""
    info = tmp_path / "counting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deltabus.tasks]\ncount = counting:count\n")
    (tmp_path / "counting.py").write_text(COUNT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    return tmp_path


@pytest.mark.parametrize("event", [0, 1, 3])
def test_subscribers_see_the_attempt_end_at_that_event_and_another_begin(event: int) -> None:
    with memory_bus(crash_after=event) as bus:
        task = bus.chat(messages="hello", echo={"words": 8})
        events = list(task.events())
        again = bus.chat(messages="once more").result(timeout=100)
    check_events(events)
    first = [seen.id for seen in events if seen.attempt == 1]
    assert first == [f"1-{number}" for number in range(event + 1)]
    assert [seen.id for seen in events if isinstance(seen, Started)] == ["1-0", "2-0"]
    assert isinstance(events[-1], Completed)
    assert len(events[-1].result["choices"][0]["message"]["content"].split()) == 8
    assert again["choices"][0]["message"]["content"] == "once more"


def test_each_chunk_is_an_event_so_that_the_number_means_the_same_everywhere() -> None:
    with memory_bus(crash_after=4) as bus:
        events = list(bus.chat(messages="hello", echo={"words": 8}).events())
    assert [len(seen.chunks) for seen in events if isinstance(seen, Delta)] == [1] * (4 + 10)


def test_a_worker_that_dies_behind_the_terminal_event_has_settled_the_task() -> None:
    with memory_bus(crash_after=11) as bus:
        task = bus.chat(messages="hello", echo={"words": 8})
        events = list(task.events())
        assert bus.chat(messages="once more").result(timeout=100)  # which another worker says
        assert task.status().state == "completed"
    assert [seen.id for seen in events if isinstance(seen, Started)] == ["1-0"]


def test_all_that_the_worker_runs_dies_with_it_and_runs_again() -> None:
    async def main() -> None:
        async with memory_bus(crash_after=5) as bus:
            silent = [await bus.chat(messages="hello", echo={"words": 9, "stall_after": 2}) for _ in range(10)]
            for task in silent:
                await _see("1-2", task)
            events = [seen async for seen in (await bus.chat(messages="hello", echo={"words": 8})).events()]
            check_events(events)
            assert "1-5" in {seen.id for seen in events}
            assert isinstance(events[-1], Completed)
            for task in silent:
                await _see("2-2", task)
                await task.cancel()
                check_events([seen async for seen in task.events()])

    asyncio.run(main())


async def _see(event: str, task: AsyncTask) -> None:
    """Wait until subscribers see the event."""
    async with aclosing(task.events()) as events:
        async for seen in events:
            if seen.id == event:
                return


def test_the_connection_to_the_provider_is_closed() -> None:
    never = Signal()
    with ScriptedServer(Reply.sse(CHUNK, CHUNK, never), Reply.sse(CHUNK, LAST)) as server:
        settings = load(environ={"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-memory-0123456789"})
        with memory_bus(settings, crash_after=2) as bus:
            task = bus.chat(messages="hello", model="m")
            assert task.result(timeout=100)["choices"][0]["message"]["content"] == "word "
            server.requests[0].closed.wait()
        assert len(server.requests) == 2


def test_a_task_that_loses_its_worker_too_often_fails() -> None:
    with memory_bus(replace(load(environ={}), max_deliveries=1), crash_after=2) as bus:
        task = bus.chat(messages="hello")
        with pytest.raises(TaskFailed, match="worker_lost"):
            task.result(timeout=100)


def test_nothing_of_the_dead_attempt_is_cleaned_up(count: Path) -> None:
    with memory_bus(crash_after=2) as bus:
        assert bus.enqueue("counting.count", {"request": {}}).result(timeout=100) == {"attempt": 2}
    assert sys.modules["counting"].ended == [2]


def test_the_process_ends_without_a_word_of_the_dead(count: Path) -> None:
    program = """
        import atexit, logging
        from deltabus.testing import memory_bus

        logging.getLogger("deltabus").addHandler(logging.NullHandler())  # that jobs were lost is worth a warning

        with memory_bus(crash_after=2) as bus:
            assert bus.enqueue("counting.count", {"request": {}}).result(timeout=100) == {"attempt": 2}
        import counting
        atexit.register(lambda: print("ended", counting.ended))
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": str(count), "DELTABUS_LOG_LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "ended [2]"


def test_a_worker_that_did_not_die_fails_the_test() -> None:
    def ask(bus: Bus) -> None:
        bus.chat(messages="hello", echo={"words": 8}).result(timeout=100)

    with pytest.raises(AssertionError, match=r"crash_after=12: .* the longest had 12 events, numbered from 0 to 11"):
        _with_a_bus_that_crashes(12, ask)
    with pytest.raises(AssertionError, match="crash_after=12: the worker did not die, as no task began"):
        _with_a_bus_that_crashes(12, lambda _: None)


def _with_a_bus_that_crashes(after: int, test: Callable[[Bus], None]) -> None:
    with memory_bus(crash_after=after) as bus:
        test(bus)


def test_a_failure_of_the_test_itself_is_not_hidden_by_that() -> None:
    with pytest.raises(ZeroDivisionError), memory_bus(crash_after=12):
        _ = 1 / 0


def test_events_are_not_counted_from_below_zero() -> None:
    with pytest.raises(ValueError, match="crash_after=-1: events are numbered from 0"):
        memory_bus(crash_after=-1)
