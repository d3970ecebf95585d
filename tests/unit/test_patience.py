"""The kit's patience counts silence: neither what happens slowly, nor what a busy machine takes for itself."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from deltabus.testing.patience import PatientLoop

Try = Callable[[Coroutine[Any, Any, object], float], bool]


@pytest.fixture
def lasts() -> Iterator[Try]:
    """`lasts(work, patience)`: whether patience lasts until the work is done."""
    loop = PatientLoop()

    async def wait(work: Coroutine[Any, Any, object], patience: float) -> bool:
        task = asyncio.create_task(work)
        done = await loop.wait({task}, patience)
        task.cancel()
        await asyncio.wait({task})
        return done

    yield lambda work, patience: loop.run_until_complete(wait(work, patience))
    loop.close()


async def words(count: float) -> None:
    """So many words over a socket, each at once behind the one before it, as far as the loop is concerned."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        for number in itertools.count():
            if number >= count:
                return
            there.send(b"x")
            await loop.sock_recv(here, 1)
            await asyncio.sleep(0)


async def turns(count: float) -> None:
    """So many turns of the loop in which there is something to run, and nothing to read."""
    for number in itertools.count():
        if number >= count:
            return
        await asyncio.sleep(0)


async def waits(count: float) -> None:
    """So many turns in which there is nothing to run."""
    for number in itertools.count():
        if number >= count:
            return
        rung = asyncio.Event()
        asyncio.get_running_loop().call_later(0.001, rung.set)
        await rung.wait()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine takes 100 seconds for itself before, and in, each turn of the loop."""
    clock = itertools.count(0, 100)
    monkeypatch.setattr("deltabus.testing.patience.time", SimpleNamespace(monotonic=lambda: float(next(clock))))


def test_silence_is_the_end_of_patience(lasts: Try) -> None:
    assert not lasts(asyncio.Event().wait(), 0.1)


def test_a_wait_that_the_machine_draws_out_counts_as_one(lasts: Try, slow: None) -> None:
    assert lasts(waits(10), 1.0)  # 2,000 s by the clock
    assert not lasts(waits(float("inf")), 1.0)


def test_patience_begins_anew_with_each_wait(lasts: Try, slow: None) -> None:
    for _ in range(5):
        assert lasts(waits(10), 1.0)


def test_what_is_run_or_read_takes_as_long_as_it_takes(lasts: Try, slow: None) -> None:
    assert lasts(turns(1000), 10.0)
    assert lasts(words(100), 10.0)


@pytest.mark.parametrize("work", [turns, words])
def test_what_goes_on_without_end_has_an_end_too(lasts: Try, slow: None, work: Any) -> None:
    assert not lasts(work(float("inf")), 0.5)
