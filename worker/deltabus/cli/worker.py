"""`deltabus worker`: work on queues, in one process or in several under a supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from deltabus.cli import complete, exits
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.server import connect, wait_for
from deltabus.settings.settingrules import MAX_PORT

if TYPE_CHECKING:
    from deltabus.settings import Settings

#: Most processes under one supervisor, more than any host has cores for: what is above is a slip of the finger.
MAX_PROCESSES: Final = 1024

#: Variables that do not go with a URL that an option gives.
_OF_ANOTHER_REDIS: Final = ("DELTABUS_REDIS_URL_FILE", "DELTABUS_REDIS_PASSWORD", "DELTABUS_REDIS_PASSWORD_FILE")

HELP = """Work on queues: run chat tasks, hundreds at once in each process.

QUEUES are taken in the order given, the first one first; default: `queues` of the configuration.
SIGTERM, SIGHUP or Ctrl+C once: take nothing new, finish what runs. Again a second later: hand back what runs, and
leave.
A Redis that is away is waited for, unless --burst is given.

\b
Examples:
  deltabus worker
  deltabus worker urgent chat --concurrency 500
  deltabus worker --processes 4           four processes; what dies is restarted
  deltabus worker --metrics-port 9464     /metrics, /healthz, /livez and /readyz on this machine
  deltabus worker --burst                 until the queues are empty

The same worker under RQ's own command line:
  rq worker -w deltabus.worker.AsyncWorker -S json chat file
"""


def _printable(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """A name that Redis takes for a connection (CLIENT SETNAME), as RQ gives it the worker's."""
    if name is not None and not (name.isascii() and name.isprintable() and name and " " not in name):
        raise click.BadParameter(f"{name!r} has to be of printable ASCII characters other than spaces")
    return name


@click.command("worker", cls=Command, help=HELP)
@click.argument("queues", nargs=-1, shell_complete=complete.queues)
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Tasks at once in each process.")
@click.option(
    "--processes", type=click.IntRange(1, MAX_PROCESSES), default=1, show_default=True, metavar="N", help="Processes."
)
@click.option("--burst", is_flag=True, help="Leave when the queues are empty.")
@click.option(
    "--name",
    callback=_printable,
    help="Name of the worker, as RQ shows it; of several processes, the first part of it.",
)
@click.option("--max-jobs", type=click.IntRange(min=1), metavar="N", help="Leave after so many jobs, each process.")
@click.option(
    "--metrics-port", type=click.IntRange(0, MAX_PORT), metavar="PORT", help="Serve /metrics and /healthz; 0: do not."
)
@click.option("--metrics-host", metavar="ADDRESS", help="Address to serve them on; default: 127.0.0.1.")
@click.option(
    "--log-format", type=click.Choice(["auto", "console", "json"]), help="Log lines; auto: console on a terminal."
)
@click.option("--board", type=int, hidden=True, help="Descriptor of the memory in which to count.")
@click.option("--supervised", is_flag=True, hidden=True, help="Stop when standard input ends.")
@pass_session
def worker(
    session: Session,
    *,
    queues: tuple[str, ...],
    concurrency: int | None,
    processes: int,
    burst: bool,
    name: str | None,
    max_jobs: int | None,
    metrics_port: int | None,
    metrics_host: str | None,
    log_format: str | None,
    board: int | None,
    supervised: bool,
) -> int:
    if os.getpid() == 1:
        # To the first process of a container, the kernel gives no signal that it does not handle; so until the worker
        # or the supervisor does, SIGTERM ends the start.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # A supervisor talks to no provider; each of its processes looks secrets up for itself, when it starts.
    settings = session.worker_settings if processes == 1 else session.settings
    options: dict[str, Any] = {
        "queues": queues or None,
        "concurrency": concurrency,
        "metrics_port": metrics_port,
        "metrics_host": metrics_host,
        "log_format": log_format,
    }
    settings = replace(settings, **{name: value for name, value in options.items() if value is not None})
    from deltabus import logs

    logs.configure(settings)
    logs.catch_all()
    if supervised:
        from deltabus.supervisor import stop_with_supervisor

        stop_with_supervisor()
    if processes == 1:
        if name is not None and supervised:
            # A killed process stays registered until its lease has run out, and RQ takes no name twice.
            name = f"{name}.{os.getpid()}"
        return _work(settings, burst=burst, name=name, max_jobs=max_jobs, board=board, supervised=supervised)
    return _supervise(session, settings, processes, burst=burst, name=name, max_jobs=max_jobs)


def command(session: Session, settings: Settings, *options: str) -> tuple[list[str], Mapping[str, str]]:
    """Command and environment of a worker process that ends with this one.

    It finds Redis as this one did, so that no password is handed on, and a new one is found after a restart. A URL that
    an option gave goes by the environment: a command line, with its password, is for everybody to see.
    """
    config = ["--config", str(session.config)] if session.config else []
    queues = [*settings.queues, "--concurrency", str(settings.concurrency), "--log-format", settings.log_format]
    # -P: the working directory is no place to import from.
    words = [sys.executable, "-P", "-m", "deltabus.cli", *config, "worker", *queues, "--supervised", *options]
    if session.redis is None and settings.redis_url == session.settings.redis_url:
        return words, dict(os.environ)
    kept = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REDIS}
    return words, {**kept, "DELTABUS_REDIS_URL": settings.redis_url}


def _work(
    settings: Settings, *, burst: bool, name: str | None, max_jobs: int | None, board: int | None, supervised: bool
) -> int:
    from deltabus.monitoring.board import Board
    from deltabus.monitoring.instruments import Instruments
    from deltabus.servicemanager import ServiceManager
    from deltabus.topology.clients import blocking
    from deltabus.worker import AsyncWorker

    with blocking(settings.redis_url, home=settings.rq_key_prefix) as connection:
        shared = None if board is None else Board(board)
        manager = ServiceManager({} if supervised else os.environ)
        if burst:
            connect(settings).close()
        else:
            wait_for(settings, manager, lambda: Instruments(shared).waiting(settings, connection)).close()
        worker = AsyncWorker(settings.queues, name=name, connection=connection, settings=settings, board=shared)
        worker.manager = manager
        if supervised:
            from deltabus.supervisor import PROCESS_ECHO

            worker.signal_echo = PROCESS_ECHO
        # RQ takes no name twice, and raises a bare ValueError. One that was killed is waited for to be dead.
        worker.bury_namesake()
        if connection.exists(worker.key) and not connection.hexists(worker.key, "death"):
            raise click.UsageError(
                f"a worker named `{worker.name}` is registered and alive: choose another --name, or stop that one "
                f"(where it is a stock RQ worker that was killed, RQ forgets it in {connection.ttl(worker.key)} s)"
            )
        worker.work(burst=burst, max_jobs=max_jobs, logging_level=None)
    return exits.DONE


def _supervise(
    session: Session, settings: Settings, processes: int, *, burst: bool, name: str | None, max_jobs: int | None
) -> int:
    from deltabus.monitoring.roster import Roster
    from deltabus.servicemanager import ServiceManager
    from deltabus.supervisor import Supervisor

    options = ["--burst"] if burst else []
    options += ["--name", name] if name is not None else []
    options += ["--max-jobs", str(max_jobs)] if max_jobs is not None else []
    words, environ = command(session, settings, *options)
    roster = Roster(processes) if settings.metrics_port else None
    with contextlib.ExitStack() as stack:
        if roster is not None:
            from deltabus.monitoring.instruments import serve
            from deltabus.topology.clients import blocking

            # Before Redis is waited for: whoever does not answer is restarted, which mends nothing.
            connection = stack.enter_context(blocking(settings.redis_url, home=settings.rq_key_prefix))
            stack.enter_context(serve(roster, settings, connection, settings.queues))
        # Started is all that it says: a process that dies is replaced, and /readyz tells how all of them are.
        manager = ServiceManager({**os.environ, "WATCHDOG_USEC": ""})
        (connect(settings) if burst else wait_for(settings, manager)).close()
        manager.tell(f"READY=1\nSTATUS=supervises {processes} processes")
        return Supervisor(
            words, processes, environ=environ, burst=burst, drain_timeout=settings.drain_timeout, roster=roster
        ).run()
