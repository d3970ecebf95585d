"""What others have written, as a terminal gets it."""

from __future__ import annotations

import json

import pytest

from deltabus.cli import exits, harmless
from deltabus.cli.screens import Screen
from deltabus.errors import TaskNotFound


def test_an_answer_keeps_its_lines_and_its_direction_and_commands_nothing():
    assert harmless.text("a\n\tb\x1b[2J\x07\x7f\x9bc \u202bאבג\u202c") == "a\n\tb␛[2J␇␡\ufffdc \u202bאבג\u202c"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", "plain"),
        ("größer 日本 🎉", "größer 日本 🎉"),
        ("a\nb\tc\rd", "a␊b␉c␍d"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x7f\x80\x9b\x85", "␡\ufffd\ufffd\ufffd"),
        ("exe\u202egnp.\u2066x\u2069\u200f", "exe\ufffdgnp.\ufffdx\ufffd\ufffd"),
        ("a\u2028b\u2029c\ufeff\u200b", "a\ufffdb\ufffdc\ufffd\ufffd"),
        ("\U000e0041\ud800", "\ufffd\ufffd"),
    ],
)
def test_a_name_stays_in_its_line_and_in_its_order(name, shown):
    assert harmless.line(name) == shown


def test_json_is_the_same_value():
    value = {"name": "a\x9b\u202e\U000e0041é\u2028\x7f日", "other": ["\n", 1]}
    shown = harmless.json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(shown) == value
    assert shown.replace("\n", "").isprintable()
    assert "é" in shown


NAME = "a\nb\x1b[2J\x9b\u202e"


def test_no_way_of_the_screen_lets_a_name_through(capfdbinary):
    screen = Screen()
    screen._out_is_terminal = True
    screen.table(["name"], [[NAME], [(NAME, "bold")]])
    screen.row(NAME)
    screen.note(NAME)
    screen.line(json.dumps({"name": NAME}, ensure_ascii=False).encode())
    screen.json([NAME])
    screen.pretty([NAME])
    written = b"".join(capfdbinary.readouterr()).decode()
    assert written.count("a␊b␛[2J\ufffd\ufffd") == 4
    assert [json.loads(line) for line in written.splitlines() if line.startswith(("{", '["'))] == [
        {"name": NAME},
        [NAME],
    ]
    assert written.replace("\n", "").isprintable()


def test_a_file_gets_json_as_it_came(capfdbinary):
    raw = json.dumps({"name": NAME}, ensure_ascii=False).encode()
    Screen().line(raw)
    assert capfdbinary.readouterr().out == raw + b"\n"


def test_errors_are_lines_too():
    assert exits.explain(TaskNotFound(f"no task {NAME}")) == "no task a b␛[2J\ufffd\ufffd"
