"""Which columns a table has, and how wide they are, where there is little room."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from deltabus.cli.columns import Column, fit, shortened

COLUMNS = (
    Column("name", rank=0, least=8),
    Column("count", rank=1),
    Column("where", rank=3, least=6),
    Column("up", rank=2),
)
ROWS = [["a-rather-long-name", "12345", ("somewhere-else", "dim"), "2d"]]


@pytest.mark.parametrize(
    ("width", "found"),
    [
        (60, [(0, 18), (1, 5), (2, 14), (3, 2)]),
        (40, [(0, 18), (1, 5), (2, 7), (3, 2)]),
        (29, [(0, 8), (1, 5), (2, 6), (3, 2)]),
        (28, [(0, 15), (1, 5), (3, 2)]),
        (17, [(0, 8), (1, 5)]),
        (16, [(0, 10), (3, 2)]),
        (9, [(0, 7)]),
        (1, [(0, 1)]),
    ],
)
def test_what_matters_most_stays_longest_and_gets_the_room_that_is_left(width, found):
    assert fit(COLUMNS, ROWS, width) == found


def test_rows_that_say_something_else_and_no_rows_are_fine():
    assert fit(COLUMNS, [], 60) == [(0, 4), (1, 5), (2, 5), (3, 2)]
    assert fit(COLUMNS, [["none"]], 60) == [(0, 4), (1, 5), (2, 5), (3, 2)]


@pytest.mark.parametrize("width", range(24))
def test_a_text_loses_its_middle_and_never_has_more_cells(width):
    for text in ("abcdefghijklmnop", "日本語日本語日本語", "a日b本c語"):
        short = shortened(text, width)
        assert cell_len(short) <= width
        assert (short == text) is (cell_len(text) <= width)


def test_both_ends_of_a_name_stay():
    assert shortened("worker-1.host.0123456789abcdef", 15) == "worker-…9abcdef"
