"""What subscribers are told of bytes on their way, and what becomes of a file that nobody will hear of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from deltabus.errors import DeltabusError, Fenced, ProviderUnavailable
from deltabus.events import Progress
from deltabus.files import Upload
from deltabus.provider import Content, Download
from deltabus.tasks import files, meter, transfers
from deltabus.tasks.meter import Meter, Metered


class Pieces(Content):
    """Ten pieces of ten bytes."""

    name, media_type, size = "x", "text/plain", 100

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        for _ in range(10):
            yield b"x" * 10


class Attempt:
    """The log's side: takes events, at once or when it is let, or refuses them."""

    def __init__(self, refuses: DeltabusError | None = None) -> None:
        self.task, self.number = "t1", 1
        self.events: list[Progress] = []
        self.refuses = refuses
        self.open = asyncio.Event()
        self.open.set()

    async def emit(self, event: Progress) -> None:
        await self.open.wait()
        if self.refuses:
            raise self.refuses
        self.events.append(event)


class Context:
    """What a handler has of its attempt, for these tests."""

    def __init__(self, attempt: Attempt) -> None:
        self.task, self.attempt, self.told = "t1", attempt, False
        self.depot = self
        self.forgotten: list[Any] = []

    def request(self, shape: Any, /, **fields: Any) -> Any:
        return shape(**fields)

    @asynccontextmanager
    async def open(self, source: Any, **_: Any) -> AsyncIterator[Content]:
        yield Pieces()

    async def check(self, to: Any, *, param: str) -> None:
        pass

    async def keep(self, download: Download, to: Any, *, param: str, progress: Any) -> dict[str, Any]:
        await progress(5, 5)
        return {"object": "blob", "id": "b1"}

    async def forget(self, kept: Any) -> None:
        self.forgotten.append(kept["id"])


class Clock:
    """A clock that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: 1.0))


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_events_come_at_most_every_quarter_of_a_second_and_one_at_the_end(run, monkeypatch):
    clock = Clock(monkeypatch)

    async def main() -> None:
        attempt = Attempt()
        counted = Meter(Context(attempt), 1000)
        for _ in range(100):  # Of 10 bytes each, 10 ms apart: a second in all.
            clock.now += 0.01
            counted.add(10)
            await settled()
        await counted.finish()
        done = [event.done for event in attempt.events]
        assert len(done) in {4, 5}
        assert done == sorted(set(done))
        assert done[-1] == 1000
        assert {event.total for event in attempt.events} == {1000}

    run(main())


def test_bytes_do_not_wait_for_redis(run, monkeypatch):
    clock = Clock(monkeypatch)

    async def main() -> None:
        attempt = Attempt()
        attempt.open.clear()
        counted = Meter(Context(attempt), 100)
        async for _ in Metered(Pieces(), counted).read():
            clock.now += 1
            await settled()
        attempt.open.set()
        await counted.finish()
        assert [event.done for event in attempt.events] == [10, 100]

    run(main())


def test_what_is_read_twice_is_not_twice_as_far(run):
    async def main() -> None:
        attempt = Attempt()
        content = Metered(Pieces(), counted := Meter(Context(attempt), 100))
        for _ in range(2):
            async for _piece in content.read():
                pass
        await counted.finish()
        assert [event.done for event in attempt.events] == [100]

    run(main())


def test_a_log_that_is_over_is_no_error_of_the_bytes(run, monkeypatch):
    monkeypatch.setattr(meter, "INTERVAL", 0)

    async def main() -> None:
        counted = Meter(Context(Attempt(Fenced("another attempt"))), 100)
        async for _ in Metered(Pieces(), counted).read():
            await settled()
        with pytest.raises(Fenced):
            await counted.finish()

    run(main())


def test_nothing_is_told_of_a_transfer_that_has_ended(run, monkeypatch):
    monkeypatch.setattr(meter, "INTERVAL", 0)

    async def main() -> None:
        attempt = Attempt()
        attempt.open.clear()
        counted = Meter(Context(attempt), 100)
        counted.add(10)
        await settled()
        await counted.aclose()
        attempt.open.set()
        await settled()
        assert attempt.events == []

    run(main())


class Provider:
    """Takes an upload, and perhaps cannot delete it."""

    def __init__(self, *, deletes: bool = True) -> None:
        self.deleted: list[str] = []
        self._deletes = deletes

    async def upload(self, request: Any) -> dict[str, Any]:
        async for _ in request.content.read():
            pass
        return {"id": "file-1"}

    async def delete(self, request: Any) -> dict[str, Any]:
        self.deleted.append(request.file_id)
        if not self._deletes:
            raise ProviderUnavailable("not there")
        return {}


@pytest.mark.parametrize("deletes", [True, False])
def test_a_file_whose_attempt_is_over_is_taken_back(run, deletes):
    async def main() -> None:
        provider = Provider(deletes=deletes)
        context = Context(Attempt(Fenced("another attempt")))
        with pytest.raises(Fenced):
            await files._upload(context, provider, Upload(source={}, body={}))
        assert provider.deleted == ["file-1"]

    run(main())


def test_a_file_that_was_told_of_stays(run):
    async def main() -> None:
        provider = Provider()
        made = await files._upload(Context(Attempt()), provider, Upload(source={}, body={}))
        assert (made, provider.deleted) == ({"id": "file-1"}, [])

    run(main())


def test_bytes_whose_attempt_is_over_are_not_kept(run):
    async def ask() -> Download:
        return Download(Pieces().read())

    async def main() -> None:
        context = Context(Attempt(Fenced("another attempt")))
        with pytest.raises(Fenced):
            await transfers.incoming(context, ask, None)
        assert context.forgotten == ["b1"]

    run(main())
