"""The four shows."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from shows.review import Figures, attempts, began, handed_back, review, violations
from shows.stage import DURABLE, Stage, stage

#: Seconds from a worker's death in which all that it ran must run again.
RECOVERY: Final = 15.0

#: Seconds for which a worker is frozen.
FREEZE: Final = 30.0

#: Processes of the rolling restart.
PROCESSES: Final = 3


@dataclass(frozen=True, slots=True)
class Act:
    """One show: what is done, with how many streams, and how high its own figures may be."""

    show: Callable[..., Awaitable[Figures]]
    tasks: int
    limits: Mapping[str, float]

    async def perform(self, tasks: int) -> tuple[Figures, list[str]]:
        """Give it; figures, and what is wrong with them."""
        figures = await self.show(tasks)
        return figures, violations(figures, self.limits)


async def crash(
    tasks: int, *, words: int = 40, interval: float = 0.5, stalls: int | None = None, **settings: float
) -> Figures:
    """`kill -9` of the only worker with all streams in flight, and a new one."""
    async with stage((), concurrency=tasks, **settings) as scene:
        worker = await scene.worker()
        await scene.start(tasks, words=words, interval=interval, stalls=stalls)
        await scene.all_stream()
        killed_at = time.time()
        await worker.kill()
        await scene.worker()
        await scene.all_end()
        figures = await review(scene)
        again = sorted(began(stream, 2) - killed_at for stream in scene.streams if attempts(stream) > 1)
        return figures | {
            "streams that had not to run again": tasks - len(again),
            "first runs again after, s": again[0],
            "last runs again after, s": again[-1],
        }


async def freeze(
    tasks: int,
    *,
    words: int = 120,
    interval: float = 0.5,
    stalls: int | None = None,
    seconds: float = FREEZE,
    **settings: float,
) -> Figures:
    """SIGSTOP to the worker that has all streams, SIGCONT when another one has them for long."""
    async with stage((), concurrency=2 * tasks, **settings) as scene:
        frozen = await scene.worker()
        streams = await scene.start(tasks, words=words, interval=interval, stalls=stalls)
        await scene.all_stream()
        other = await scene.worker()
        frozen.signal(signal.SIGSTOP)
        frozen_at = time.time()
        await asyncio.sleep(seconds)
        await scene.all_run_again()
        frozen.signal(signal.SIGCONT)
        await frozen.says("fenced")
        await scene.all_end()
        fenced = sum("fenced" in line for line in frozen.said)
        other.signal(signal.SIGTERM)
        await other.end()
        # It is alone now.
        await scene.start(tasks, words=3, interval=0.0)
        await scene.all_end()
        figures = await review(scene)
        return figures | {
            "streams that another one took over": sum(attempts(stream) == 2 for stream in streams),
            "streams that more than one took over": sum(attempts(stream) > 2 for stream in streams),
            "last taken over after, s": max(
                (began(stream, 2) - frozen_at for stream in streams if attempts(stream) > 1), default=0.0
            ),
            "attempts of the thawed worker fenced": fenced,
        }


async def restart(tasks: int, *, words: int = 60, interval: float = 0.25, **settings: float) -> Figures:
    """Redis is restarted in the middle of the streams."""
    async with stage(DURABLE, concurrency=tasks, **settings) as scene:
        await scene.worker()
        streams = await scene.start(tasks, words=words, interval=interval)
        await scene.all_stream()
        stopped_at = time.time()
        await asyncio.to_thread(scene.server.restart)
        away = time.time() - stopped_at
        await scene.start(10, words=3, interval=0.0)
        await scene.all_end()
        figures = await review(scene)
        return figures | {"run again": sum(attempts(stream) > 1 for stream in streams), "Redis was away for, s": away}


async def rolling(
    tasks: int,
    *,
    processes: int = PROCESSES,
    surge: bool = True,
    words: int = 24,
    interval: float = 0.5,
    longer: int = 8,
    share: int = 25,
    **settings: float,
) -> Figures:
    """SIGTERM to one process after the other, each replaced, while so many streams are kept in flight.

    One stream in `share` takes `longer` times as long as the others: longer than leaving workers may take.

    Args:
        tasks: streams in flight.
        processes: how many; each is replaced once. They have slots for half as many streams again: one may be missing.
        surge: a new one takes jobs before the old one is sent home, as Kubernetes does it; else the old one leaves
            first, as on a host that has no room for two.
    """
    slots = -(-3 * tasks // (2 * processes))
    async with stage((), concurrency=slots, **settings) as scene:
        workers = [await scene.worker() for _ in range(processes)]
        long = await scene.start(tasks // share, words=words * longer, interval=interval)
        await scene.start(tasks - len(long), words=words, interval=interval)
        await scene.all_stream()
        codes = []
        over = asyncio.Event()
        feeder = asyncio.create_task(_feed(scene, tasks, over, words=words, interval=interval))
        began_at = time.monotonic()
        try:
            for worker in workers:
                if surge:
                    await scene.worker()
                worker.signal(signal.SIGTERM)
                codes.append(await worker.end())
                if not surge:
                    await scene.worker()
            seconds = time.monotonic() - began_at
        finally:
            over.set()
            await feeder
        # A stream that is lost does not end; the review counts it.
        with contextlib.suppress(TimeoutError):
            await scene.all_end()
        figures = await review(scene)
        short = [stream for stream in scene.streams if stream not in long]
        return figures | {
            "of these long ones": len(long),
            "long ones handed back": sum(handed_back(stream) > 0 for stream in long),
            "handed back": sum(map(handed_back, scene.streams)),
            "run again without a word": sum(attempts(stream) != 1 + handed_back(stream) for stream in scene.streams),
            "run again, could have finished": sum(attempts(stream) > 1 for stream in short),
            "workers replaced": len(codes),
            "workers that left in disorder": sum(code != 0 for code in codes),
            "longest gap of a subscriber, s": max(stream.longest_gap for stream in scene.streams),
            "replaced all within, s": seconds,
        }


async def _feed(scene: Stage, tasks: int, over: asyncio.Event, *, words: int, interval: float) -> None:
    """Keep so many streams in flight until it is over. Cancelled, it might leave tasks that the stage has not noted."""
    while not over.is_set():
        if missing := tasks - scene.in_flight:
            await scene.start(missing, words=words, interval=interval)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), interval)


ACTS: Final[Mapping[str, Act]] = {
    "crash": Act(crash, 1000, {"streams that had not to run again": 0, "last runs again after, s": RECOVERY}),
    "freeze": Act(freeze, 200, {"streams that more than one took over": 0}),
    "restart": Act(restart, 200, {"run again": 0}),
    "rolling": Act(
        rolling,
        500,
        {"run again without a word": 0, "run again, could have finished": 0, "workers that left in disorder": 0},
    ),
}
