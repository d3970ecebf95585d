"""Blobs as producers have them: put there, read back, deleted, gone when their time is over."""

from __future__ import annotations

import io
import os
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from deltabus import AsyncBus, BlobNotFound, Bus, BusUnavailable, InvalidRequest, PayloadTooLarge
from deltabus.blobs import CHUNK, BlobBroken
from deltabus.settings import Settings

#: A little over two chunks, and every chunk another.
DATA = random.Random(3).randbytes(2 * CHUNK + 1000)


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


async def slowly() -> AsyncIterator[bytes]:
    for at in range(0, len(DATA), 100_001):
        yield DATA[at : at + 100_001]


def in_a_file(folder: Path) -> Path:
    (folder / "data").write_bytes(DATA)
    return folder / "data"


WAYS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda _: DATA,
    "bytearray": lambda _: bytearray(DATA),
    "memoryview-of-numbers": lambda _: memoryview(DATA).cast("I"),
    "path": in_a_file,
    "path-as-a-string": lambda folder: str(in_a_file(folder)),
    "open-file": lambda _: io.BytesIO(DATA),
    "list": lambda _: [DATA[:5], b"", DATA[5:]],
    "generator": lambda _: (DATA[at : at + 7777] for at in range(0, len(DATA), 7777)),
    "async-generator": lambda _: slowly(),
}


@pytest.mark.parametrize("way", [pytest.param(way, id=name) for name, way in WAYS.items()])
def test_a_blob_is_made_of_whatever_gives_bytes(way, redis_url, client, tmp_path):
    with Bus(redis_url) as bus:
        blob = bus.blob(way(tmp_path), ttl=60)
        assert [client.lindex(f"deltabus:blob:{blob}", 0), client.llen(f"deltabus:blob:{blob}")] == [DATA[:CHUNK], 3]
        assert 0 < client.ttl(f"deltabus:blob:{blob}") <= 60
        assert b"".join(bus.read_blob(blob)) == DATA
        assert bus.delete_blob(blob)
        assert not bus.delete_blob(blob)
        with pytest.raises(BlobNotFound, match=blob):
            list(bus.read_blob(blob))


def test_it_is_the_same_for_asyncio(redis_url, run):
    async def main() -> None:
        async with AsyncBus(redis_url) as bus:
            blob = await bus.blob(DATA)
            assert b"".join([piece async for piece in bus.read_blob(blob)]) == DATA
            assert await bus.delete_blob(blob)

    run(main())


def test_a_blob_lives_as_long_as_the_settings_say(redis_url, client):
    with Bus(redis_url, settings=Settings(blob_ttl=1000)) as bus:
        assert 990 < client.ttl(f"deltabus:blob:{bus.blob(b'x')}") <= 1000


def test_who_stops_reading_can_go_on_with_the_bus(redis_url):
    with Bus(redis_url) as bus:
        blob = bus.blob(DATA)
        pieces = bus.read_blob(blob)
        assert next(pieces) == DATA[:CHUNK]
        pieces.close()
        assert bus.delete_blob(blob)


def broken(*pieces: bytes) -> Any:
    yield from pieces
    raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (broken(DATA), OSError),
        ([DATA, "text"], TypeError),
        ("/nobody/has/this", FileNotFoundError),
        (os.curdir, IsADirectoryError),
        ([b"x" * CHUNK] * 4, PayloadTooLarge),
        (7, TypeError),
    ],
)
def test_what_cannot_be_read_to_its_end_leaves_nothing(data, error, redis_url, client):
    with Bus(redis_url, settings=Settings(max_file_bytes=3 * CHUNK)) as bus, pytest.raises(error):
        bus.blob(data)
    assert client.keys("*") == []


def test_an_id_or_a_ttl_that_cannot_be_is_refused(redis_url):
    with Bus(redis_url) as bus:
        for call in (lambda: list(bus.read_blob("no/slash")), lambda: bus.delete_blob("")):
            with pytest.raises(InvalidRequest) as caught:
                call()
            assert caught.value.param == "blob_id"
        for ttl in (0, "x", 1.5):
            with pytest.raises(InvalidRequest) as caught:
                bus.blob(b"x", ttl=ttl)
            assert caught.value.param == "ttl"


def test_what_is_not_a_blob_is_said_to_be_none(redis_url, client):
    client.set("deltabus:blob:text", "x")
    client.rpush("deltabus:blob:list", b"x", b"longer")
    with Bus(redis_url) as bus:
        for name in ("text", "list"):
            with pytest.raises(BlobBroken, match=name):
                list(bus.read_blob(name))


def test_a_redis_that_is_not_there_is_an_error():
    settings = replace(Settings(), redis_url="redis://127.0.0.1:9/0", redis_timeout=0.3)
    with Bus(settings=settings) as bus, pytest.raises(BusUnavailable):
        bus.blob(b"x")


def test_a_ttl_that_is_over_before_all_is_written_is_an_error(redis_url, client):
    def pieces() -> Any:
        yield DATA[:CHUNK]
        client.delete(*client.keys("deltabus:blob:*"))  # as if it had expired
        yield DATA[CHUNK:]

    with Bus(redis_url) as bus, pytest.raises(BlobNotFound, match="too short"):
        bus.blob(pieces())
    assert client.keys("*") == []


def test_a_chunk_that_is_sent_again_is_not_written_twice(redis_url, client, run):
    async def main() -> None:
        async with AsyncBus(redis_url) as bus:
            blobs = bus._open().blobs
            for number, chunk in (0, b"xx"), (0, b"xx"), (1, b"x"), (1, b"x"):
                await blobs.append("b", number, chunk, 60)
            for number in (0, 3):
                with pytest.raises(BlobNotFound):
                    await blobs.append("b", number, b"x", 60)
            await blobs.publish("b", "c", 2)
            await blobs.publish("b", "c", 2)
            with pytest.raises(BlobNotFound):
                await blobs.publish("b", "c", 3)

    run(main())
    assert client.keys("*") == [b"deltabus:blob:c"]
    assert client.lrange("deltabus:blob:c", 0, -1) == [b"xx", b"x"]
