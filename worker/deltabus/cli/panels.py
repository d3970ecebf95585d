"""What `deltabus top` and `deltabus stats` show of a bus: lines and tables, made of an overview. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from deltabus.cli import harmless
from deltabus.cli.columns import GAP, Cell, Column, fit, shortened, words
from deltabus.overview import FailureView, Overview, QueueView, Rates, TaskView, WorkerView

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

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

#: Sections, from the top, that get two lines for each of the others: queues and workers.
_FIRST: Final = 2

#: Lines that a section takes besides its rows: its frame, and the names of its columns.
_FRAME: Final = 3

#: Cells of the terminal that a section's frame takes of a line.
_EDGES: Final = 4

#: Lines that a note takes at the most.
_NOTE: Final = 3

#: Columns: what tells most stays longest where there is little room. Names are known by their ends.
_QUEUE_COLUMNS: Final = (
    Column("queue", rank=0, least=16),
    Column("waiting", rank=1, numeric=True),
    Column("oldest", rank=2, numeric=True),
    Column("running", rank=3, numeric=True),
    Column("scheduled", rank=5, numeric=True),
    Column("deferred", rank=6, numeric=True),
    Column("failed", rank=4, numeric=True),
)
_WORKER_COLUMNS: Final = (
    Column("worker", rank=0, least=16),
    Column("state", rank=1),
    Column("slots", rank=2),
    Column("lease", rank=3, numeric=True),
    Column("completed", rank=6, numeric=True),
    Column("failed", rank=5, numeric=True),
    Column("up", rank=4, numeric=True),
    Column("host", rank=8, least=12),
    Column("queues", rank=7, least=12),
)
_TASK_COLUMNS: Final = (
    # RQ's ids have 36 characters: one that is whole can be copied.
    Column("task", rank=0, least=36),
    Column("queue", rank=2, least=8),
    Column("function", rank=6, least=8),
    Column("for", rank=1, numeric=True),
    Column("events", rank=5, numeric=True),
    Column("events/s", rank=3, numeric=True),
    Column("retries", rank=4, numeric=True),
    Column("worker", rank=7, least=12),
)
_FAILURE_COLUMNS: Final = (
    Column("when", rank=1),
    Column("task", rank=0, least=13),
    Column("queue", rank=3, least=8),
    Column("code", rank=2, least=12),
    Column("provider", rank=4, least=8),
)


class Section(NamedTuple):
    """A table."""

    title: str
    columns: Sequence[Column]
    #: What matters most comes first. Where there is nothing, a single cell says so.
    rows: Sequence[Sequence[Cell]]


def summary(now: Overview, between: Rates | None) -> list[str]:
    """The bus in a few words, the most important ones first."""
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
            _QUEUE_COLUMNS,
            [_queue(queue) for queue in sorted(now.queues, key=_load)]
            or [[("none yet: nobody has enqueued anything", "dim")]],
        ),
        Section(
            _title("workers", len(now.workers), now.more_workers),
            _WORKER_COLUMNS,
            [_worker(worker) for worker in sorted(now.workers, key=_urgency)]
            or [[("none: start one with `deltabus worker`", "yellow")]],
        ),
    ]
    if now.tasks:
        title = _title("running, the longest first", len(now.tasks), now.more_tasks)
        found.append(Section(title, _TASK_COLUMNS, [_task(task, per_task.get(task.id)) for task in now.tasks]))
    if now.failures:
        title = _title("failed, the newest first", len(now.failures), now.more_failures)
        found.append(Section(title, _FAILURE_COLUMNS, [_failure(one) for one in now.failures]))
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

    width, height = size
    lines: list[RenderableType] = [_head(harmless.line(address), now, width), _rates(between, history, width)]
    foot = _foot(now, harmless.line(note), width)
    found = sections(now, between)
    wanted = [len(section.rows) for section in found]
    if now.failures:
        wanted[-1] = min(wanted[-1], _FAILED)
    room = height - len(lines) - len(foot)
    while found and room < (_FRAME + 1) * len(found):
        # On a low terminal, what stands below gives way as a whole.
        del found[-1], wanted[-1]
    rows = shares(wanted, room - _FRAME * len(found))
    panels = [_panel(section, count, width) for section, count in zip(found, rows, strict=True) if count]
    return Group(*lines, *panels, *foot)


def fitted(section: Section, width: int) -> Section:
    """What there is room for: of the columns those that matter most, of long names both ends.

    Args:
        width: cells of the terminal, of which each column takes `GAP` besides its text.
    """
    if len(section.rows[0]) == 1:
        said = section.rows[0][0]
        found = [(0, max(1, width - GAP))]
        rows: list[list[Cell]] = [[_cut(said, found[0][1])]]
    else:
        found = fit(section.columns, section.rows, width)
        rows = [[_cut(row[place], wide) for place, wide in found] for row in section.rows]
    columns = [section.columns[place] for place, _ in found]
    titles = [shortened(column.title, wide) for column, (_, wide) in zip(columns, found, strict=True)]
    return section._replace(
        columns=[column._replace(title=title) for column, title in zip(columns, titles, strict=True)], rows=rows
    )


def _cut(cell: Cell, width: int) -> Cell:
    text = shortened(words(cell), width)
    return text if isinstance(cell, str) else (text, cell[1])


def shares(wanted: Sequence[int], room: int) -> list[int]:
    """How many lines each gets of those that there are: in turns, as many as it wants; the first two, two a turn.

    But for the first turn: everybody is to be seen.
    """
    found = [0] * len(wanted)
    most = 1
    while room > 0 and any(has < wants for has, wants in zip(found, wanted, strict=True)):
        for place, wants in enumerate(wanted):
            lines = min(wants - found[place], room, most if place < _FIRST else 1)
            found[place] += lines
            room -= lines
        most = 2
    return found


def more(hidden: int) -> str:
    """What stands below a list that is not whole."""
    return f"and {hidden:,} more"


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


def _head(address: str, now: Overview, width: int) -> Text:
    """Where it is, and how much there is; what else there is room for. The address makes room for the numbers."""
    from rich.text import Text

    first, *parts = summary(now, None)
    fixed = len("  ".join([first, *parts[: 3 if now.suspended else 2]])) + 2
    head = Text(shortened(address, max(16, width - fixed)), "bold cyan", overflow="crop", no_wrap=True)
    for part in (first, *parts):
        pieces = part.split(", ")
        while pieces and head.cell_len + 2 + len(", ".join(pieces)) > width:
            pieces.pop()
        if not pieces:
            break
        head.append("  ")
        head.append(", ".join(pieces), "bold yellow" if part.startswith(("SUSPENDED", "(without")) else "")
    return head


def _foot(now: Overview, note: str, width: int) -> list[Text]:
    from rich.text import Text

    if not note:
        return [Text(f"q quit   {now.commands:,} commands a look", "dim", overflow="ellipsis", no_wrap=True)]
    cut: list[Text] = []
    left = note
    while left and len(cut) < _NOTE:
        end = len(left) if len(left) <= width else max(left.rfind(" ", 1, width + 1), 0) or width
        cut.append(Text(left[:end], "bold red", overflow="ellipsis", no_wrap=True))
        left = left[end:].lstrip()
    return cut


def _panel(section: Section, count: int, width: int) -> RenderableType:
    from rich.box import ROUNDED
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, GAP // 2), expand=True, header_style="dim")
    shown = fitted(section._replace(rows=section.rows[:count]), width - _EDGES)
    for column in shown.columns:
        table.add_column(column.title, justify="right" if column.numeric else "left", no_wrap=True)
    for row in shown.rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else Text(*cell) for cell in row))
    hidden = len(section.rows) - count
    below = more(hidden) if hidden else None
    return Panel(table, box=ROUNDED, border_style="dim", title=section.title, title_align="left", subtitle=below)


def _rates(between: Rates | None, history: Sequence[Rates], width: int) -> RenderableType:
    from rich.text import Text

    line = Text(overflow="crop", no_wrap=True)
    if between is None:
        line.append("rates come with the next look", "dim")
        return line
    shown = []
    for name, style in (("events", "green"), ("completed", "cyan"), ("failed", "red")):
        value = getattr(between, name)
        if value is not None:
            shown.append((name, style, f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"))
    texts = sum(len(f"{value} {name}/s ") for name, _, value in shown) + 3 * (len(shown) - 1)
    each = max(0, min(HISTORY, (width - texts) // len(shown)))
    for place, (name, style, value) in enumerate(shown):
        line.append("   " if place else "")
        line.append(value, f"bold {style}")
        line.append(f" {name}/s ")
        line.append(spark([getattr(rates, name) or 0.0 for rates in history[-each:]]) if each else "", style)
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


def _load(queue: QueueView) -> tuple[int, int, int, str]:
    """The busiest come first."""
    return -queue.waiting, -queue.running, -queue.failed, queue.name


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


def _failure(one: FailureView) -> list[Cell]:
    return [f"{span(one.age)} ago", one.id, one.queue, (one.code or "?", "red"), one.provider or ""]


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
    return harmless.line(cell) if isinstance(cell, str) else (harmless.line(cell[0]), cell[1])
