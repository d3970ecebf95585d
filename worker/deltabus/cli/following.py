"""Following tasks to their end on a screen: what `chat` and `watch` have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from deltabus import events
from deltabus.cli import exits
from deltabus.cli.options import Session
from deltabus.cli.screens import Screen
from deltabus.cli.server import connect
from deltabus.cli.transcript import Transcript
from deltabus.errors import TaskCancelled, TaskFailed

if TYPE_CHECKING:
    from deltabus.bus import AsyncTask


def run(
    session: Session,
    screen: Screen,
    transcripts: Mapping[str, Transcript],
    work: Callable[[], Coroutine[Any, Any, int]],
) -> int:
    """Run `work` to its end, or until Ctrl+C: then say how to go on from where each task was.

    Args:
        transcripts: by task id; filled while `work` runs.
    """
    try:
        # A person is told at once, where a service would wait for Redis to come up.
        connect(session.settings).close()
        screen.show_log()
        return asyncio.run(work())
    except KeyboardInterrupt:
        screen.end()
        if not transcripts:
            screen.note("interrupted")
        for task, transcript in transcripts.items():
            after = ["--after", transcript.cursor] if transcript.cursor else []
            screen.note(f"the task goes on; resume with: {session.command('watch', task, *after)}", style="yellow")
        return exits.INTERRUPTED
    finally:
        screen.end()


async def follow(
    task: AsyncTask,
    screen: Screen,
    transcript: Transcript,
    *,
    json: bool,
    waiting: Coroutine[Any, Any, None] | None = None,
) -> None:
    """Show a task's answer as it comes, or its events, one JSON a line.

    Args:
        waiting: what to run until the first event is there.

    Raises:
        TaskFailed, TaskCancelled: the task ended so.
    """
    screen.wait(f"following {task.id}")
    beside = asyncio.create_task(waiting) if waiting else None
    try:
        # As published, byte for byte; and read, to know where the task is.
        async with aclosing(task.messages(after=transcript.cursor)) as messages:
            async for message in messages:
                if beside:
                    beside.cancel()
                event = events.decode(message)
                pieces = list(transcript.feed(event))
                if json:
                    screen.line(message)
                else:
                    screen.show(pieces)
                if isinstance(event, events.Started):
                    screen.wait(f"attempt {event.attempt} is at work")
                raise_if_lost(event)
    finally:
        if beside:
            beside.cancel()
            await asyncio.gather(beside, return_exceptions=True)


def raise_if_lost(event: events.AnyEvent) -> None:
    """Raise TaskFailed or TaskCancelled if that is what the event says."""
    match event:
        case events.Failed():
            raise TaskFailed(event.task, event.error)
        case events.Cancelled():
            raise TaskCancelled(event.task, event.reason)
