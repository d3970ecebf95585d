"""What `deltabus top` and `deltabus stats` show of a bus: lines and tables, made of an overview. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from deltabus.cli.screens import HARMLESS
from deltabus.overview import Overview, QueueView, Rates, TaskView, WorkerView

if TYPE_CHECKING:
    from rich.console import RenderableType

#: A cell: its text, or text and style.
Cell = str | tuple[str, str]

#: How RQ's states of workers are shown.
_STATES: Final = {"busy": "green", "idle": "cyan", "started": "cyan", "suspended": "yellow"}

#: Seconds that a job may wait before that is worth a look.
_LONG_WAIT: Final = 60.0

#: Parts of a bar of slots.
_BAR: Final = 10

#: Characters of a line of rates, the newest on its right.
HISTORY: Final = 40

_STEPS: Final = "▁▂▃▄▅▆▇█"

#: Failures that a screen shows at the most: it is for what goes on.
_FAILED: Final = 5

#: Lines that a section takes besides its rows: its frame, and the names of its columns.
_FRAME: Final = 3


class Section(NamedTuple):
    """A table."""

    title: str
    #: Those that begin with `>` are of numbers.
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def summary(now: Overview, between: Rates | None) -> list[str]:
    """The bus in a few words."""
    parts = [f"{now.waiting:,} waiting", f"{now.running:,} running", f"{now.dead:,} failed"]
    if now.more_queues:
        parts.append(f"(without {now.more_queues:,} more queues)")
    if now.suspended:
        parts.insert(0, "SUSPENDED (`rq resume`)")
    if between is not None:
        done = [f"{between.completed:,.1f} completed/s", f"{between.failed:,.1f} failed/s"]
        parts.append(", ".join(done if between.events is None else [f"{between.events:,.0f} events/s", *done]))
    if (server := now.server) is not None:
        memory = size(server.used_memory) + (f" of {size(server.max_memory)}" if server.max_memory else "")
        role = "" if server.role == "master" else f", a {server.role}"
        load = f"{server.clients:,} clients, {server.commands_per_second:,} commands/s"
        parts.append(f"Redis {server.version}{role}: {memory}, {load}")
    return parts


def sections(now: Overview, between: Rates | None) -> list[Section]:
    """Queues, workers, tasks, failures; what is empty is left out, but for the first two."""
    per_task = {} if between is None else between.tasks
    found = [
        Section(
            _title("queues", len(now.queues), now.more_queues),
            ("queue", ">waiting", ">oldest", ">running", ">scheduled", ">deferred", ">failed"),
            [_queue(queue) for queue in sorted(now.queues, key=lambda queue: (-queue.waiting, queue.name))]
            or [[("none yet: nobody has enqueued anything", "dim")]],
        ),
        Section(
            _title("workers", len(now.workers), now.more_workers),
            ("worker", "state", "slots", ">lease", ">completed", ">failed", ">up", "host", "queues"),
            [_worker(worker) for worker in sorted(now.workers, key=_urgency)]
            or [[("none: start one with `deltabus worker`", "yellow")]],
        ),
    ]
    if now.tasks:
        title = _title("running, the longest first", len(now.tasks), now.more_tasks)
        columns = ("task", "queue", "function", ">for", ">events", ">events/s", ">retries", "worker")
        found.append(Section(title, columns, [_task(task, per_task.get(task.id)) for task in now.tasks]))
    if now.failures:
        rows: list[list[Cell]] = [
            [f"{span(one.age)} ago", one.id, one.queue, (one.code or "?", "red"), one.provider or ""]
            for one in now.failures
        ]
        title = _title("failed, the newest first", len(rows), now.more_failures)
        found.append(Section(title, ("when", "task", "queue", "code", "provider"), rows))
    return [section._replace(rows=[[_harmless(cell) for cell in row] for row in section.rows]) for section in found]


def screen(
    address: str,
    now: Overview,
    between: Rates | None,
    *,
    history: Sequence[Rates] = (),
    note: str = "",
    size: tuple[int, int],
) -> RenderableType:
    """The whole screen.

    Args:
        address: of Redis.
        history: rates of the last looks, the newest last.
        note: what is wrong at present.
        size: columns and lines.
    """
    from rich.console import Group
    from rich.text import Text

    width, height = size
    head = Text(overflow="ellipsis", no_wrap=True)
    head.append(address.translate(HARMLESS), "bold cyan")
    for part in summary(now, None):
        head.append("  ")
        head.append(part, "bold yellow" if part.startswith("SUSPENDED") else "")
    lines: list[RenderableType] = [head, _rates(between, history, width)]
    foot = Text(f"q quit   {now.commands} commands a look", "dim", overflow="ellipsis", no_wrap=True)
    if note:
        foot = Text(note, "bold red", overflow="ellipsis", no_wrap=True)
    found = sections(now, between)
    room = height - len(lines) - 1 - _FRAME * len(found)
    wanted = [len(section.rows) for section in found]
    if now.failures:
        wanted[-1] = min(wanted[-1], _FAILED)
    rows = shares(wanted, room)
    panels = [_panel(section, count) for section, count in zip(found, rows, strict=True) if count]
    return Group(*lines, *panels, foot)


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """How many lines each gets of those that there are: in turns, as many as it wants."""
    found = [0] * len(wanted)
    while room > 0 and any(has < wants for has, wants in zip(found, wanted, strict=True)):
        for place, wants in enumerate(wanted):
            if found[place] < wants and room > 0:
                found[place] += 1
                room -= 1
    return found


def span(seconds: float) -> str:
    """A time in a few characters: 0.4s, 12s, 3m, 5h, 2d."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit, size in (("s", 120), ("m", 120), ("h", 48)):
        if seconds < size:
            return f"{seconds:.0f}{unit}"
        seconds /= 60 if unit != "h" else 24
    return f"{seconds:.0f}d" if seconds < 1000 else "999d+"


def spark(values: Sequence[float]) -> str:
    """Values as a line of bars."""
    most = max(values, default=0.0)
    return "".join(_STEPS[min(7, int(value / most * 7.999))] if most > 0 else _STEPS[0] for value in values)


def _panel(section: Section, count: int) -> RenderableType:
    from rich.box import ROUNDED
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), expand=True, header_style="dim")
    for column in section.columns:
        numeric = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if numeric else "left", no_wrap=True)
    for row in section.rows[:count]:
        table.add_row(*(Text(cell) if isinstance(cell, str) else Text(*cell) for cell in row))
    hidden = len(section.rows) - count
    below = f"{hidden} more" if hidden else None
    return Panel(table, box=ROUNDED, border_style="dim", title=section.title, title_align="left", subtitle=below)


def _rates(between: Rates | None, history: Sequence[Rates], width: int) -> RenderableType:
    from rich.text import Text

    line = Text(overflow="crop", no_wrap=True)
    if between is None:
        line.append("rates come with the next look", "dim")
        return line
    each = max(5, min(HISTORY, (width - 60) // 3))
    for name, style in (("events", "green"), ("completed", "cyan"), ("failed", "red")):
        value = getattr(between, name)
        if value is None:
            continue
        line.append(f"{value:,.0f} " if value >= 100 else f"{value:,.1f} ", f"bold {style}")
        line.append(f"{name}/s ")
        line.append(spark([getattr(rates, name) or 0.0 for rates in history[-each:]]) + "   ", style)
    return line


def _queue(queue: QueueView) -> list[Cell]:
    late = queue.waiting and queue.oldest > _LONG_WAIT
    return [
        (queue.name, "bold"),
        f"{queue.waiting:,}",
        (span(queue.oldest), "yellow" if late else "") if queue.waiting else ("-", "dim"),
        *_counts(queue.running, queue.scheduled, queue.deferred),
        (f"{queue.failed:,}", "red") if queue.failed else ("-", "dim"),
    ]


def _worker(worker: WorkerView) -> list[Cell]:
    if worker.lease is None:
        lease: Cell = ("-", "dim")
    elif worker.lease < 0:
        lease = ("lost", "bold red")
    else:
        lease = span(worker.lease)
    return [
        (worker.name, "bold"),
        (worker.state, _STATES.get(worker.state, "")),
        (bar(worker.running, worker.slots), "yellow" if worker.running >= worker.slots else "green"),
        lease,
        f"{worker.completed:,}",
        (f"{worker.failed:,}", "red") if worker.failed else ("-", "dim"),
        span(worker.age),
        f"{worker.host}:{worker.pid}",
        ", ".join(worker.queues),
    ]


def bar(used: int, slots: int) -> str:
    """Slots that are used, of all that there are."""
    filled = min(_BAR, max(used > 0, used * _BAR // slots))
    return f"{'█' * filled}{'░' * (_BAR - filled)} {used}/{slots}"


def _task(task: TaskView, rate: float | None) -> list[Cell]:
    return [
        task.id,
        task.queue,
        task.function,
        span(task.age),
        f"{task.events:,}",
        ("-", "dim") if rate is None else f"{rate:,.1f}",
        (str(task.retries), "yellow") if task.retries else ("-", "dim"),
        task.worker,
    ]


def _counts(*counts: int) -> Iterator[Cell]:
    for count in counts:
        yield f"{count:,}" if count else ("-", "dim")


def _urgency(worker: WorkerView) -> tuple[bool, int, str]:
    """Those whose lease has run out come first, then those that do most."""
    return worker.lease is None or worker.lease >= 0, -worker.running, worker.name


def _title(what: str, count: int, more: int) -> str:
    return f"{what}: {count:,}" + (f" of {count + more:,}" if more else "")


def size(number: int) -> str:
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _harmless(cell: Cell) -> Cell:
    """Names are anybody's choice; they are not to move the cursor."""
    return cell.translate(HARMLESS) if isinstance(cell, str) else (cell[0].translate(HARMLESS), cell[1])
