"""A private asyncio loop in a thread, for blocking callers. One a process, made when it is first needed.

A forked child has no threads: it gets a loop of its own. What it inherited is kept, never closed, since
the two share the sockets and the selector of the parent.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: Seconds that the loop may take to end with the process.
EXIT_TIMEOUT: Final = 2.0


class Portal:
    """Runs coroutines on its loop, for threads that wait."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="deltabus", daemon=True)
        self._thread.start()
        self._stopped = False
        #: What is to be closed before the loop ends with the process.
        self.closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        atexit.register(self._stop)

    @property
    def is_current(self) -> bool:
        """Whether the caller is on the loop."""
        return threading.get_ident() == self._thread.ident

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end; it is cancelled if the waiting thread is interrupted.

        Raises:
            RuntimeError: the process is ending, and the loop has ended.
        """
        if self._stopped:
            work.close()
            raise RuntimeError("the process is ending: deltabus has closed its connections")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def _stop(self) -> None:
        if self.pid != os.getpid():
            return
        self._stopped = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(EXIT_TIMEOUT)
        if not self._thread.is_alive():
            self._loop.close()

    async def _end(self) -> None:
        await asyncio.gather(*(close() for close in self.closers), return_exceptions=True)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop.call_soon(self._loop.stop)


_portals: list[Portal] = []
_lock = threading.Lock()


def portal() -> Portal:
    """The portal of this process."""
    with _lock:
        if not _portals or _portals[-1].pid != os.getpid():
            _portals.append(Portal())
        return _portals[-1]
