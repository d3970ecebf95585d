"""What is still to be done when the process ends, and may hang: it is waited for, but not for long."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final

#: Seconds that spans may take to go out when the process ends, or a job of a process that ends with it.
PATIENCE: Final = 2.0


class LastWord:
    """Something to be done once, when asked for, in a thread that is there beforehand.

    From Python 3.12 on, none can be started once the interpreter is about to end. The thread is a daemon: what hangs on
    a collector that does not answer must not keep the process.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._asked = threading.Event()
        self._process = os.getpid()
        self._thread = self._start()

    def say(self) -> None:
        """Do it, and wait for `PATIENCE` seconds at the most."""
        self._asked.set()
        if self._process != os.getpid():  # a fork does not take the thread along
            self._process = os.getpid()
            with contextlib.suppress(RuntimeError):
                self._thread = self._start()
        self._thread.join(PATIENCE)

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="deltabus-traces", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        self._asked.wait()
        self._work()
