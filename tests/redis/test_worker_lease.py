"""A worker that runs something holds a lease, whatever has become of it in the meantime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from rq.job import Job

from deltabus import jobs, keys
from deltabus.jobs import LOST_FIELD
from deltabus.ledger import Ledger, Outcome
from deltabus.recovery import Recovery

#: Seconds.
LEASE = 0.05


def start(site: Any, job: Job, then: Callable[[redis.asyncio.Redis], Awaitable[None]] | None = None) -> None:
    """The worker `away` takes a job and starts it."""

    async def main() -> None:
        site.redis.lmove("rq:queue:chat", "rq:queue:chat:intermediate")
        taken = jobs.restore(job.id, site.redis.hgetall(job.key), connection=site.redis, queue="chat")
        async with redis.asyncio.Redis.from_url(site.url) as client:
            ledger = Ledger(
                client, site.redis, worker_name="away", worker_key="rq:worker:away", failure_ttl=60, lease=LEASE
            )
            outcome, _ = await ledger.start(taken, "rq:queue:chat")
            assert outcome is Outcome.DONE
            if then is not None:
                await then(client)
            await ledger.aclose()

    asyncio.run(main())


def test_what_a_buried_worker_starts_is_found_should_it_die_before_it_renews_its_lease(site) -> None:
    job = site.enqueue()

    async def look(client: redis.asyncio.Redis) -> None:
        recovery = Recovery(client, "other", {"chat": "rq:queue:chat"}, lease=LEASE)
        deadline = time.monotonic() + 100 * LEASE
        while not await client.llen("rq:queue:chat"):
            await recovery.patrol()
            assert time.monotonic() < deadline, "nobody has found it"

    start(site, job, look)
    assert site.redis.zscore(keys.WORKERS, "away") is None
    assert site.redis.hget(job.key, LOST_FIELD) == b"1"


def test_a_start_does_not_prolong_a_lease(site) -> None:
    """Whether it has run out is for the others to see: it may be all that tells them of earlier jobs."""
    site.redis.zadd(keys.WORKERS, {"away": 1.0})
    start(site, site.enqueue())
    assert site.redis.zscore(keys.WORKERS, "away") == 1.0
