"""`deltabus dead`: what has failed, in RQ's failed registries. List it, look at it, run it again, delete it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from deltabus import errors
from deltabus.cli import complete, exits
from deltabus.cli.age import Age
from deltabus.cli.options import CommandGroup, Session, pass_session
from deltabus.cli.screens import Screen
from deltabus.cli.server import connect

if TYPE_CHECKING:
    from deltabus.dead import DeadLetter, DeadLetters, Fate, Filter

F = TypeVar("F", bound=Callable[..., Any])

DEAD = """What has failed: look at it, run it again, delete it.

A task that failed stays in RQ's failed registry for `failure_ttl` (a week), with its request and its error.
Jobs that are not deltabus' are treated like any other.

\b
Examples:
  deltabus dead list
  deltabus dead show 3f1c…
  deltabus dead requeue --code provider_unavailable
  deltabus dead purge --older-than 3d
"""

LIST = """List failed tasks, the newest of each queue first: when, where, why, which.

\b
Examples:
  deltabus dead list
  deltabus dead list --queue chat --code rate_limited --code quota_exhausted
  deltabus dead list --older-than 1h --limit 0 --json | jq -r .code | sort | uniq -c
"""

SHOW = """Show how tasks failed: error, provider's status and request id, attempts, time, worker.

Prompt and answer are shown with --payload only.

\b
Examples:
  deltabus dead show 3f1c…
  deltabus dead show 3f1c… --payload --json | jq .payload.request.model
"""

REQUEUE = """Put failed tasks back on their queues: a new round begins, and whoever follows a task sees it.

Name tasks by id, or choose them: --all, or any of --code, --provider, --function, --older-than. A task whose
deadline has passed fails again.

\b
Examples:
  deltabus dead requeue 3f1c… 77ab…
  deltabus dead requeue --code provider_unavailable --limit 100
  deltabus dead requeue --all --queue chat

Exit code: 0 all requeued; 1 some could not be; 2 a task that is not in a failed registry.
"""

PURGE = """Delete failed tasks: job, result and log. There is no way back.

Name tasks by id, or choose them: --all, or any of --code, --provider, --function, --older-than. What is chosen is
counted, and deleted after a question; where nobody can be asked, --yes answers it.

\b
Examples:
  deltabus dead purge 3f1c…
  deltabus dead purge --older-than 3d
  deltabus dead purge --all --queue chat --yes

Exit code: 0 all deleted; 1 some could not be; 2 a task that is not in a failed registry.
"""

#: Failed tasks that are listed where nobody asks for more.
LISTED: Final = 50

_WHY_NOT: Final[dict[str, str]] = {
    "not failed": "is not a failed task any more",
    "missing": "cannot run again: there is no job any more; remove it with: {purge}",
    "unreadable": "cannot run again: its key is no hash, RQ did not write it; remove it with: {purge}",
}


#: With which a task may fail.
_CODES: Final = sorted(
    {kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TaskError)}
)

_QUEUE = click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    shell_complete=complete.queues,
    help="Only of this queue; may be repeated.",
)
_FILTERS = (
    click.option(
        "--code",
        "codes",
        multiple=True,
        type=click.Choice(_CODES),
        metavar="CODE",
        help="Only with this error code; may be repeated.",
    ),
    click.option(
        "--provider",
        "providers",
        multiple=True,
        metavar="NAME",
        shell_complete=complete.providers,
        help="Only where this provider failed.",
    ),
    click.option("--function", "functions", multiple=True, metavar="PATH", help="Only of this task function."),
    click.option("--older-than", type=Age(), metavar="AGE", help="Only what failed that long ago: 90s, 30m, 12h, 7d."),
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each task.")


def _filtered(command: F) -> F:
    """Give a command the options that choose."""
    for option in reversed((_QUEUE, *_FILTERS)):
        command = option(command)
    return command


class _Choice:
    """What the options choose."""

    def __init__(
        self,
        tasks: Sequence[str] = (),
        *,
        everything: bool = False,
        limit: int = 0,
        codes: Sequence[str],
        providers: Sequence[str],
        functions: Sequence[str],
        older_than: float | None,
    ) -> None:
        chosen = everything or codes or providers or functions or older_than is not None
        if tasks and chosen:
            raise click.UsageError("name tasks by id, or choose them by options, not both")
        self.tasks = list(dict.fromkeys(tasks))
        self.is_empty = not (tasks or chosen)
        self.limit = limit
        self._filter = (frozenset(codes), frozenset(providers), frozenset(functions))
        self._older_than = older_than

    @property
    def filter(self) -> Filter:
        from deltabus.dead import Filter

        codes, providers, functions = self._filter
        before = None if self._older_than is None else time.time() - self._older_than
        return Filter(codes=codes, providers=providers, functions=functions, before=before)

    def pages(self, letters: DeadLetters, *, newest_first: bool = False) -> Iterator[list[DeadLetter]]:
        """What is chosen, up to the limit."""
        left = self.limit or float("inf")
        for page in letters.walk(self.filter, newest_first=newest_first):
            taken = page[: int(min(left, len(page)))]
            left -= len(taken)
            yield taken
            if not left:
                return


@click.group("dead", cls=CommandGroup, help=DEAD)
def dead() -> None:
    pass


@dead.command("list", help=LIST)
@_filtered
@click.option(
    "--limit", type=click.IntRange(min=0), default=LISTED, show_default=True, help="How many at the most; 0: all."
)
@_JSON
@pass_session
def list_(session: Session, /, *, queues: tuple[str, ...], limit: int, as_json: bool, **filters: Any) -> int:
    screen = Screen()
    choice = _Choice(limit=limit, **filters)
    with _letters(session, queues) as letters:
        shown = 0
        for page in choice.pages(letters, newest_first=True):
            for letter in page:
                if as_json:
                    screen.json(letter)
                else:
                    screen.row(_line(letter))
            shown += len(page)
            screen.wait(f"{shown:,} found")
        total = letters.count()
    if not as_json:
        more = f"; more with --limit, of {total:,} failed tasks in all" if shown == limit and total > shown else ""
        screen.note(f"{shown:,} listed{more}" if shown else "no such failed task" if total else "no task has failed")
    return exits.DONE


@dead.command("show", help=SHOW)
@click.argument("tasks", nargs=-1, required=True, metavar="ID...", shell_complete=complete.failed)
@click.option(
    "--payload", "with_payload", is_flag=True, help="Show the request, and the partial answer if there is one."
)
@_QUEUE
@_JSON
@pass_session
def show(
    session: Session, /, *, tasks: tuple[str, ...], with_payload: bool, queues: tuple[str, ...], as_json: bool
) -> int:
    screen = Screen()
    with _letters(session, queues) as letters:
        found = _found(screen, letters, tasks)
        for letter in found:
            value = msgspec.to_builtins(letters.show(letter))
            if with_payload:
                call, partial = letters.payload(letter.task)
                value["payload"] = call[2][0] if _is_call(call) else call
                value["partial"] = partial
            if as_json:
                screen.json(value)
            else:
                for line in _page(value):
                    screen.row(line)
                screen.row("")
    return exits.DONE if len(found) == len(set(tasks)) else exits.USAGE


@dead.command("requeue", help=REQUEUE)
@click.argument("tasks", nargs=-1, metavar="[ID...]", shell_complete=complete.failed)
@click.option("--all", "everything", is_flag=True, help="All failed tasks.")
@_filtered
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="How many at the most, oldest first.")
@_JSON
@pass_session
def requeue(
    session: Session,
    /,
    *,
    tasks: tuple[str, ...],
    everything: bool,
    queues: tuple[str, ...],
    limit: int,
    as_json: bool,
    **filters: Any,
) -> int:
    choice = _Choice(tasks, everything=everything, limit=limit, **filters)
    if choice.is_empty:
        raise click.UsageError("nothing is chosen: name tasks by id, or use --all, --code, --older-than, …")
    with _letters(session, queues) as letters:
        return _act(session, letters, choice, letters.requeue, "requeued", as_json=as_json)


@dead.command("purge", help=PURGE)
@click.argument("tasks", nargs=-1, metavar="[ID...]", shell_complete=complete.failed)
@click.option("--all", "everything", is_flag=True, help="All failed tasks.")
@_filtered
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="How many at the most, oldest first.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_JSON
@pass_session
def purge(
    session: Session,
    /,
    *,
    tasks: tuple[str, ...],
    everything: bool,
    queues: tuple[str, ...],
    limit: int,
    yes: bool,
    as_json: bool,
    **filters: Any,
) -> int:
    choice = _Choice(tasks, everything=everything, limit=limit, **filters)
    if choice.is_empty:
        raise click.UsageError("nothing is chosen: name tasks by id, or use --all, --code, --older-than, …")
    asks = not (yes or choice.tasks)
    if asks and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: say --yes to delete what is chosen")
    with _letters(session, queues) as letters:
        if asks:
            count = _count(letters, choice)
            if count:
                click.confirm(f"Delete {count:,} failed tasks, with their requests and logs?", abort=True, err=True)
        return _act(session, letters, choice, letters.purge, "purged", as_json=as_json)


@contextmanager
def _letters(session: Session, queues: Sequence[str]) -> Iterator[DeadLetters]:
    from deltabus.dead import DeadLetters

    with connect(session.settings) as client:
        yield DeadLetters(client, session.settings.rq_key_prefix, queues)


def _found(screen: Screen, letters: DeadLetters, tasks: Sequence[str]) -> list[DeadLetter]:
    """These tasks; of one that has not failed, an error is shown."""
    found = letters.find(dict.fromkeys(tasks))
    for task in dict.fromkeys(tasks):
        if task not in found:
            screen.error(f"{task} is in no failed registry{_of(letters)}; list them with `deltabus dead list`")
    return [found[task] for task in dict.fromkeys(tasks) if task in found]


def _of(letters: DeadLetters) -> str:
    return f" of {', '.join(letters.queues)}" if letters.queues else ""


def _count(letters: DeadLetters, choice: _Choice) -> int:
    """How many are chosen: asked before there is no way back."""
    screen = Screen()
    count = 0
    for page in choice.pages(letters):
        count += len(page)
        screen.wait(f"{count:,} found")
    screen.settle()
    return count


def _act(
    session: Session,
    letters: DeadLetters,
    choice: _Choice,
    act: Callable[[Sequence[DeadLetter]], list[Fate]],
    done: str,
    *,
    as_json: bool,
) -> int:
    """Requeue or purge what is chosen, and say what became of it."""
    screen = Screen()
    named = _found(screen, letters, choice.tasks) if choice.tasks else []
    unknown = len(choice.tasks) - len(named)
    total = len(named) if choice.tasks else letters.count()
    count = failures = 0
    for page in [named] if choice.tasks else choice.pages(letters):
        fates = act(page)
        for letter, fate in zip(page, fates, strict=True):
            count += fate == done
            failures += fate != done
            if as_json:
                screen.json({"task": letter.task, "queue": letter.queue, done: fate == done})
            if fate != done:
                why = _WHY_NOT[fate].format(purge=session.command("dead", "purge", letter.task))
                screen.error(f"{letter.task} {why}")
        screen.wait(f"{count:,} {done}, of {total:,} failed tasks")
    if not as_json:
        screen.answer(f"{count:,} {done}\n")
    return exits.USAGE if unknown else exits.FAILED if failures else exits.DONE


def _line(letter: DeadLetter) -> str:
    message = " ".join(letter.message.split())
    return f"{_time(letter.failed_at):<20}  {letter.queue:<8}  {letter.code or '-':<20}  {letter.task}  {message}"


def _page(value: dict[str, Any]) -> list[str]:
    """What is known of one task, a line each; what has several lines goes on further to the right."""
    labels = {"failed_at": "failed", "request_id": "request id", "partial_bytes": "partial", "reply_to": "reply to"}
    shown = {**value, "failed_at": _time(value.get("failed_at"))}
    if "partial_bytes" in shown:
        shown["partial_bytes"] = f"{shown['partial_bytes']:,} bytes"
    texts = [
        f"{labels.get(name, name):<11}{text if isinstance(text, str) else msgspec.json.encode(text).decode()}"
        for name, text in shown.items()
        if text is not None
    ]
    return [line for text in texts for line in text.replace("\n", f"\n{'':11}").split("\n")]


def _is_call(call: Any) -> bool:
    return isinstance(call, list) and len(call) == 4 and isinstance(call[2], list) and len(call[2]) == 1


def _time(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
