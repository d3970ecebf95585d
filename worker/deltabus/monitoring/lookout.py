"""A thread that looks whether its process is stuck, which the process itself could not say.

Stuck is not idle. A process is stuck where its event loop has not run for a whole lease, so that others take its
tasks for abandoned; or where its queues have had jobs at every look, and it has had free slots, for
`stall_after` seconds, and has taken nothing. That is asked soon where the worker does not even look at its queues,
and now and then where it looks and finds nothing: it may be at the wrong server. One that drains, is suspended, or
waits for Redis knows why it takes nothing, and so does everybody else.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog
from redis.exceptions import RedisError

from deltabus import rhythm
from deltabus.monitoring.board import Board
from deltabus.monitoring.catalogue import CPU, STALLS
from deltabus.monitoring.pulse import Pulse, Trouble

#: How often the lookout asks Redis for jobs within `stall_after`, once it has reason to.
LOOKS: Final = 6

#: Times `stall_after` between two questions without a reason: an idle worker looks at its queues by itself, and leaves
#: Redis in peace meanwhile.
IDLE: Final = 2

#: What Linux says of a process' memory, in pages: all of it, and the resident part (proc(5)).
STATM: Final = Path("/proc/self/statm")

log = structlog.get_logger("deltabus.worker")


class Lookout:
    """Looks while its block runs; of the loop of the thread that enters it.

    Args:
        waiting: asks Redis which queues have jobs.
        lease: seconds for which a loop may stand still.
        stall_after: seconds; 0: only the loop is looked at.
    """

    def __init__(
        self, pulse: Pulse, board: Board, waiting: Callable[[], Sequence[str]], *, lease: float, stall_after: float
    ) -> None:
        self._pulse = pulse
        self._waiting = waiting
        self._lease = lease
        self._stall_after = stall_after
        self._counts = {
            trouble: board.series((STALLS.name, trouble.name.lower()))
            for trouble in (Trouble.LOOP_BLOCKED, Trouble.NOT_TAKING)
        }
        self._cpu = board.series((CPU.name,))
        self._trouble = Trouble.NONE
        #: Since when queues have had jobs at every look, which they were, and when that was asked last.
        self._jobs_since: float | None = None
        self._queues: Sequence[str] = ()
        self._asked = 0.0
        #: When the last look was.
        self._looked = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="deltabus lookout", daemon=True)
        self._watched = 0

    def __enter__(self) -> Self:
        self._watched = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(rhythm.LONGEST)  # it may be waiting for Redis

    def _look(self) -> None:
        period = rhythm.period(self._lease)
        if self._stall_after:
            period = min(period, self._stall_after / LOOKS)
        while not self._over.wait(rhythm.pause(period)):
            try:
                self._measure()
                self._say(self._judge(time.monotonic()))
            except Exception:
                log.exception("the lookout failed, and looks again")

    def _measure(self) -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu[0] = used.ru_utime + used.ru_stime
        with contextlib.suppress(OSError):  # no Linux
            self._pulse.takes(int(STATM.read_bytes().split()[1]) * resource.getpagesize())

    def _judge(self, now: float) -> Trouble:
        reading = self._pulse.read()
        before, self._looked = self._looked, now
        # Of a process that was stopped whole, the loop may be the first to run again: then that is what tells.
        if reading.resumed > before or (reading.beat and now - reading.beat > self._lease):
            return Trouble.LOOP_BLOCKED
        free = reading.slots - reading.used
        idle = now - reading.busy
        knows_why = not reading.started or reading.draining or reading.suspended or reading.away or free <= 0
        if knows_why or not self._stall_after or idle < self._stall_after / LOOKS:
            self._jobs_since = None
            return Trouble.NONE
        # While nothing comes, the worker looks at its queues every ten seconds.
        if self._jobs_since is not None or now - reading.looked > self._stall_after / 2:
            is_time = now - self._asked >= self._stall_after / LOOKS
        else:
            is_time = now - max(self._asked, reading.busy) >= self._stall_after * IDLE
        if is_time:
            self._asked = now
            self._look_at_queues(now)
        since = self._jobs_since
        if since is None or reading.busy > since:
            return Trouble.NONE
        return Trouble.NOT_TAKING if min(idle, now - since) >= self._stall_after else Trouble.NONE

    def _look_at_queues(self, now: float) -> None:
        try:
            self._queues = self._waiting()
        except (RedisError, OSError):
            self._queues = ()  # whoever works meets that too, and says so
        if not self._queues:
            self._jobs_since = None
        elif self._jobs_since is None:
            self._jobs_since = now

    def _say(self, trouble: Trouble) -> None:
        if trouble is self._trouble:
            return
        former, self._trouble = self._trouble, trouble
        # First the board: the log may be what the process hangs at.
        self._pulse.is_in(trouble)
        if trouble is Trouble.NONE:
            log.info("not stuck any more", reason=former.name.lower())
            return
        self._counts[trouble][0] += 1
        if trouble is Trouble.LOOP_BLOCKED:
            log.error(
                "the worker is stuck: its event loop does not run",
                reason=trouble.name.lower(),
                seconds=round(self._lease, 1),
                frames=self._frames(),
            )
        else:
            log.error(
                "the worker is stuck: its queues have jobs, it has free slots, and it takes nothing",
                reason=trouble.name.lower(),
                seconds=round(self._stall_after, 1),
                queues=list(self._queues),
            )

    def _frames(self) -> list[str]:
        """Where the loop's thread stands: files and lines, no values."""
        frame = sys._current_frames().get(self._watched)  # noqa: SLF001 # the documented way
        return [f"{entry.filename}:{entry.lineno} {entry.name}" for entry in traceback.extract_stack(frame)]
