"""What shows how a worker is: its board, who writes on it, who looks whether it is stuck, and who serves it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from redis import Redis

from deltabus import connections, telemetry
from deltabus.monitoring.board import Board
from deltabus.monitoring.lookout import Lookout
from deltabus.monitoring.metrics import queuesight
from deltabus.monitoring.metrics.counting import Counting
from deltabus.monitoring.pulse import Pulse
from deltabus.monitoring.roster import Roster
from deltabus.settings import Settings
from deltabus.telemetry import Observer


class Instruments:
    """Those of one worker.

    Args:
        board: one that a supervisor shows; None: the worker shows its own, where `metrics_port` is set.
    """

    def __init__(self, board: Board | None) -> None:
        self._given = board

    # At the first use: RQ also makes workers only to look at them.

    @cached_property
    def _board(self) -> Board:
        return self._given or Board()

    @cached_property
    def _pulse(self) -> Pulse:
        return Pulse(self._board)

    def observers(self, settings: Settings, queues: Sequence[str]) -> list[Observer]:
        """Who writes on the board. Nothing is counted that nobody can see."""
        if self._given is None and not settings.metrics_port:
            return [self._pulse]
        return [self._pulse, Counting(self._board, queues=queues, tenants=settings.metrics_tenants)]

    @contextlib.contextmanager
    def shown(self, settings: Settings, connection: Redis, queues: Sequence[str]) -> Iterator[None]:
        """Serve the board while the block runs, where that is wanted.

        Raises:
            ConfigError: it cannot be served.
        """
        if self._given is not None or not settings.metrics_port:
            yield
            return
        roster = Roster()
        roster.enter(os.getpid(), self._board)
        with serve(roster, settings, connection, queues):
            yield

    @contextlib.contextmanager
    def waiting(self, settings: Settings, connection: Redis) -> Iterator[None]:
        """As `shown`, for who waits for Redis before there can be a worker: whoever asks is told so.

        Otherwise nobody would answer, and what cannot be asked is restarted, which mends nothing.
        """
        telemetry.observe(self._pulse)
        with self.shown(settings, connection, settings.queues):
            yield

    @contextlib.contextmanager
    def looked_after(
        self, settings: Settings, connection: Redis, queues: Sequence[str], told: Callable[[float], None]
    ) -> Iterator[None]:
        """Beat, and have somebody look whether the process is stuck, while the block runs. Entered on the loop.

        Args:
            told: see `Pulse.beat`.
        """
        self._pulse.beat(settings.lease, told)
        lookout = Lookout(
            self._pulse,
            self._board,
            lambda: queuesight.waiting(connection, queues),
            lease=settings.lease,
            stall_after=settings.stall_after,
        )
        try:
            with lookout:
                yield
        finally:
            self._pulse.stop()


def serve(
    roster: Roster, settings: Settings, connection: Redis, queues: Sequence[str]
) -> contextlib.AbstractContextManager[object]:
    """The endpoint of the processes on a roster, for a `with` block.

    Args:
        connection: to the Redis that is asked for queues.

    Raises:
        ConfigError: prometheus-client is not installed, or the port cannot be had.
    """
    from deltabus.monitoring.statusserver import StatusServer

    return StatusServer(
        settings.metrics_host,
        settings.metrics_port,
        roster,
        connections.hasty(connection),
        queues=queues,
        lease=settings.lease,
    )
