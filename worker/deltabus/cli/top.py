"""`deltabus top`: a bus as it is now, and again each second, until somebody presses q."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from deltabus.cli import exits
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.seconds import Seconds
from deltabus.cli.server import connect
from deltabus.errors import BusUnavailable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from deltabus.overview import Overview, Rates

HELP = """Show a bus live: queues, workers with their slots and leases, the tasks that have run for longest, the newest
failures, rates. Press q to leave.

\b
Examples:
  deltabus top
  deltabus top --every 5

Each look takes five round trips, and some five commands for each queue and two for each worker, none of which walks
through all that there is: at the very most, on a large bus, 3 ms of a server's time. It reads only, with the rights
of ops/acl/operator.acl.
Without a terminal, there is `deltabus stats`.
"""

#: Looks over which rates are measured.
WINDOW: Final = 4


@click.command("top", cls=Command, help=HELP)
@click.option(
    "--every",
    type=Seconds(min=0.2, max=60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds from one look to the next.",
)
@pass_session
def top(session: Session, *, every: float) -> int:
    from rich.console import Console

    console = Console()
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or console.is_dumb_terminal:
        raise click.UsageError(
            "it draws on a terminal, and there is none: use `deltabus stats`, or `deltabus stats --json`"
        )
    show(session, console, every)
    return exits.DONE


def show(session: Session, console: Console, every: float) -> None:
    """Draw until q or Ctrl+C is pressed."""
    from rich.live import Live

    from deltabus.look import look

    settings = session.settings
    view = View(settings.redis_address)
    with connect(settings) as redis, _keys() as keyboard:
        view.see(look(redis, settings.rq_key_prefix))
        try:
            with Live(view.drawn(console.size), console=console, screen=True, auto_refresh=False) as live:
                while not _quits(keyboard, every):
                    try:
                        view.see(look(redis, settings.rq_key_prefix))
                    except BusUnavailable as exc:
                        view.note = f"{exc}; trying again. What is shown is {view.staleness()} old"
                    live.update(view.drawn(console.size), refresh=True)
        except KeyboardInterrupt:
            return


class View:
    """What has been seen so far, and how it is drawn.

    Args:
        address: of Redis.
    """

    def __init__(self, address: str) -> None:
        from deltabus.cli.panels import HISTORY

        self._address = address
        self._looks: deque[Overview] = deque(maxlen=WINDOW + 1)
        self._history: deque[Rates] = deque(maxlen=HISTORY)
        self._seen = 0.0
        #: What is wrong at present.
        self.note = ""

    def see(self, now: Overview) -> None:
        """Take a look in."""
        from deltabus.overview import rates

        if self._looks:
            self._history.append(rates(self._looks[-1], now))
        self._looks.append(now)
        self._seen = time.monotonic()
        self.note = ""

    def staleness(self) -> str:
        """The time since the newest look."""
        from deltabus.cli.panels import span

        return span(time.monotonic() - self._seen)

    def drawn(self, size: tuple[int, int]) -> RenderableType:
        """The screen, of so many columns and lines."""
        from deltabus.cli.panels import screen
        from deltabus.overview import rates

        now = self._looks[-1]
        between = rates(self._looks[0], now) if len(self._looks) > 1 else None
        return screen(self._address, now, between, history=list(self._history), note=self.note, size=size)


@contextmanager
def _keys() -> Iterator[int]:
    """The keyboard, whose keys are heard as they are pressed and not shown."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _quits(keyboard: int, seconds: float) -> bool:
    """Wait for that long; whether q was pressed meanwhile, or nobody can press it any more."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([keyboard], [], [], left)[0]:
            pressed = os.read(keyboard, 64)
            if not pressed or b"q" in pressed.lower():
                return True
    return False
