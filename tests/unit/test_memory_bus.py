"""A bus without a server does what a bus with one does."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest
import structlog

from deltabus import BlobNotFound, TaskCancelled, TaskFailed, TaskNotFound
from deltabus.events import Completed, Delta, Started
from deltabus.settings import load
from deltabus.testing import check_events, memory_bus
from deltabus.testing.api import ApiServer


def test_a_task_streams_and_completes() -> None:
    with memory_bus() as bus:
        task = bus.chat(messages="hello brave new world")
        assert "".join(task.text()) == "hello brave new world"
        assert task.result(timeout=100)["choices"][0]["message"]["content"] == "hello brave new world"
        assert task.status().state == "completed"


def test_a_late_subscriber_sees_every_event() -> None:
    with memory_bus() as bus:
        task = bus.chat(messages="hello", echo={"words": 20})
        task.result(timeout=100)
        events = list(task.events())
    check_events(events)
    assert isinstance(events[0], Started)
    assert any(isinstance(event, Delta) for event in events)
    assert isinstance(events[-1], Completed)


def test_it_is_the_same_for_asyncio() -> None:
    async def main() -> str:
        async with memory_bus() as bus:
            tasks = [await bus.chat(messages=f"number {n}") for n in range(20)]
            results = await asyncio.gather(*(task.result(timeout=100) for task in tasks))
            return " ".join(result["choices"][0]["message"]["content"] for result in results)

    assert asyncio.run(main()) == " ".join(f"number {n}" for n in range(20))


def test_failures_and_cancels_are_raised() -> None:
    with memory_bus(replace(load(environ={}), max_retries=0)) as bus:
        with pytest.raises(TaskFailed, match="rate_limited"):
            bus.chat(messages="hello", echo={"error": "rate_limited", "fail_after": 1}).result(timeout=100)
        task = bus.chat(messages="hello", echo={"words": 9, "stall_after": 2})
        next(task.text())
        assert task.cancel("enough")
        with pytest.raises(TaskCancelled, match="enough"):
            task.result(timeout=100)
        with pytest.raises(TaskNotFound):
            bus.task("nobody-knows-it").result(timeout=100)


def test_two_of_them_do_not_know_each_other() -> None:
    with memory_bus() as one, memory_bus() as other:
        task = one.chat(messages="hello")
        task.result(timeout=100)
        with pytest.raises(TaskNotFound):
            other.task(task.id).result(timeout=100)


def test_leaving_does_not_wait_for_what_runs() -> None:
    with memory_bus() as bus:
        task = bus.chat(messages="hello", echo={"words": 9, "stall_after": 2})
        next(task.text())


def test_files_go_through_it_too() -> None:
    with ApiServer() as server:
        settings = load(environ={"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-memory-0123456789"})
        with memory_bus(settings) as bus:
            made = bus.upload(b"a small file", filename="small.txt").result(timeout=100)
            kept = bus.download(made["id"]).result(timeout=100)
            assert b"".join(bus.read_blob(kept["id"])) == b"a small file"
            assert bus.delete_file(made["id"]).result(timeout=100)["deleted"] is True
        assert server.left == []


def test_it_has_blobs() -> None:
    data = bytes(3_000_000)
    with memory_bus() as bus:
        blob = bus.blob(data, ttl=60)
        assert b"".join(bus.read_blob(blob)) == data
        assert bus.delete_blob(blob)
        with pytest.raises(BlobNotFound):
            list(bus.read_blob(blob))


def test_its_worker_says_nothing_on_the_programs_output_and_takes_part_in_its_logging(capfd, caplog):
    caplog.set_level("INFO")
    structlog.reset_defaults()
    with memory_bus() as bus, memory_bus() as other:
        for one in (bus, other):
            one.chat(messages="hi").result(timeout=100)
    assert capfd.readouterr() == ("", "")
    assert caplog.text.count("event='worker started'") == 2
    assert not structlog.is_configured()


def test_a_program_that_has_set_structlog_up_keeps_what_it_has():
    seen = []

    def see(_: object, __: str, line: dict[str, object]) -> dict[str, object]:
        seen.append(line["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[see])
    try:
        with memory_bus() as bus:
            bus.chat(messages="hi").result(timeout=100)
        assert "worker started" in seen
        assert structlog.get_config()["processors"] == [see]
    finally:
        structlog.reset_defaults()


def test_behind_its_block_it_says_that_nobody_works_any_more():
    with memory_bus() as bus:
        task = bus.chat(messages="hi")
        task.result(timeout=100)

    async def behind() -> None:
        async with memory_bus() as later:
            task = await later.chat(messages="hi")
            await task.result(timeout=100)
        for call in (later.chat(messages="hi"), task.result(timeout=100)):
            with pytest.raises(RuntimeError, match=r"the block of this memory_bus\(\) is over"):
                await call

    for call in (lambda: bus.chat(messages="hi"), lambda: task.result(timeout=100), lambda: list(task.events())):
        with pytest.raises(RuntimeError, match=r"the block of this memory_bus\(\) is over"):
            call()
    asyncio.run(behind())


def test_in_a_fork_it_says_that_its_worker_is_not_there(monkeypatch):
    with memory_bus() as bus:
        task = bus.chat(messages="hi")
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: 1)
            for call in (lambda: bus.chat(messages="hi"), lambda: task.result(timeout=100)):
                with pytest.raises(RuntimeError, match=r"this memory_bus\(\) belongs to another process"):
                    call()
        task.result(timeout=100)
