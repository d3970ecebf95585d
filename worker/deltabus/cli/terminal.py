"""The whole terminal, for who draws on it: its other screen, keys as they are pressed, its size, and job control.

However it ends or is interrupted, by Ctrl+Z, a signal or an error, the terminal is as it was before. What cannot be
caught, SIGSTOP, is made good when the process goes on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import sys
import termios
import threading
import time
import tty
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import Any, Final, Self

#: The other screen, without a cursor, on which a line that is too long does not move those below it; and back.
_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

#: Around a picture: terminals that know it show it as a whole.
_BEGIN: Final = "\x1b[?2026h\x1b[H"
_END: Final = "\x1b[J\x1b[?2026l"

#: Signals that end whoever draws.
_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HANDLED: Final = (*_ENDING, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)

#: Bytes that are written at a time to a terminal that has room.
_PIECE: Final = 1024

#: Seconds that a terminal that takes nothing may keep us from leaving it.
_PATIENCE: Final = 0.2

#: Seconds within which we hear of a signal that went before the one that continues us, on however busy a machine.
_BEFORE: Final = 1.0


class Left(Exception):
    """It is over: a signal came, or the terminal is gone.

    Args:
        number: of the signal; SIGHUP where there is no terminal any more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Terminal:
    """The terminal of this process; a context manager, in the main thread."""

    def __init__(self) -> None:
        self._keyboard = sys.stdin.fileno()
        self._screen = _opened(sys.stdout.fileno())
        self._before: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._signals: deque[int] = deque()
        self._keys = b""
        #: What wakes us: signals do, and `wake`, which another thread may call at any time.
        self._woken = self._waker = -1
        self._is_awake = False
        self._lock = threading.Lock()
        self._was_woken_by = -1

    def __enter__(self) -> Self:
        self._woken, self._waker = os.pipe()
        for end in (self._woken, self._waker):
            os.set_blocking(end, False)
        self._was_woken_by = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in _HANDLED:
            # What somebody has ignored for us, as `nohup` does, stays so.
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                self._handlers[number] = handler
                signal.signal(number, self._hear)
        try:
            self._take()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
        finally:
            signal.set_wakeup_fd(self._was_woken_by)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            with self._lock:
                os.close(self._woken)
                os.close(self._waker)
                self._woken = self._waker = -1
            if self._screen != sys.stdout.fileno():
                os.close(self._screen)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, at this moment."""
        try:
            columns, lines = os.get_terminal_size(self._screen)
        except OSError:
            columns = lines = 0
        if columns and lines:
            return columns, lines
        # By environment variables, or as terminals once were.
        columns, lines = shutil.get_terminal_size()
        return columns, lines

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        with self._lock:
            if self._waker >= 0:
                with contextlib.suppress(BlockingIOError):  # it is full of reasons to wake
                    os.write(self._waker, b"\0")

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, and nothing else. A terminal that takes nothing keeps nobody from leaving it.

        Raises:
            Left: it is gone.
        """
        text = _BEGIN + "\r\n".join(f"\x1b[2K{line}" for line in lines[: self.size[1]]) + _END
        data = memoryview(text.encode(sys.stdout.encoding or "utf-8", "replace"))
        while data:
            if self._listen(None, writing=True):
                data = data[self._write(data[:_PIECE]) :]
            elif self._keys or self._signals:
                return

    def wait(self, seconds: float) -> bytes:
        """Wait for so long at the most, or until there is something to draw; the keys that were pressed.

        Raises:
            Left: a signal came, or the terminal is gone.
        """
        if not (self._keys or self._signals or self._is_awake):
            self._listen(seconds)
        self._is_awake = False
        while self._signals:
            number = self._signals.popleft()
            if number in _ENDING:
                raise Left(number)
            if number == signal.SIGTSTP:
                self._stop()
            elif number == signal.SIGCONT:
                self._take()
        keys, self._keys = self._keys, b""
        return keys

    def _listen(self, seconds: float | None, *, writing: bool = False) -> bool:
        """Wait for a key, a signal, `wake`, or, where that is asked for, room in the terminal.

        Returns:
            whether there is room.
        """
        outputs = [self._screen] if writing else []
        readable, writable, _ = select.select([self._keyboard, self._woken], outputs, [], seconds)
        if self._woken in readable:
            os.read(self._woken, 4096)
            self._is_awake = True
        if self._keyboard in readable:
            try:
                pressed = os.read(self._keyboard, 64)
            except OSError as exc:
                raise Left(signal.SIGHUP) from exc
            if not pressed:
                raise Left(signal.SIGHUP)
            self._keys += pressed
        return bool(writable)

    def _write(self, data: memoryview | bytes) -> int:
        try:
            return os.write(self._screen, data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            raise Left(signal.SIGHUP) from exc

    def _hear(self, number: int, _: FrameType | None) -> None:
        """By now, the pipe has got a byte, too."""
        self._signals.append(number)

    def _take(self) -> None:
        """Make the terminal ours, unless we are to end. In the background, that stops us until we are in front."""
        if not self._is_ours():
            self._await_an_end()
        if self._is_to_end:
            return
        if not self._before:
            self._before = termios.tcgetattr(self._keyboard)
        while True:
            try:
                tty.setcbreak(self._keyboard, termios.TCSANOW)
                break
            except termios.error as exc:
                if exc.args[0] != errno.EINTR:
                    raise
                if self._is_to_end:
                    return
        self._write(_ENTER)

    def _give_back(self) -> None:
        """Make the terminal what it was."""
        if not self._before:
            return
        before, self._before = self._before, []
        try:
            if self._is_ours():
                # Where Ctrl+S was pressed, it goes on: to Linux, TCOON undoes nothing but TCOOFF.
                termios.tcflow(self._keyboard, termios.TCOOFF)
                termios.tcflow(self._keyboard, termios.TCOON)
                termios.tcsetattr(self._keyboard, termios.TCSANOW, before)
            if select.select([], [self._screen], [], _PATIENCE)[1]:
                self._write(_LEAVE)
        except (termios.error, OSError, Left):
            return  # there is none any more

    def _is_ours(self) -> bool:
        """Whether we are in the foreground: from the background, it is not to be meddled with."""
        try:
            return os.tcgetpgrp(self._keyboard) == os.getpgrp()
        except OSError:
            return True  # it controls no job at all

    def _stop(self) -> None:
        """Ctrl+Z: the shell gets its terminal, and we get it back when we are continued."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here, it goes on: by `fg`, by `bg`, or because it is to end.
        signal.signal(signal.SIGTSTP, self._hear)
        self._take()

    @property
    def _is_to_end(self) -> bool:
        return any(number in _ENDING for number in self._signals)

    def _await_an_end(self) -> None:
        """A shell sends a stopped job the signal that ends it, and then continues it. Another thread may have got the
        first, and not told us yet: if we asked for the terminal now, that would stop all of us again, and for good.
        """
        end = time.monotonic() + _BEFORE
        while not self._is_to_end and (left := end - time.monotonic()) > 0:
            if select.select([self._woken], [], [], left)[0]:
                os.read(self._woken, 4096)
                self._is_awake = True


def _opened(descriptor: int) -> int:
    """The terminal, opened once more, so that a write waits for nobody; that of the shell stays as it is."""
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # it is another user's, as after `su`
        return descriptor
