"""An attempt that streams numbers, and what a subscriber makes of its log."""

from __future__ import annotations

import json
from typing import Any

from deltabus.attempt import Attempt
from deltabus.events import Completed, Delta, Progress, Snapshot, Started


class Streaming:
    """An attempt whose chunks are numbers, as the engine would drive it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.written: list[int] = []
        attempt.snapshot = lambda: [numbers(*self.written)]

    async def write(self, *values: int) -> None:
        for value in values:
            self.written.append(value)
            await self.attempt.write(numbers(value))

    async def flush(self) -> None:
        await self.attempt.emit(Progress(task=self.attempt.task, at=1.0, done=len(self.written)))

    async def seal(self) -> None:
        await self.attempt.seal(Completed(task=self.attempt.task, at=1.0, result=self.written))


def numbers(*values: int) -> bytes:
    """A chunk."""
    return json.dumps({"n": values}).encode()


def streamed(found: list[Any]) -> list[int]:
    """What a subscriber of these events has in the end, for the last attempt."""
    values: list[int] = []
    for event in found:
        match event:
            case Started():
                values = []
            case Snapshot():
                values = [n for c in event.chunks for n in c["n"]]
            case Delta():
                values += [n for c in event.chunks for n in c["n"]]
    return values
