"""Log and bus on fakeredis: the same scripts and connections, with no server."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from fakeredis import FakeAsyncRedis, FakeServer

from deltabus import Bus, events, keys
from deltabus.bus import AsyncBus
from deltabus.errors import CancelRequested, TaskCancelled, TaskNotFound
from deltabus.events import Completed, Progress
from deltabus.log import Log
from deltabus.settings import Settings


def test_a_task_goes_all_the_way_without_a_server(run):
    async def main():
        server = FakeServer()
        log = Log(FakeAsyncRedis(server=server), Settings(max_log_bytes=200))
        async with AsyncBus(client=FakeAsyncRedis(server=server), settings=Settings()) as bus, asyncio.timeout(100):
            task = await bus.chat(messages="hi")
            text = asyncio.create_task(_joined(task.text()))
            early = asyncio.create_task(_list(task.events()))
            attempt = await log.begin(task.id, worker="w", queue="chat", on_interrupt=lambda _: None)
            written: list[bytes] = []
            attempt.snapshot = lambda: written
            for word in ("a ", "b ", "c"):
                written.append(msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": word}}]}))
                await attempt.write(written[-1])
                await attempt.emit(Progress(task=task.id, at=1.0, done=1))
            await log.renew([attempt])
            await attempt.seal(Completed(task=task.id, at=1.0, result="done"))
            assert await text == "a b c"
            seen = await early
            assert seen[-1].id == keys.SEAL
            assert await task.result() == "done"
            late = await _list(task.events())
            assert isinstance(late[0], events.Snapshot)
            assert (await task.status()).state == "completed"
            with pytest.raises(TaskNotFound):
                await bus.task("nobody").result()
            with pytest.raises(Exception, match="settled"):
                await log.begin(task.id, worker="w", queue="chat", on_interrupt=lambda _: None)
            again = await log.begin(task.id, worker="w", queue="chat", on_interrupt=lambda _: None, reopen=True)
            assert again.number == 2
        await log.aclose()

    run(main())


def test_a_cancel_works_without_a_server(run):
    async def main():
        server = FakeServer()
        log = Log(FakeAsyncRedis(server=server), Settings())
        async with AsyncBus(client=FakeAsyncRedis(server=server), settings=Settings()) as bus, asyncio.timeout(100):
            waiting = await bus.chat(messages="hi", task_id="t1")
            assert await waiting.cancel("no") is True
            with pytest.raises(TaskCancelled, match="no"):
                await waiting.result()
            taken = await bus.chat(messages="hi", task_id="t2")
            await FakeAsyncRedis(server=server).lpop("rq:queue:chat")
            assert await taken.cancel("stop") is True
            with pytest.raises(CancelRequested, match="stop"):
                await log.begin("t2", worker="w", queue="chat", on_interrupt=lambda _: None)
        await log.aclose()

    run(main())


def test_blocking_code_needs_no_server_either():
    with Bus(client=FakeAsyncRedis(server=FakeServer()), settings=Settings()) as bus:
        task = bus.chat(messages="hi")
        assert task.status().position == 0
        assert task.cancel() is True


async def _joined(pieces):
    return "".join([piece async for piece in pieces])


async def _list(items):
    return [item async for item in items]
