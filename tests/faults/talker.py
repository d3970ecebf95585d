"""A provider whose answers go on until the test lets them end, and not before, however slow the machine is."""

from __future__ import annotations

import contextlib
import json
from asyncio import timeout
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripted import says

from deltabus import Bus, Completed, Task
from deltabus.testing import Reply, Request, ScriptedServer, Signal, check_events
from deltabus.testing.server import Step

#: By which tasks ask for it.
MODEL = "talker"

#: Seconds from one word to the next, as a model has it.
PACE = 0.05

#: What tasks are about that do not say it.
ANYTHING = "anything"


class Talker(ScriptedServer):
    """Says `0 1 2 …`, a number every `PACE` seconds, and stops soon after `let_end`; a context manager.

    What a request asks, its last message, is its topic: all answers about a topic are let end at once.

    Args:
        folder: for the configuration of workers that have this provider, and `echo` for what does not ask for it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(default=self._reply)
        self._ends: defaultdict[str, Signal] = defaultdict(Signal)
        self._config = folder / "talker.toml"

    @property
    def settings(self) -> dict[str, str]:
        """Of a worker."""
        provider = f'plugin = "openai"\nbase_url = "{self.url}/v1"\napi_key = "none"\nmodels = ["{MODEL}"]\n'
        self._config.write_text(f'[providers.talker]\n{provider}[providers.echo]\nplugin = "echo"\n', encoding="utf-8")
        return {"DELTABUS_CONFIG": str(self._config)}

    def let_end(self, topic: str = ANYTHING) -> None:
        """Answers about it say one word more, and so do those that come."""
        self._ends[topic].set()

    def _reply(self, request: Request) -> Reply:
        if request.method == "GET":
            return Reply.json({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        topic = request.json()["messages"][-1]["content"]
        return Reply(headers={"Content-Type": "text/event-stream"}, body=_Answer(self._ends[topic]))


class _Answer:
    """The steps of an answer: as many as it takes."""

    def __init__(self, end: Signal) -> None:
        self._end = end

    def __iter__(self) -> Iterator[Step]:
        number = 0
        while not self._end.is_set:
            yield _event(says(f"{number} "))
            yield _Beat(self._end)
            number += 1
        yield _event(says(str(number), "stop"))
        yield b"data: [DONE]\n\n"


class _Beat(Signal):
    """The time for the next word, or for the last one."""

    def __init__(self, end: Signal) -> None:
        super().__init__()
        self._end = end

    async def happened(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with timeout(PACE):
                await self._end.happened()


def _event(chunk: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def talk(bus: Bus, count: int = 1, topic: str = ANYTHING) -> list[Task]:
    """Tasks that the talker carries out."""
    return [bus.chat(messages=topic, model=MODEL) for _ in range(count)]


def told(task: Task) -> int:
    """The task completes with all that was said, in its order, and its log is in order; how many attempts it took."""
    events = list(task.events())
    check_events(events)
    ending = events[-1]
    assert isinstance(ending, Completed), ending
    numbers = ending.result["choices"][0]["message"]["content"].split()
    assert numbers
    assert numbers == [str(number) for number in range(len(numbers))]
    return max(event.attempt or 0 for event in events)
