"""Columns of a table on a terminal: as many as there is room for, those that matter most first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

#: A cell: its text, or text and style.
Cell = str | tuple[str, str]

#: Cells of the terminal that a column takes besides its text.
GAP: Final = 2


class Column(NamedTuple):
    """What a column is called, and how it gets along with little room."""

    title: str
    #: Whoever has a lower one stays longer.
    rank: int
    #: Cells of the terminal to which its texts may be shortened, in the middle; 0: it is there as a whole, or not.
    least: int = 0
    #: It holds numbers, which stand on the right.
    numeric: bool = False


def fit(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[tuple[int, int]]:
    """Which columns there is room for, in their order, and how wide the text of each may be.

    The column of the lowest rank is always there, however little is left of it.
    """
    from rich.cells import cell_len

    wanted = [
        max(cell_len(column.title), *(cell_len(words(row[place])) for row in rows if place < len(row)), 0)
        for place, column in enumerate(columns)
    ]
    by_rank = sorted(range(len(columns)), key=lambda place: columns[place].rank)
    found: dict[int, int] = {}
    room = width
    for place in by_rank:
        column = columns[place]
        need = min(wanted[place], max(column.least, cell_len(column.title))) if column.least else wanted[place]
        if need + GAP > room and found:
            continue
        found[place] = max(1, min(need, room - GAP))
        room -= found[place] + GAP
    for place in by_rank:
        if place in found and room > 0:
            more = min(room, wanted[place] - found[place])
            found[place] += more
            room -= more
    return sorted(found.items())


def words(cell: Cell) -> str:
    """A cell's text."""
    return cell if isinstance(cell, str) else cell[0]


def shortened(text: str, width: int) -> str:
    """The text, without its middle where it is too long: names differ at their ends."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    begin = width // 2
    return f"{_first(text, begin)}…{_first(text[::-1], width - 1 - begin)[::-1]}"


def _first(text: str, width: int) -> str:
    """As many characters as there is room for."""
    from rich.cells import cell_len

    taken = 0
    for place, character in enumerate(text):
        taken += cell_len(character)
        if taken > width:
            return text[:place]
    return text
