"""Who looks at a bus again and again, in a thread of its own: whoever shows it waits for no Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, Self

from redis import Redis

from deltabus.look import look
from deltabus.overview import Overview

#: A look that took long is followed by a rest of so many times that: nobody is to be kept busy by being watched.
_REST: Final = 3

#: Seconds for which a look may be late before that is worth telling.
_GRACE: Final = 1.5

#: Seconds that the end waits for a look that goes on; a Redis that does not answer keeps nobody.
_PATIENCE: Final = 0.1


class Sight(NamedTuple):
    """What a look has found."""

    #: An overview, or why there is none.
    found: Overview | Exception
    #: Seconds after which the next one is late.
    late: float


class Onlooker:
    """Looks at a bus until it is closed; a context manager.

    Args:
        redis: belongs to the onlooker from here on, who closes it.
        prefix: RQ's key prefix.
        every: seconds from one look to the next.
    """

    def __init__(self, redis: Redis, prefix: str, every: float) -> None:
        self._redis = redis
        self._prefix = prefix
        self._every = every
        self._seen: SimpleQueue[Sight] = SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="onlooker", daemon=True)
        #: Is called, in the onlooker's thread, when there is news.
        self.tell: Callable[[], Any] = lambda: None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(_PATIENCE)

    def next(self) -> Sight:
        """What the next look finds; waits for it."""
        return self._seen.get()

    def news(self) -> Iterator[Sight]:
        """What was seen since this was asked last."""
        while True:
            try:
                yield self._seen.get_nowait()
            except Empty:
                return

    def _look_on(self) -> None:
        with self._redis:
            while not self._over.is_set():
                began = time.monotonic()
                found: Overview | Exception
                try:
                    found = look(self._redis, self._prefix)
                except Exception as exc:  # noqa: BLE001 # whoever shows it decides what to do about it
                    found = exc
                took = time.monotonic() - began
                rest = self._every - took
                if isinstance(found, Overview):
                    rest = max(rest, _REST * took)
                self._seen.put(Sight(found, max(rest, 0.0) + 2 * took + _GRACE))
                self.tell()
                self._over.wait(max(rest, 0.0))
