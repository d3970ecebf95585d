"""Waits end in time, once, and never in anybody else's code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from deltabus.provider import DeadlineExceeded, ProviderTimeout
from deltabus_openai.config import Timeouts
from deltabus_openai.watchdog import Watchdog

Run = Callable[[Coroutine[Any, Any, Any]], Any]
NONE = Timeouts(connect=None, first_byte=None, between_bytes=None, total=None)
SOON = 0.01


async def forever() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("phase", "wait"),
    [
        ("first_byte", lambda dog: dog.first_byte()),
        ("between_bytes", lambda dog: dog.next_byte()),
        ("total", lambda dog: dog.first_byte()),
        ("total", lambda dog: dog.next_byte()),
    ],
)
def test_a_wait_that_takes_too_long_is_a_timeout_that_names_its_limit(
    run: Run, phase: str, wait: Callable[[Watchdog], Watchdog]
) -> None:
    async def main() -> None:
        limits = {"connect": None, "first_byte": None, "between_bytes": None, "total": None, phase: SOON}
        with pytest.raises(ProviderTimeout, match=rf"timeouts\.{phase} = 0\.01 s"), wait(Watchdog(Timeouts(**limits))):
            await forever()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main())


def test_the_tasks_deadline_is_an_error_of_its_own(run: Run) -> None:
    async def main() -> None:
        dog = Watchdog(Timeouts(total=3600), time.time() + SOON)
        with pytest.raises(DeadlineExceeded), dog.next_byte():
            await forever()

    run(main())


def test_a_deadline_that_has_passed_lets_nothing_begin(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(DeadlineExceeded), Watchdog(NONE, time.time() - 1).first_byte():
            pytest.fail("the wait began")

    run(main())


def test_somebody_elses_cancellation_stays_one(run: Run) -> None:
    async def main() -> None:
        async def wait() -> None:
            with Watchdog(Timeouts()).next_byte():
                await forever()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_a_cancellation_beside_the_timeout_wins(run: Run) -> None:
    async def main() -> None:
        async def wait() -> None:
            with Watchdog(Timeouts(between_bytes=SOON)).next_byte():
                try:
                    await forever()
                except asyncio.CancelledError:
                    task.cancel()
                    raise

        task = asyncio.create_task(wait())
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_another_error_during_the_wait_gets_out(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError), Watchdog(Timeouts()).next_byte():
            _ = 1 / 0

    run(main())


def test_time_between_waits_does_not_count(run: Run) -> None:
    """The consumer may be slow; only the provider is timed. And nobody is cancelled outside a wait."""

    async def main() -> None:
        dog = Watchdog(Timeouts(between_bytes=SOON))
        for _ in range(3):
            with dog.next_byte():
                await asyncio.sleep(0)
            rung = asyncio.Event()
            asyncio.get_running_loop().call_later(3 * SOON, rung.set)
            await rung.wait()
        dog.close()

    run(main())


def test_a_timer_for_an_earlier_wait_does_not_end_a_later_one(run: Run) -> None:
    async def main() -> None:
        dog = Watchdog(Timeouts(first_byte=None, between_bytes=SOON))
        with dog.next_byte():
            await asyncio.sleep(0)
        rung = asyncio.Event()
        asyncio.get_running_loop().call_later(3 * SOON, rung.set)
        with dog.first_byte():
            await rung.wait()
        with dog.next_byte(most=3600):
            await asyncio.sleep(0)
        with pytest.raises(ProviderTimeout), dog.next_byte():
            await forever()

    run(main())


def test_a_busy_stream_arms_no_timer_for_each_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        armed = []
        original = loop.call_at

        def call_at(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            armed.append(when)
            return original(when, *args, **kwargs)

        monkeypatch.setattr(loop, "call_at", call_at)
        dog = Watchdog(Timeouts(first_byte=3600, between_bytes=60))
        with dog.first_byte():
            await asyncio.sleep(0)
        for _ in range(100):
            with dog.next_byte():
                await asyncio.sleep(0)
        dog.close()
        assert len(armed) == 2

    run(main())


def test_a_limit_for_one_wait_alone_is_heeded(run: Run) -> None:
    async def main() -> None:
        dog = Watchdog(Timeouts(between_bytes=3600))
        with pytest.raises(ProviderTimeout), dog.next_byte(most=SOON):
            await forever()
        with pytest.raises(ProviderTimeout), Watchdog(NONE).first_byte(most=SOON):
            await forever()

    run(main())


def test_different_tasks_may_wait_in_turn(run: Run) -> None:
    """As with `asyncio.wait_for(anext(stream))`, which runs each step in a task of its own in Python 3.11."""

    async def main() -> None:
        dog = Watchdog(Timeouts(between_bytes=SOON))

        async def wait(*, until: float | None) -> None:
            with dog.next_byte():
                await (forever() if until is None else asyncio.sleep(until))

        await asyncio.create_task(wait(until=0))
        with pytest.raises(ProviderTimeout):
            await asyncio.create_task(wait(until=None))

    run(main())
