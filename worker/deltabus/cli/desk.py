"""A command that puts tasks on a queue and waits for what comes of them: its bus, its screen, its options."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deltabus.cli import complete
from deltabus.cli.following import raise_if_lost, run
from deltabus.cli.options import Session
from deltabus.cli.queues import watch_for_staff
from deltabus.cli.screens import Screen
from deltabus.cli.transcript import Transcript
from deltabus.events import Completed, Progress, Started

if TYPE_CHECKING:
    from deltabus.bus import AsyncBus, AsyncTask

F = TypeVar("F", bound=Callable[..., Any])


def desk_options(queue: str) -> Callable[[F], F]:
    """Give a command the options that every one with a desk has: `provider`, `queue`, `as_json`.

    Args:
        queue: the default.
    """
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print the provider's object as one line of JSON."),
        click.option(
            "--queue",
            default=queue,
            show_default=True,
            shell_complete=complete.queues,
            help="Queue to put the task on.",
        ),
        click.option(
            "-p",
            "--provider",
            shell_complete=complete.providers,
            help="Configured provider to ask. Default: the model's, or who takes any.",
        ),
    )

    def add(command: F) -> F:
        for option in options:
            command = option(command)
        return command

    return add


class Desk:
    """One run of such a command."""

    def __init__(self, session: Session, *, provider: str | None, queue: str) -> None:
        self.session = session
        self.screen = Screen()
        #: For the bus' methods.
        self.options: dict[str, Any] = {"provider": provider, "queue": queue}
        self._queue = queue
        self._transcripts: dict[str, Transcript] = {}

    def run(self, work: Callable[[AsyncBus], Coroutine[Any, Any, int]]) -> int:
        """Do the work with a bus; the exit code."""

        async def with_bus() -> int:
            from deltabus.bus import AsyncBus

            async with AsyncBus(settings=self.session.settings) as bus:
                return await work(bus)

        return run(self.session, self.screen, self._transcripts, with_bus)

    async def outcome(self, task: AsyncTask, doing: str = "") -> Any:
        """Wait for a task's result, with a bar of the bytes that it moves.

        Args:
            doing: what happens to the bytes, as the bar has it.

        Raises:
            TaskFailed, TaskCancelled: the task ended so.
        """
        transcript = self._transcripts[task.id] = Transcript()
        screen = self.screen
        screen.wait(f"following {task.id}")
        beside = asyncio.create_task(watch_for_staff(self.session, screen, self._queue))
        try:
            async with aclosing(task.events()) as events:
                async for event in events:
                    beside.cancel()
                    pieces = list(transcript.feed(event))
                    match event:
                        case Started():
                            screen.show(pieces)
                            screen.wait(f"attempt {event.attempt} is at work")
                        case Progress():
                            screen.progress(doing, event.done, event.total)
                        case Completed():
                            screen.settle()
                            del self._transcripts[task.id]
                            return event.result
                        case _:
                            screen.show(pieces)
                    raise_if_lost(event)
        finally:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)
        raise AssertionError("a follower ends after a terminal event")
