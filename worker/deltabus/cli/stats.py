"""`deltabus stats`: a bus at one moment, as tables or as JSON."""

from __future__ import annotations

import time
from typing import Final

import click

from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.screens import Screen
from deltabus.cli.seconds import Seconds
from deltabus.cli.server import connect

#: Queues, and workers, that are listed for people.
LISTED: Final = 100

HELP = """Say what waits, runs and fails at this moment: queues, workers with their slots and leases, the tasks that
have run for longest, the newest failures, and Redis itself.

\b
Examples:
  deltabus stats
  deltabus stats --over 5                     with rates, measured for five seconds
  deltabus stats --json | jq '.queues[] | {name, waiting, oldest}'
  deltabus stats --json | jq -e '.workers | length > 0'

It takes five round trips, and some five commands for each queue and two for each worker, none of which walks
through all that there is. Sums are of all queues. Of queues and workers, the busiest hundred are listed; `--json` has
them all. On a terminal, there are as many columns as it has room for; in a pipe, all of them. `deltabus top` shows
the same live.
"""


@click.command("stats", cls=Command, help=HELP)
@click.option(
    "--over",
    type=Seconds(min=0.1, max=3600),
    metavar="SECONDS",
    help="Look twice, so far apart, and tell the rates in between.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@pass_session
def stats(session: Session, *, over: float | None, as_json: bool) -> None:
    from deltabus.look import look
    from deltabus.overview import rates

    settings = session.settings
    screen = Screen()
    with connect(settings) as redis:
        before = now = look(redis, settings.rq_key_prefix)
        if over is not None:
            screen.wait(f"measuring for {over:g} s")
            time.sleep(over)
            now = look(redis, settings.rq_key_prefix)
    between = None if over is None else rates(before, now)
    if as_json:
        import msgspec

        sums = ("waiting", "running", "dead", "more_tasks", "more_failures")
        screen.json({**msgspec.to_builtins(now), **{name: getattr(now, name) for name in sums}, "rates": between})
        return
    from deltabus.cli.columns import GAP
    from deltabus.cli.sections import fitted, sections, summary

    screen.settle()
    parts = summary(now, between)
    screen.row(f"{settings.redis_address}: {'  '.join(parts)}")
    for section in sections(now, between, LISTED):
        shown = section if screen.width is None else fitted(section, screen.width + GAP)
        screen.row("")
        screen.table([column.title for column in shown.columns], shown.rows)
        if said := shown.more(len(shown.rows)):
            # Of tasks, fewer are read than may be listed.
            screen.row(f"{said}: see --json" if len(shown.rows) == LISTED else said)
