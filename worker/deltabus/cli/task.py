"""`deltabus enqueue`, `watch`, `result`, `cancel`: any task, whoever made it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from deltabus import keys
from deltabus.cli import complete, exits
from deltabus.cli.following import follow, raise_if_lost, run
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.screens import Screen
from deltabus.cli.seconds import Seconds
from deltabus.cli.transcript import Transcript, answer
from deltabus.errors import TaskCancelled, TaskFailed, TaskNotFound

if TYPE_CHECKING:
    from deltabus.bus import AsyncBus, AsyncTask

ENQUEUE = """Enqueue a task and print its id.

FUNCTION is a registered task function, such as deltabus.tasks.chat. ENVELOPE is its argument, a JSON
object: given as it is, as @FILE, or as - for stdin.

\b
Examples:
  deltabus enqueue deltabus.tasks.chat '{"request": {"messages": [{"role": "user", "content": "hi"}]}}'
  deltabus enqueue deltabus.tasks.chat @envelope.json --queue batch --id night-42
  id=$(deltabus enqueue deltabus.tasks.chat - < envelope.json) && deltabus watch "$id"
"""

WATCH = """Follow tasks to their end, from the start or from a cursor.

One task: its answer, as `deltabus chat` shows it. Several: one line an event, over one connection.
With --json, one event a line as JSON. A task that is already done is replayed.

\b
Examples:
  deltabus watch 3f1c…
  deltabus watch 3f1c… --after 1-7        resume behind event 1-7
  deltabus watch A B C --json             events of three tasks as they come
  deltabus watch A B --after 1-7 --after 1-12

Exit code: 0 if all completed, 1 if any failed or was cancelled.
"""

RESULT = """Wait for a task's result and print it.

Prints the text of a chat completion's first choice, or any other result as JSON; with --json, the whole
object that the provider returned, in one line.

\b
Examples:
  deltabus result 3f1c…
  deltabus result 3f1c… --timeout 30
  deltabus result 3f1c… --json | jq .usage

Exit code: 0 completed, 1 failed, cancelled, or not finished within --timeout.
"""

CANCEL = """Cancel tasks: before they start, or while they run. The connection to the provider is closed.

\b
Examples:
  deltabus cancel 3f1c…
  deltabus cancel 3f1c… --reason "the user left"
  xargs deltabus cancel < tasks.txt

Exit code: 0 if all will end as cancelled, 1 if one had already finished, 2 if one is unknown.
"""


def _task_id(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    for task in (value,) if isinstance(value, str) else value or ():
        if not keys.TASK_ID.fullmatch(task):
            raise click.BadParameter(f"{task!r} is not a task id: 1 to 128 letters, digits, `_` and `-`", ctx, param)
    return value


def _cursor(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    for cursor in value:
        attempt, dash, number = cursor.partition("-")
        if not (dash and attempt.isdecimal() and number.isdecimal()):
            raise click.BadParameter(f"{cursor!r} is not the id of an event, such as 1-7", ctx, param)
    return value


@click.command("enqueue", cls=Command, help=ENQUEUE)
@click.argument("function")
@click.argument("envelope")
@click.option(
    "--queue", default="chat", show_default=True, shell_complete=complete.queues, help="Queue to put the task on."
)
@click.option("--id", "task_id", callback=_task_id, help="Id of the new task. Default: a random one.")
@click.option("--json", "as_json", is_flag=True, help="Print an object: task and queue.")
@pass_session
def enqueue(session: Session, *, function: str, envelope: str, queue: str, task_id: str | None, as_json: bool) -> int:
    value = _envelope(envelope)
    screen = Screen()

    async def work() -> int:
        from deltabus.bus import AsyncBus

        async with AsyncBus(settings=session.settings) as bus:
            task = await bus.enqueue(function, value, queue=queue, task_id=task_id)
        if as_json:
            screen.json({"task": task.id, "queue": queue})
        else:
            screen.answer(task.id + "\n")
        return exits.DONE

    return run(session, screen, {}, work)


def _envelope(text: str) -> dict[str, Any]:
    name = "ENVELOPE"
    try:
        if text == "-":
            raw = sys.stdin.buffer.read()
        elif text.startswith("@"):
            name = f"ENVELOPE {text}"
            raw = Path(text[1:]).read_bytes()
        else:
            raw = text.encode()
        value = msgspec.json.decode(raw)
    except OSError as exc:
        raise click.UsageError(f"{name}: {exc.strerror or exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise click.UsageError(f"{name}: not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise click.UsageError(f'{name}: must be a JSON object, such as {{"request": {{…}}}}')
    return value


@click.command("watch", cls=Command, help=WATCH)
@click.argument("tasks", nargs=-1, required=True, metavar="ID...", callback=_task_id, shell_complete=complete.tasks)
@click.option(
    "--after", multiple=True, metavar="CURSOR", callback=_cursor, help="Id of the last event seen; one a task."
)
@click.option("--json", "as_json", is_flag=True, help="Print the events, one JSON a line.")
@pass_session
def watch(session: Session, *, tasks: tuple[str, ...], after: tuple[str, ...], as_json: bool) -> int:
    if after and len(after) != len(tasks):
        raise click.UsageError(
            f"{len(tasks)} tasks but {len(after)} cursors: give --after once for each task, in order"
        )
    screen = Screen()
    cursors = dict(zip(tasks, after, strict=True)) if after else dict.fromkeys(tasks)
    transcripts = {task: Transcript(cursor) for task, cursor in cursors.items()}

    async def work() -> int:
        from deltabus.bus import AsyncBus

        async with AsyncBus(settings=session.settings) as bus:
            lines = _Lines(screen, max(map(len, tasks))) if len(transcripts) > 1 and not as_json else None
            following = [
                _watch_one(bus, screen, task, transcript, lines, as_json=as_json)
                for task, transcript in transcripts.items()
            ]
            return max(await asyncio.gather(*following))

    return run(session, screen, transcripts, work)


async def _watch_one(
    bus: AsyncBus, screen: Screen, task: str, transcript: Transcript, lines: _Lines | None, *, as_json: bool
) -> int:
    """Follow one of several tasks; what becomes of it does not disturb the others."""
    try:
        if lines is None:
            await follow(bus.task(task), screen, transcript, json=as_json)
        else:
            await lines.follow(bus.task(task), transcript)
    except (TaskFailed, TaskCancelled, TaskNotFound) as exc:
        screen.error(exits.explain(exc) or str(exc))
        return exits.code(exc)
    return exits.DONE


class _Lines:
    """Several tasks on one screen: a line an event."""

    def __init__(self, screen: Screen, width: int) -> None:
        self._screen = screen
        self._width = width

    async def follow(self, task: AsyncTask, transcript: Transcript) -> None:
        """Print the events of one of them; raises TaskFailed or TaskCancelled if it ends so."""
        async for event in task.events(after=transcript.cursor):
            pieces = list(transcript.feed(event))
            text = "".join(piece.text for piece in pieces if piece.kind == "text")
            kind = type(event).__name__.lower()
            notes = [piece.text.removeprefix(kind).lstrip(", ") for piece in pieces if piece.kind in {"note", "void"}]
            detail = " ".join([*([msgspec.json.encode(text).decode()] if text else []), *notes])
            shown = "end" if event.id == keys.SEAL else event.id
            self._screen.row(f"{task.id:<{self._width}}  {shown:<8} {kind:<9} {detail}".rstrip())
            raise_if_lost(event)


@click.command("result", cls=Command, help=RESULT)
@click.argument("task", metavar="ID", callback=_task_id, shell_complete=complete.tasks)
@click.option("--timeout", type=Seconds(min=0), metavar="SECONDS", help="How long to wait. Default: to the end.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole object as one line of JSON.")
@pass_session
def result(session: Session, *, task: str, timeout: float | None, as_json: bool) -> int:
    screen = Screen()

    async def work() -> int:
        from deltabus.bus import AsyncBus

        async with AsyncBus(settings=session.settings) as bus:
            screen.wait(f"waiting for {task}")
            try:
                value = await bus.task(task).result(timeout)
            except TimeoutError:
                screen.error(f"not finished within {timeout:g} s; follow it with: {session.command('watch', task)}")
                return exits.FAILED
        if as_json:
            screen.json(value)
        elif (text := answer(value)) is not None:
            screen.answer(text)
        else:
            screen.pretty(value)
        return exits.DONE

    return run(session, screen, {task: Transcript()}, work)


@click.command("cancel", cls=Command, help=CANCEL)
@click.argument("tasks", nargs=-1, required=True, metavar="ID...", callback=_task_id, shell_complete=complete.tasks)
@click.option("--reason", help="Why; subscribers see it.")
@click.option("--json", "as_json", is_flag=True, help="Print an object for each: task and cancelled.")
@pass_session
def cancel(session: Session, *, tasks: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    screen = Screen()

    async def work() -> int:
        from deltabus.bus import AsyncBus

        code = exits.DONE
        async with AsyncBus(settings=session.settings) as bus:
            for task in dict.fromkeys(tasks):
                try:
                    accepted = await bus.task(task).cancel(reason)
                except TaskNotFound as exc:  # the others are there, perhaps
                    screen.error(str(exc))
                    code = exits.USAGE
                    continue
                if as_json:
                    screen.json({"task": task, "cancelled": accepted})
                elif accepted:
                    screen.answer(f"{task} is being cancelled\n")
                else:
                    screen.error(f"{task} has already finished; see it with: {session.command('result', task)}")
                code = max(code, exits.DONE if accepted else exits.FAILED)
        return code

    return run(session, screen, {}, work)
