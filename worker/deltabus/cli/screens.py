"""Where output goes: the answer to stdout as it is, everything else to stderr; JSON lines for scripts.

What is written to a terminal is made harmless first (`harmless`): an answer may hold escape sequences, and a
model is not to move the cursor or set the title. What goes to a file or a pipe stays as it came; but for rows and
tables, which are for people everywhere: there, a name does not leave its line.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from deltabus.cli import harmless
from deltabus.cli.transcript import Piece

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from deltabus.cli.bar import Bar


class Screen:
    """The terminal, or what stands in for it."""

    def __init__(self) -> None:
        self._out_is_terminal = sys.stdout.isatty()
        self._err_is_terminal = sys.stderr.isatty()
        self._one_place = _same_file(sys.stdout, sys.stderr)
        #: The streams whose last line has no end yet.
        self._open: set[str] = set()
        self._status: Status | None = None
        self._bar: Bar | None = None
        self._console: Console | None = None

    @property
    def interactive(self) -> bool:
        """Whether a person is looking at stderr."""
        return self._err_is_terminal

    @property
    def console(self) -> Console:
        """Standard error by way of rich; it respects NO_COLOR."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        return self._console

    def wait(self, text: str) -> None:
        """Show, until anything else is shown, that something is awaited."""
        if not self.interactive:
            return
        self._stop_bar()
        if self._status is None:
            self._status = self.console.status(text, spinner="dots", spinner_style="cyan")
            self._status.start()
        else:
            self._status.update(text)

    def progress(self, text: str, done: int, total: int | None) -> None:
        """Show, until anything else is shown, how many bytes are through; of how many, where that is known."""
        if not self.interactive:
            return
        if self._bar is None:
            from deltabus.cli.bar import Bar

            self.settle()
            self._bar = Bar(self.console)
        self._bar.show(text, done, total)

    def settle(self) -> None:
        """Nothing is awaited any more."""
        self._stop_bar()
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def takes_bytes(self) -> bool:
        """Whether stdout is a file or a pipe: a terminal is no place for bytes."""
        return not self._out_is_terminal

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None: stdout is none, and takes lines of any length."""
        return shutil.get_terminal_size().columns if self._out_is_terminal else None

    def binary(self, piece: bytes) -> None:
        """A piece of an answer that is no text: to stdout, as it is."""
        sys.stdout.flush()
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    def answer(self, text: str) -> None:
        """A piece of the answer: to stdout, at once."""
        if not text:
            return
        self.settle()
        self._end_line("err")
        if self._out_is_terminal:
            text = harmless.text(text)
        sys.stdout.write(text)
        sys.stdout.flush()
        self._mark("out", text)

    def aside(self, text: str) -> None:
        """A piece of what the model thinks: dimmed, for people only."""
        if not self.interactive:
            return
        self.settle()
        self._end_line("out")
        self.console.print(harmless.text(text), style="dim italic", end="")
        self._mark("err", text)

    def note(self, text: str, *, style: str = "dim") -> None:
        """A line about what happens, for people: on stderr."""
        self.settle()
        self._end_line("out")
        self._end_line("err")
        self.console.print(harmless.line(text), style=style)

    def warn(self, text: str) -> None:
        """A line that says what is wrong and what to do."""
        self.note(text, style="yellow")

    def error(self, text: str) -> None:
        """What went wrong, as one line, always in the same form."""
        self.note(f"error: {text}", style="bold red")

    def show_log(self) -> None:
        """From here on, show what deltabus logs, such as that Redis is away for a while."""
        logging.getLogger("deltabus").addHandler(_Log(self))

    def line(self, raw: bytes) -> None:
        """A line of JSON on stdout: byte for byte, but for what a terminal must not get, which is escaped."""
        self.settle()
        if self._out_is_terminal:
            raw = harmless.json(raw.decode(errors="replace")).encode()
        sys.stdout.flush()
        sys.stdout.buffer.write(raw + b"\n")
        sys.stdout.buffer.flush()

    def json(self, value: Any) -> None:
        """A value as a line of JSON on stdout."""
        self.line(msgspec.json.encode(value))

    def pretty(self, value: Any) -> None:
        """A value as JSON for people, on stdout."""
        shown = msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
        self.answer(harmless.json(shown) if self._out_is_terminal else shown)

    def row(self, text: str) -> None:
        """A line of a list: to stdout, at once."""
        self.answer(harmless.line(text) + "\n")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | tuple[str, str]]]) -> None:
        """Aligned columns on stdout; a cell is a text, or a text and its style.

        On a terminal it is as wide as that; in a pipe, a row is one line, for grep.
        """
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        self.settle()
        table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            cells = (cell if isinstance(cell, tuple) else (cell, "") for cell in row)
            table.add_row(*(Text(harmless.line(text), style) for text, style in cells))
        console = Console(width=None if self._out_is_terminal else 100_000)
        with console.capture() as capture:
            console.print(table)
        sys.stdout.write("".join(line.rstrip() + "\n" for line in capture.get().splitlines()))
        sys.stdout.flush()

    def end(self) -> None:
        """The output ends: with a whole line."""
        self.settle()
        if "out" in self._open:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open.discard("out")
        self._end_line("err")

    def show(self, pieces: Iterable[Piece]) -> None:
        """The pieces of a transcript."""
        for piece in pieces:
            match piece.kind:
                case "text":
                    self.answer(piece.text)
                case "reasoning":
                    self.aside(piece.text)
                case "void":
                    self.end()
                    self.note(f"— what was shown so far no longer counts: {piece.text} —", style="yellow")
                case "note":
                    self.note(piece.text)

    def _mark(self, stream: str, text: str) -> None:
        if text.endswith("\n"):
            self._open.discard(stream)
        else:
            self._open.add(stream)

    def _end_line(self, stream: str) -> None:
        """End a line that was begun in the same place, so that nothing is glued to it."""
        if stream not in self._open or not self._one_place:
            return
        target = sys.stdout if stream == "out" else sys.stderr
        target.write("\n")
        target.flush()
        self._open.discard(stream)


def _same_file(one: TextIO, other: TextIO) -> bool:
    """Whether both end up in one place: the same terminal, or a pipe by `2>&1`."""
    try:
        return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except OSError:  # Streams that are no files, as in tests.
        return False


class _Log(logging.Handler):
    """Shows warnings as such."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.warn(record.getMessage())
