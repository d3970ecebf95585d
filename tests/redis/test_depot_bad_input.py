"""Sources and destinations that break a rule: one clear error each, which shows none of the content."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from depots import all_of, depot_at, fetched, keys_at, pieces_of

from deltabus.blobs import CHUNK, READING_TTL
from deltabus.errors import InvalidRequest, NotFound, PayloadTooLarge, StreamTruncated, TaskError
from deltabus.provider import Download

SOURCES: dict[str, tuple[Any, str, type[TaskError]]] = {
    "null": (None, "source", InvalidRequest),
    "string": ("https://secret.example", "source", InvalidRequest),
    "array": ([], "source", InvalidRequest),
    "nothing-in-it": ({}, "source", InvalidRequest),
    "only-a-name": ({"filename": "x"}, "source", InvalidRequest),
    "two-at-once": ({"path": "/secret", "base64": "c2VjcmV0"}, "source", InvalidRequest),
    "unknown-key": ({"base46": "c2VjcmV0"}, "source.base46", InvalidRequest),
    "number": ({"base64": 1}, "source.base64", InvalidRequest),
    "empty-url": ({"url": ""}, "source.url", InvalidRequest),
    "empty-base64": ({"base64": ""}, "source.base64", InvalidRequest),
    "base64-of-nothing": ({"url": "data:;base64,"}, "source", InvalidRequest),
    "base64-unpadded": ({"base64": "c2VjcmV0cw"}, "source.base64", InvalidRequest),
    "base64-padded-too-much": ({"base64": "c2VjcmV0===="}, "source.base64", InvalidRequest),
    "base64-with-line-breaks": ({"base64": "c2Vj\ncmV0"}, "source.base64", InvalidRequest),
    "base64-url-safe": ({"base64": "c2Vj-_V0"}, "source.base64", InvalidRequest),
    "base64-beyond-ascii": ({"base64": "c2Vjсret"}, "source.base64", InvalidRequest),  # noqa: RUF001 # Cyrillic
    "base64-with-bits-left-over": ({"base64": "c2VjcmV="}, "source.base64", InvalidRequest),
    "base64-that-is-a-data-url": ({"base64": "data:;base64,c2VjcmV0"}, "source.base64", InvalidRequest),
    "base64-too-large": ({"base64": "c2VjcmV0" * 300}, "source.base64", PayloadTooLarge),
    "data-url-without-comma": ({"url": "data:text/plain"}, "source.url", InvalidRequest),
    "data-url-without-type": ({"url": "data:nonsense;base64,c2VjcmV0"}, "source.url", InvalidRequest),
    "data-url-broken": ({"url": "data:text/plain;base64,secret!"}, "source.url", InvalidRequest),
    "data-url-too-large": ({"url": "data:text/plain," + "secret" * 300}, "source", PayloadTooLarge),
    "blob-with-a-wrong-id": ({"blob": "no/slash"}, "source.blob", InvalidRequest),
    "blob-not-there": ({"blob": "nobody-wrote-it"}, "source.blob", NotFound),
    "filename-a-number": ({"base64": "c2VjcmV0", "filename": 1}, "source.filename", InvalidRequest),
    "filename-of-nothing": ({"base64": "c2VjcmV0", "filename": "../.."}, "source.filename", InvalidRequest),
    "media-type-wrong": ({"base64": "c2VjcmV0", "media_type": "pdf"}, "source.media_type", InvalidRequest),
    "media-type-a-header": ({"base64": "c2VjcmV0", "media_type": "a/b\r\nX: 1"}, "source.media_type", InvalidRequest),
    "size-a-string": ({"base64": "c2VjcmV0", "size": "6"}, "source.size", InvalidRequest),
    "size-negative": ({"base64": "c2VjcmV0", "size": -1}, "source.size", InvalidRequest),
    "size-wrong": ({"base64": "c2VjcmV0", "size": 7}, "source.size", InvalidRequest),
    "sha256-no-digest": ({"base64": "c2VjcmV0", "sha256": "abc"}, "source.sha256", InvalidRequest),
    "sha256-wrong": ({"base64": "c2VjcmV0", "sha256": "0" * 64}, "source.sha256", InvalidRequest),
}


@pytest.mark.parametrize(("source", "param", "kind"), [pytest.param(*case, id=name) for name, case in SOURCES.items()])
def test_a_source_that_breaks_a_rule_is_one_clear_error(source, param, kind, redis_url, run):
    async def main() -> None:
        async with depot_at(redis_url, max_file_bytes=1000) as depot:
            await fetched(depot, source)

    with pytest.raises(kind) as caught:
        run(main())
    assert type(caught.value) is kind
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message
    assert "secret" not in caught.value.message
    assert "c2Vj" not in caught.value.message
    assert keys_at(redis_url) == []


CUTS: dict[str, list[bytes]] = {
    "a-chunk-too-large": [b"x" * (CHUNK + 1)],
    "the-last-one-larger": [b"x" * 5, b"x" * 6],
    "the-last-one-empty": [b"x" * 5, b""],
    "one-in-the-middle-shorter": [b"x" * 5, b"x" * 4, b"x" * 5],
    "one-in-the-middle-longer": [b"x" * 5, b"x" * 6, b"x" * 5],
    "only-an-empty-one": [b""],
}


@pytest.mark.parametrize("chunks", [pytest.param(chunks, id=name) for name, chunks in CUTS.items()])
def test_a_blob_that_is_cut_wrongly_is_refused(chunks, redis_url, run):
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("deltabus:blob:b", *chunks)

    async def main() -> None:
        async with depot_at(redis_url) as depot:
            await fetched(depot, {"blob": "b"})

    with pytest.raises(InvalidRequest) as caught:
        run(main())
    assert caught.value.param in {"source", "source.blob"}


def test_a_key_that_is_no_list_is_refused(redis_url, run):
    with redis.Redis.from_url(redis_url) as client:
        client.set("deltabus:blob:b", "x")

    async def main() -> None:
        async with depot_at(redis_url) as depot:
            await fetched(depot, {"blob": "b"})

    with pytest.raises(InvalidRequest, match="not a list") as caught:
        run(main())
    assert caught.value.param == "source.blob"


def test_a_blob_that_goes_while_it_is_read_is_an_error(redis_url, run):
    async def main() -> None:
        async with depot_at(redis_url) as depot:
            with redis.Redis.from_url(redis_url) as client:
                client.rpush("deltabus:blob:b", b"12345", b"123")
                async with depot.open({"blob": "b"}, param="source") as content:
                    client.delete("deltabus:blob:b")
                    with pytest.raises(NotFound, match="expired while it was read") as caught:
                        await all_of(content)
                    assert caught.value.param == "source.blob"

    run(main())


def test_a_blob_that_is_about_to_expire_is_kept_while_it_is_read_and_no_longer(redis_url, run):
    async def main() -> None:
        async with depot_at(redis_url) as depot:
            with redis.Redis.from_url(redis_url) as client:
                for name, ttl in ("short", 5), ("long", 10 * READING_TTL):
                    client.rpush(f"deltabus:blob:{name}", b"x")
                    client.expire(f"deltabus:blob:{name}", ttl)
                    await fetched(depot, {"blob": name})
                assert READING_TTL - 10 < client.ttl("deltabus:blob:short") <= READING_TTL
                assert client.ttl("deltabus:blob:long") > 9 * READING_TTL
                client.rpush("deltabus:blob:for-ever", b"x")
                await fetched(depot, {"blob": "for-ever"})
                assert client.ttl("deltabus:blob:for-ever") == -1

    run(main())


@pytest.mark.parametrize(
    ("to", "param"),
    [
        ("blob", "to"),
        ({}, "to"),
        ({"blob": True, "path": "/x"}, "to"),
        ({"blob": False}, "to.blob"),
        ({"blob": "no/slash"}, "to.blob"),
        ({"base64": "x"}, "to.base64"),
        ({"url": 1}, "to.url"),
        ({"url": "https://files.example/x"}, "to.url"),
        ({"path": ""}, "to.path"),
        ({"blob": True, "filename": ".."}, "to.filename"),
    ],
)
def test_a_destination_that_breaks_a_rule_is_refused_and_the_download_closed(to, param, redis_url, run):
    async def main() -> None:
        async with depot_at(redis_url) as depot:
            pieces = pieces_of(b"x")
            with pytest.raises(InvalidRequest) as caught:
                await depot.check(to, param="to")
            assert caught.value.param == param
            with pytest.raises(InvalidRequest) as caught:
                await depot.keep(Download(pieces), to, param="to")
            assert caught.value.param == param
            with pytest.raises(StopAsyncIteration):
                await anext(pieces)

    run(main())
    assert keys_at(redis_url) == []


@pytest.mark.parametrize("to", [None, {"blob": "answer"}])
@pytest.mark.parametrize(
    ("pieces", "size", "error", "kind"),
    [
        ([b"x" * CHUNK, b"x"], None, StreamTruncated("it broke off"), StreamTruncated),
        ([b"x" * CHUNK, b"x"], CHUNK + 2, None, StreamTruncated),
        ([b"x" * CHUNK, b"x"], CHUNK, None, StreamTruncated),
        ([b"x" * CHUNK] * 4, None, None, PayloadTooLarge),
        ([b"x"], 4 * CHUNK, None, PayloadTooLarge),
    ],
)
def test_a_download_that_fails_leaves_nothing(to, pieces, size, error, kind, redis_url, run):  # noqa: PLR0917 # a table
    async def main() -> None:
        async with depot_at(redis_url, max_file_bytes=3 * CHUNK) as depot:
            await depot.keep(Download(pieces_of(*pieces, error=error), size=size), to, param="to")

    with pytest.raises(kind):
        run(main())
    assert keys_at(redis_url) == []


def test_half_a_blob_has_a_ttl_and_not_the_id_that_was_asked_for(redis_url, run):
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("deltabus:blob:answer", "of an earlier attempt")

        async def pieces() -> Any:
            yield b"x" * CHUNK
            written = set(client.keys("*")) - {b"deltabus:blob:answer"}
            assert [client.ttl(key) > 0 for key in written] == [True]
            assert client.lrange("deltabus:blob:answer", 0, -1) == [b"of an earlier attempt"]
            yield b"y"

        async def main() -> None:
            async with depot_at(redis_url) as depot:
                await depot.keep(Download(pieces()), {"blob": "answer"}, param="to")

        run(main())
        assert client.keys("*") == [b"deltabus:blob:answer"]
        assert client.lrange("deltabus:blob:answer", 0, -1) == [b"x" * CHUNK, b"y"]
        assert 0 < client.ttl("deltabus:blob:answer") <= 3600


def test_an_empty_answer_is_an_empty_blob(redis_url, run):
    async def main() -> Any:
        async with depot_at(redis_url) as depot:
            return await depot.keep(Download(pieces_of()), None, param="to")

    kept = run(main())
    assert kept["bytes"] == 0
    with redis.Redis.from_url(redis_url) as client:
        assert client.lrange(f"deltabus:blob:{kept['id']}", 0, -1) == [b""]


def test_who_is_cancelled_while_keeping_leaves_nothing(redis_url, run):
    async def main() -> None:
        waits = asyncio.Event()

        async def pieces() -> Any:
            yield b"x" * CHUNK
            waits.set()
            await asyncio.Event().wait()

        async with depot_at(redis_url) as depot:
            task = asyncio.create_task(depot.keep(Download(pieces()), None, param="to"))
            await waits.wait()
            assert len(keys_at(redis_url)) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main())
    assert keys_at(redis_url) == []
