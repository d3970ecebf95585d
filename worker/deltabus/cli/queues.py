"""What Redis knows of a queue: who works on it, what waits, whether work is suspended. RQ's own keys, read only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltabus.cli.options import Session
from deltabus.cli.screens import Screen
from deltabus.cli.server import connect
from deltabus.errors import BusUnavailable

if TYPE_CHECKING:
    from redis import Redis

#: Seconds between two looks at a queue from which a task has not been taken yet.
LOOK_AGAIN = 5.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as RQ's keys describe it."""

    name: str
    #: Jobs that wait.
    waiting: int
    #: Names of the workers that are registered and alive.
    workers: tuple[str, ...]
    #: `rq suspend` was called and `rq resume` was not: workers take nothing.
    suspended: bool

    def problem(self, session: Session) -> str | None:
        """Why a task on this queue would wait, and what to do; None if it would not."""
        if self.suspended:
            address = session.settings.redis_address
            # RQ knows neither Sentinels nor Clusters by a URL.
            where = "--config deltabus.rqsettings" if "+" in address else f"--url {address}"
            return f"work is suspended: resume it with `rq resume {where}`"
        if not self.workers:
            start = session.command("worker", self.name)
            return f"nobody works on queue `{self.name}` at {session.settings.redis_address}: start a worker: `{start}`"
        return None


def look(redis: Redis, queues: Iterable[str], prefix: str) -> Sequence[QueueState]:
    """The state of some queues.

    Args:
        prefix: RQ's key prefix (`Settings.rq_key_prefix`).
    """
    names = list(queues)
    with redis.pipeline(transaction=False) as pipe:
        pipe.exists(f"{prefix}:suspended")
        for name in names:
            pipe.llen(f"{prefix}:queue:{name}")
            pipe.smembers(f"{prefix}:workers:{name}")
        suspended, *answers = pipe.execute()
        members = [sorted(as_text(member) for member in answers[place * 2 + 1]) for place in range(len(names))]
        # A killed worker stays a member until RQ cleans up; only its own key expires.
        for key in (key for keys in members for key in keys):
            pipe.exists(key)
        alive = iter(pipe.execute())
    states = []
    for place, name in enumerate(names):
        workers = tuple(key.removeprefix(f"{prefix}:worker:") for key in members[place] if next(alive))
        states.append(QueueState(name, answers[place * 2], workers, bool(suspended)))
    return states


async def watch_for_staff(session: Session, screen: Screen, queue: str) -> None:
    """Say so, once each, while nobody is there to take a task from the queue. Runs until cancelled."""
    from redis.exceptions import RedisError

    said: set[str] = set()
    # Whoever follows the task meets the same trouble with Redis, and reports it.
    with suppress(RedisError, BusUnavailable), await asyncio.to_thread(connect, session.settings) as redis:
        while True:
            (state,) = await asyncio.to_thread(look, redis, [queue], session.settings.rq_key_prefix)
            problem = state.problem(session)
            if problem is not None and problem not in said:
                said.add(problem)
                screen.warn(problem)
            screen.wait(f"waiting for a worker on queue {queue}" if problem else f"queued in {queue}")
            await asyncio.sleep(LOOK_AGAIN)


def as_text(value: bytes | str) -> str:
    """What Redis said, whichever way `decode_responses` in the URL is set."""
    return value.decode() if isinstance(value, bytes) else value
