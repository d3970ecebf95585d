"""What a service manager is told: still starting, ready, still alive, stopping.

The protocol is systemd's, sd_notify(3): a datagram to the socket that $NOTIFY_SOCKET names. The sign of life is given
by the event loop itself: a loop that hangs gives none, and the manager restarts the process (`WatchdogSec=`). Nothing
here fails: a worker that cannot say how it is works all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Mapping

#: Signs of life in the time after which the manager gives up, so that one may be late.
SIGNS: float = 3.0

#: Seconds more that a start may take from each time on that it is told to last: more than a try to reach Redis takes,
#: and than a lease lasts, which a worker waits for to end where its name was that of one that was killed.
EXTENSION: float = 120.0


class ServiceManager:
    """Whoever started this process and wants to know how it is; nobody, where the environment names nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is one of Linux' abstract sockets.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        ours = environ.get("WATCHDOG_PID") in {None, "", str(os.getpid())}
        microseconds = environ.get("WATCHDOG_USEC", "")
        self._interval = int(microseconds) / 1e6 / SIGNS if ours and microseconds.isdecimal() else 0.0

    def tell(self, state: str) -> None:
        """Send assignments such as `READY=1`, one a line."""
        if self._address[:1] not in {"/", "\0"}:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(state.encode(), self._address)

    def starting(self, status: str) -> None:
        """It takes longer to start, which is no reason to start it anew (`TimeoutStartSec=`). Said again and again."""
        self.tell(f"EXTEND_TIMEOUT_USEC={int(EXTENSION * 1e6)}\nSTATUS={status}")

    @contextlib.contextmanager
    def on_duty(self, status: str) -> Iterator[None]:
        """Ready within, stopping behind it; called on the loop whose life is told."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def live() -> None:
            nonlocal timer
            self.tell("WATCHDOG=1")
            timer = loop.call_later(self._interval, live)

        self.tell(f"READY=1\nSTATUS={status}")
        if self._interval:
            live()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self.tell("STOPPING=1\nSTATUS=stopping")
