"""The screen of `deltabus top`: what there is room for, in panels. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from deltabus.cli import harmless
from deltabus.cli.columns import GAP, shortened
from deltabus.cli.figures import spark
from deltabus.cli.sections import Section, fitted, sections, summary
from deltabus.overview import Overview, Rates

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

#: Characters of a line of rates, the newest on its right.
HISTORY: Final = 40

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
    found = sections(now, between, most=height)
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
    below = section.more(count) or None
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
