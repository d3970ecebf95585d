"""A wait for jobs whose line is open and silent: others see the jobs, and it ends."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis.asyncio
from badline import BadLine

from deltabus.worker import intake as intakes
from deltabus.worker.recovery import Recovery


@pytest.fixture(autouse=True)
def _endless(monkeypatch):
    """A wait that ends by itself does so long after the test."""
    monkeypatch.setattr(intakes, "BLOCK", 600.0)
    monkeypatch.setattr(intakes, "DOUBT", 0.01)


async def waits(site, intake):
    """A wait that has reached Redis."""
    waiting = asyncio.create_task(intake.wait(10))
    while site.redis.info("clients")["blocked_clients"] < 1:
        await asyncio.sleep(0)
    return waiting


def test_a_wait_that_should_have_been_answered_ends_and_the_next_look_is_on_a_line_that_works(site, run):
    async def story() -> None:
        line = BadLine(site.url)
        url = await line.start()
        async with redis.asyncio.Redis.from_url(site.url) as well, redis.asyncio.Redis.from_url(url) as client:
            intake = site.intake(client)
            assert await intake.take(1) == []  # its other line is up
            waiting = await waits(site, intake)
            line.die()
            swallowed, *others = [site.enqueue() for _ in range(3)]
            recovery = Recovery(well, "w", {"chat": "rq:queue:chat"}, lease=60, result_ttl=60)
            at = time.monotonic()
            await recovery.patrol(())
            assert recovery.waiting == {"chat"}
            intake.doubt(recovery.waiting, at)
            with pytest.raises(TimeoutError):
                await waiting
            assert [taken.id for taken in await intake.take(10)] == [job.id for job in others]
            assert site.redis.lrange("rq:queue:chat:intermediate", 0, -1) == [swallowed.id.encode()]
            await intake.aclose()
        await line.stop()

    run(story())


def test_a_job_that_was_swallowed_is_reason_for_doubt_at_the_second_look_and_once(site, run):
    async def story() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            site.redis.rpush("rq:queue:chat:intermediate", "somebody")
            recovery = Recovery(client, "w", {"chat": "rq:queue:chat"}, lease=60, result_ttl=60)
            seen = []
            for _ in range(3):
                await recovery.patrol(())
                seen.append(set(recovery.waiting))
            assert seen == [set(), {"chat"}, set()]

    run(story())


def test_a_wait_that_began_after_the_look_is_not_doubted(site, run):
    async def story() -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            intake = site.intake(client)
            at = time.monotonic()
            waiting = await waits(site, intake)
            intake.doubt({"chat"}, at)
            job = site.enqueue()
            assert [taken.id for taken in await waiting] == [job.id]
            await intake.aclose()

    run(story())
