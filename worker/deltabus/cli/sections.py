"""What `deltabus top` and `deltabus stats` show of a bus: its sum, and tables, made of an overview. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from typing import Final, NamedTuple

from deltabus.cli import harmless
from deltabus.cli.columns import GAP, Cell, Column, fit, shortened, words
from deltabus.cli.figures import bar, size, span
from deltabus.overview import FailureView, Overview, QueueView, Rates, TaskView, WorkerView

#: How RQ's states of workers are shown.
_STATES: Final = {"busy": "green", "idle": "cyan", "started": "cyan", "suspended": "yellow"}

#: Seconds that a job may wait before that is worth a look.
_LONG_WAIT: Final = 60.0

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
    #: How many there are, of which these are the rows.
    total: int

    def more(self, shown: int) -> str:
        """What stands below so many rows; empty: they are all."""
        return f"and {self.total - shown:,} more" if self.total > shown else ""


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


def sections(now: Overview, between: Rates | None, most: int) -> list[Section]:
    """Queues, workers, tasks, failures; what is empty is left out, but for the first two.

    Args:
        most: rows that each has at the most.
    """
    per_task = {} if between is None else between.tasks
    found = [
        _section(
            "queues",
            _QUEUE_COLUMNS,
            [_queue(queue) for queue in nsmallest(most, now.queues, key=_load)],
            len(now.queues) + now.more_queues,
            nothing=("none yet: nobody has enqueued anything", "dim"),
        ),
        _section(
            "workers",
            _WORKER_COLUMNS,
            [_worker(worker) for worker in nsmallest(most, now.workers, key=_urgency)],
            len(now.workers) + now.more_workers,
            nothing=("none: start one with `deltabus worker`", "yellow"),
        ),
    ]
    if now.tasks:
        tasks = [_task(task, per_task.get(task.id)) for task in now.tasks[:most]]
        found.append(_section("running, the longest first", _TASK_COLUMNS, tasks, len(now.tasks) + now.more_tasks))
    if now.failures:
        failures = [_failure(one) for one in now.failures[:most]]
        found.append(
            _section("failed, the newest first", _FAILURE_COLUMNS, failures, len(now.failures) + now.more_failures)
        )
    return found


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


def _section(
    what: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]], total: int, nothing: Cell = ""
) -> Section:
    """Args: nothing: what is said where there is none."""
    shown = [[_harmless(cell) for cell in row] for row in rows] or [[nothing]]
    return Section(f"{what}: {total:,}", columns, shown, total)


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


def _urgency(worker: WorkerView) -> tuple[bool, int, str]:
    """Those whose lease has run out come first, then those that do most."""
    return worker.lease is None or worker.lease >= 0, -worker.running, worker.name


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


def _cut(cell: Cell, width: int) -> Cell:
    text = shortened(words(cell), width)
    return text if isinstance(cell, str) else (text, cell[1])


def _harmless(cell: Cell) -> Cell:
    return harmless.line(cell) if isinstance(cell, str) else (harmless.line(cell[0]), cell[1])
