"""`deltabus top`: a bus as it is now, and again each second, until somebody presses q."""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import click

from deltabus.cli import exits
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.seconds import Seconds
from deltabus.cli.server import connect
from deltabus.errors import BusError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from deltabus.cli.onlooker import Sight
    from deltabus.overview import Overview, Rates

HELP = """Show a bus live: queues, workers with their slots and leases, the tasks that have run for longest, the newest
failures, rates. Press q to leave.

\b
Examples:
  deltabus top
  deltabus top --every 5

Each look takes five round trips, and some five commands for each queue and two for each worker, none of which walks
through all that there is; one that took long is followed by a rest three times as long. It reads only, with the rights
of ops/acl/operator.acl. Sums are of all queues; what is listed is what has most to do.
While Redis is away, the last picture stays, and says how old it is.
Without a terminal, there is `deltabus stats`.
"""

#: Looks over which rates are measured.
WINDOW: Final = 4

#: Seconds after which an old picture is drawn again, as it tells how old it is.
TICK: Final = 1.0


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
    return show(session, console, every)


def show(session: Session, console: Console, every: float) -> int:
    """Draw until q or Ctrl+C is pressed, or a signal ends it; the exit code."""
    from deltabus.cli.onlooker import Onlooker
    from deltabus.cli.terminal import Left, Terminal

    settings = session.settings
    view = View(settings.redis_address)
    with Onlooker(connect(settings), settings.rq_key_prefix, every) as onlooker:
        first = onlooker.next()
        if isinstance(first.found, Exception):
            raise first.found
        view.see(first)
        try:
            with Terminal() as terminal:
                onlooker.tell = terminal.wake
                pressed = b""
                while b"q" not in pressed.lower():
                    for sight in onlooker.news():
                        view.see(sight)
                    terminal.draw(view.lines(console, terminal.size))
                    pressed = terminal.wait(view.patience)
        except Left as left:
            return exits.DONE if left.number == signal.SIGINT else exits.SIGNALLED + left.number
    return exits.DONE


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
        self._late = 0.0
        self._trouble = ""

    def see(self, sight: Sight) -> None:
        """Take in what a look has found, or why it has found nothing: then, what was seen before stays.

        Raises:
            Exception: what it has met is a bug.
        """
        from deltabus.overview import rates

        now = sight.found
        if isinstance(now, BusError):
            self._trouble = str(now)
            return
        if isinstance(now, Exception):
            raise now
        if self._looks:
            self._history.append(rates(self._looks[-1], now))
        self._looks.append(now)
        self._seen = time.monotonic()
        self._late = self._seen + sight.late
        self._trouble = ""

    @property
    def note(self) -> str:
        """What is wrong at present: first, how old the picture is."""
        from deltabus.cli.figures import span

        age = span(time.monotonic() - self._seen)
        if self._trouble:
            return f"{age} old, trying again: {self._trouble}"
        if time.monotonic() > self._late:
            return f"{age} old: Redis does not answer"
        return ""

    @property
    def patience(self) -> float:
        """Seconds after which it is to be drawn again, if there is no news."""
        return TICK if self.note else max(0.0, self._late - time.monotonic())

    def drawn(self, size: tuple[int, int]) -> RenderableType:
        """The screen, of so many columns and lines."""
        from deltabus.cli.panels import screen
        from deltabus.overview import rates

        now = self._looks[-1]
        between = rates(self._looks[0], now) if len(self._looks) > 1 else None
        return screen(self._address, now, between, history=list(self._history), note=self.note, size=size)

    def lines(self, console: Console, size: tuple[int, int]) -> list[str]:
        """The same as lines, as a terminal gets them."""
        from rich.console import ConsoleDimensions

        console.size = ConsoleDimensions(*size)
        with console.capture() as capture:
            console.print(self.drawn(size), end="")
        return capture.get().removesuffix("\n").split("\n")
