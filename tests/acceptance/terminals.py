"""A terminal with a program on it, as a person has it: keys, signals by keys, a size, and what is on its screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from processes import PATIENCE

#: Escape sequences of a terminal.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]")

#: Makes the terminal that of a session, whose leader the program then is: Ctrl+Z and a new size are signals only there.
_SESSION = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A terminal, and a process on it that leads its session; a context manager."""

    def __init__(
        self, command: Sequence[str], folder: Path, environ: Mapping[str, str], size: tuple[int, int] = (100, 30)
    ) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(*size)
        self.process = subprocess.Popen(
            [sys.executable, "-ISc", _SESSION, *command],
            cwd=folder,
            env=dict(environ),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
        if self.ours >= 0:
            self.hang_up()

    def press(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def hang_up(self) -> None:
        """As when the window is closed, or the connection breaks."""
        os.close(self.ours)
        self.ours = -1

    @property
    def is_sane(self) -> bool:
        """Whether it has its own screen and its cursor, shows what is typed, and gives it line by line."""
        modes = termios.tcgetattr(self.ours)[3]
        pairs = (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"), ("\x1b[?7l", "\x1b[?7h"))
        undone = all(self.said.rfind(done) <= self.said.rfind(back) for done, back in pairs)
        return undone and bool(modes & termios.ECHO and modes & termios.ICANON and modes & termios.ISIG)

    @property
    def picture(self) -> str:
        """The last whole picture that was drawn."""
        pictures = self.said.rpartition("\x1b[?2026l")[0].split("\x1b[?2026h")[1:]
        return ESCAPES.sub("", pictures[-1]) if pictures else ""

    @property
    def widest(self) -> int:
        """Columns of the picture's widest line."""
        return max(len(line.rstrip("\r")) for line in self.picture.split("\n"))

    def shows(self, holds: Callable[[str], object]) -> str:
        """Wait until what has come since this call holds."""
        begin, end = len(self.said), time.monotonic() + PATIENCE
        while not holds(shown := ESCAPES.sub("", self.said[begin:])):
            assert select.select([self.ours], [], [], max(0.0, end - time.monotonic()))[0], f"it shows: {shown}"
            assert self._read(), f"it has ended: {shown}"
        return shown

    def falls_silent(self, seconds: float) -> None:
        """Wait until nothing has come for so long."""
        while select.select([self.ours], [], [], seconds)[0]:
            assert self._read(), "it has ended"

    def end(self) -> int:
        """Wait for the end of the process; its exit code."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {ESCAPES.sub('', self.said)[-2000:]}"
            if select.select([self.ours], [], [], 0.05)[0] and not self._read():
                break
        code = self.process.wait(max(0.1, end - time.monotonic()))
        while select.select([self.ours], [], [], 0)[0] and self._read():
            pass
        return code

    def _read(self) -> bool:
        try:
            data = os.read(self.ours, 65536)
        except OSError:  # nobody is at the other end any more
            return False
        self.said += self._decoder.decode(data)
        return bool(data)
