"""N copies of one command under one supervisor, which restarts what dies.

The supervisor holds no work: it starts processes, reaps them and passes signals on. What dies is
replaced at once if it had been up for `STABLE` seconds, and ever later if it dies young, so that a
crash loop neither spins nor goes unnoticed. Each process has a pipe from the supervisor as its
standard input; `stop_with_supervisor` there sees to it that none outlives the supervisor.

Signals: the first SIGTERM, SIGINT or SIGHUP asks the processes to drain, the second to stop at once, a third
kills them; what follows within `ECHO` seconds is the same signal once more. Whatever has not gone `GRACE` seconds
after its time is killed. The processes have a process group of their own each, so that Ctrl+C in a terminal
reaches them only through here. There are those who signal every process by itself, as systemd and Heroku do, and
those who signal one and its group, as `timeout` does: hence the echo, here and in the processes.
"""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final, Self

import structlog

from deltabus.monitoring import board
from deltabus.monitoring.board import Board
from deltabus.monitoring.catalogue import DEATHS
from deltabus.monitoring.roster import Roster
from deltabus.stopsignals import stop_signals

#: Seconds after which a process counts as well started: its death is then not part of a crash loop.
STABLE: Final = 10.0

#: Seconds before the first restart in a crash loop; doubled from one to the next.
BACKOFF: Final = 0.5

#: Longest wait before a restart, in seconds.
MAX_BACKOFF: Final = 30.0

#: Young deaths in a row after which a burst, which should come to an end, is given up.
BURST_CRASHES: Final = 5

#: Young deaths in a row after which a process counts as one that dies again and again.
CRASH_LOOP: Final = 3

#: Seconds beyond the drain timeout after which a process that will not stop is killed.
GRACE: Final = 10.0

#: Seconds within which a further signal is the one before, seen twice.
ECHO: Final = 1.0

#: The same for the processes. It is less, so that what is no echo here is none there, whoever was late.
PROCESS_ECHO: Final = 0.5

#: What a system says that has no room for a process or its memory at the moment.
NO_ROOM: Final = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

#: Longest wait for a signal, in seconds; `select` takes no number that is too large.
MAX_WAIT: Final = 3600.0

_log = structlog.get_logger("deltabus.supervisor")


@dataclass(slots=True)
class _Slot:
    """One of the N places; `process` is None while it waits for a restart or when it is done."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    #: Deaths in a row of processes that were not well started.
    crashes: int = 0
    #: `time.monotonic()` at which to start; None: never again.
    due: float | None = 0.0
    #: Exit code of the last process that was here.
    code: int = 0


class Supervisor:
    """Keeps `count` processes of `command` running until it is told to stop.

    Args:
        command: the program and its arguments.
        count: how many processes.
        environ: their environment; None: this process' own.
        burst: a process that exits with 0 has finished and is not replaced.
        drain_timeout: seconds that a process may take to stop after the first signal.
        roster: gets the boards of the processes, which are told by `--board` where theirs is; None: they need none.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        environ: Mapping[str, str] | None = None,
        burst: bool = False,
        drain_timeout: float = 25.0,
        roster: Roster | None = None,
    ) -> None:
        self._command = list(command)
        self._environ = None if environ is None else dict(environ)
        self._burst = burst
        self._drain_timeout = drain_timeout
        self._roster = roster
        self._slots = [_Slot(number) for number in range(1, count + 1)]
        self._signals = 0
        self._signalled_at = -math.inf
        self._kill_at: float | None = None

    def run(self) -> int:
        """Supervise until every process is done.

        Must be called on the main thread: it takes over SIGTERM, SIGINT, SIGHUP and SIGCHLD.

        Returns:
            the worst exit code of the processes that ended last; 128 + n for one that signal n killed.
        """
        with _Wakeups() as wakeups:
            try:
                while True:
                    for number in wakeups.received():
                        self._pass_on(number)
                    self._reap()
                    self._start_due()
                    if not any(slot.process or slot.due is not None for slot in self._slots):
                        return max(slot.code for slot in self._slots)
                    wakeups.wait(self._next_event())
            finally:
                self._kill()

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if slot.process is None and slot.due is not None and slot.due <= now:
                try:
                    slot.process = self._start()
                except OSError as exc:
                    if exc.errno not in NO_ROOM:
                        raise
                    slot.crashes += 1
                    slot.due = now + _delay(slot.crashes)
                    _log.warning("no room for a process", slot=slot.number, error=str(exc))
                    continue
                slot.started, slot.due = now, None
                _log.info("process started", slot=slot.number, pid=slot.process.pid)

    def _start(self) -> subprocess.Popen[bytes]:
        descriptor = None if self._roster is None else board.shared()
        try:
            process = subprocess.Popen(  # noqa: S603 - the command is ours
                self._command if descriptor is None else [*self._command, "--board", str(descriptor)],
                env=self._environ,
                stdin=subprocess.PIPE,
                process_group=0,
                pass_fds=() if descriptor is None else (descriptor,),
            )
            if self._roster is not None and descriptor is not None:
                self._roster.enter(process.pid, Board(descriptor))
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return process

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.process is None or (code := slot.process.poll()) is None:
                continue
            pid = slot.process.pid
            assert slot.process.stdin is not None
            slot.process.stdin.close()
            slot.process = None
            slot.code = 128 - code if code < 0 else code
            self._decide(slot, pid)
            if self._roster is not None:
                self._roster.leave(pid)
                self._roster.crashing = [slot.code for slot in self._slots if slot.crashes >= CRASH_LOOP]

    def _decide(self, slot: _Slot, pid: int) -> None:
        """What follows the death of a process."""
        if self._signals:
            if slot.code - 128 in stop_signals():  # The signal met it before it had a handler.
                slot.code = 0
            _log.info("process stopped", slot=slot.number, pid=pid, code=slot.code)
            return
        if self._burst and slot.code == 0:
            _log.info("process finished", slot=slot.number, pid=pid)
            return
        if self._roster is not None:
            self._roster.count(DEATHS.name)
        young = time.monotonic() - slot.started < STABLE
        slot.crashes = slot.crashes + 1 if young and slot.code else 0
        if self._burst and slot.crashes >= BURST_CRASHES:
            _log.error("process keeps dying; given up", slot=slot.number, pid=pid, code=slot.code)
            return
        delay = _delay(slot.crashes)
        slot.due = time.monotonic() + delay
        _log.warning("process died; it is replaced", slot=slot.number, pid=pid, code=slot.code, delay=delay)

    def _pass_on(self, number: int) -> None:
        """React to the first, the second or a later signal to stop."""
        now = time.monotonic()
        if now - self._signalled_at < ECHO:
            return
        self._signalled_at = now
        self._signals += 1
        if self._signals == 1:
            _log.info("stopping; processes finish what they run", signal=signal.Signals(number).name)
            self._kill_at = now + self._drain_timeout + GRACE
        elif self._signals == 2:
            _log.info("stopping at once")
            self._kill_at = now + GRACE
        else:
            self._kill_at = now
        for slot in self._slots:
            slot.due = None
            if slot.process is not None:
                slot.process.terminate()

    def _next_event(self) -> float | None:
        """Seconds until something is due; None: only a signal can tell."""
        now = time.monotonic()
        if self._kill_at is not None and self._kill_at <= now:
            self._kill()
            self._kill_at = None
        due = [slot.due for slot in self._slots if slot.process is None and slot.due is not None]
        if self._kill_at is not None:
            due.append(self._kill_at)
        return min(max(0.0, min(due) - now), MAX_WAIT) if due else None

    def _kill(self) -> None:
        """SIGKILL to what is still there; with an error in this process too, nothing may stay behind."""
        for slot in self._slots:
            if slot.process is not None:
                _log.error("a process did not end in time, and was killed", slot=slot.number, pid=slot.process.pid)
                slot.process.kill()


def _delay(crashes: int) -> float:
    """Seconds before the next start, after so many failures in a row."""
    return min(BACKOFF * 2 ** min(crashes - 1, 16), MAX_BACKOFF) if crashes else 0.0


class _Wakeups:
    """Signals as something to wait for; the handlers of before are put back at the end."""

    def __enter__(self) -> Self:
        self._received: deque[int] = deque()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._note) for number in (*stop_signals(), signal.SIGCHLD)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd)
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._received.append(number)

    def received(self) -> Iterator[int]:
        """The signals to stop that came since the last call."""
        while self._received:
            yield self._received.popleft()

    def wait(self, timeout: float | None) -> None:
        """Until any signal or for `timeout` seconds."""
        if select.select([self._reader], [], [], timeout)[0]:
            self._reader.recv(4096)


def stop_with_supervisor() -> None:
    """In a supervised process: SIGTERM to oneself when the supervisor is gone, however that happened.

    Its end of our standard input closes with it, also if it is killed; nothing else is ever written there.
    Works on every system, in contrast to Linux' parent-death signal.
    """

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stop-with-supervisor", daemon=True).start()
