"""A thousand tasks at once in one worker process, each with a subscriber of its own."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from processes import DELTABUS, Background, environ

from deltabus import AsyncBus, AsyncTask
from deltabus.events import AnyEvent, Completed, Delta
from deltabus.testing import check_events

TASKS = 1000
WORDS = 20
INTERVAL = 0.1

#: Peak memory that the worker may take for them, in kB.
MEMORY = 150 * 1024


async def _follow(task: AsyncTask) -> list[AnyEvent]:
    return [event async for event in task.events()]


async def _all(url: str) -> list[list[AnyEvent]]:
    async with AsyncBus(url) as bus:
        request = {
            "messages": [{"role": "user", "content": "hello"}],
            "stream": True,
            "echo": {"words": WORDS, "interval": INTERVAL},
        }
        tasks = await bus.chat_many([request] * TASKS)
        return await asyncio.gather(*map(_follow, tasks))


@pytest.mark.timeout(600)
def test_a_thousand_streams_in_one_process_reach_their_subscribers_whole(redis_url: str) -> None:
    command = (*DELTABUS, "worker", "chat", "--concurrency", str(TASKS))
    # Fresh, as it counts what the process has ever had in memory.
    with Background(command, environ=environ(redis_url), fresh=True) as worker:
        worker.wait_for("worker started")
        stories = asyncio.run(_all(redis_url))
        status = Path(f"/proc/{worker.process.pid}/status")
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    assert len(stories) == TASKS
    for events in stories:
        check_events(events)
        ending = events[-1]
        assert isinstance(ending, Completed)
        content = ending.result["choices"][0]["message"]["content"]
        assert len(content.split()) == WORDS
        pieces = [
            chunk["choices"][0]["delta"].get("content") or ""
            for e in events
            if isinstance(e, Delta)
            for chunk in e.chunks
            if chunk["choices"]
        ]
        assert "".join(pieces) == content
    assert peak is None or int(peak[1]) < MEMORY
