"""What a worker's depot opens and keeps: the bytes, their names, and nothing left behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis
from depots import all_of, depot_at, keys_at, pieces_of

from deltabus import AsyncBus
from deltabus.blobs import CHUNK
from deltabus.errors import InvalidRequest, PayloadTooLarge
from deltabus.provider import Download

#: A little over two chunks, and every chunk another.
DATA = random.Random(3).randbytes(2 * CHUNK + 1000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture(params=["path", "base64", "blob"])
def source(request: pytest.FixtureRequest, redis_url: str, root: Path, run: Callable[..., Any]) -> dict[str, str]:
    """`DATA`, wherever it may come from."""

    async def put() -> str:
        async with AsyncBus(redis_url) as bus:
            return await bus.blob(DATA)

    match request.param:
        case "path":
            (root / "data.bin").write_bytes(DATA)
            return {"path": str(root / "data.bin")}
        case "base64":
            return {"base64": base64.b64encode(DATA).decode()}
    return {"blob": run(put())}


def test_a_source_is_read_whole_in_parts_and_at_many_places_at_once(source, redis_url, root, run):
    async def main() -> None:
        async with (
            depot_at(redis_url, file_roots=(str(root),)) as depot,
            depot.open(source, param="request.source") as content,
        ):
            assert content.size == len(DATA)
            assert await all_of(content) == DATA
            assert await all_of(content, 5, 10) == DATA[5:15]
            assert await all_of(content, CHUNK - 1, 3) == DATA[CHUNK - 1 : CHUNK + 2]
            assert await all_of(content, len(DATA) - 2, 100) == DATA[-2:]
            assert await all_of(content, 0, 0) == b""
            step = 100_001
            parts = await asyncio.gather(*(all_of(content, at, step) for at in range(0, len(DATA), step)))
            assert b"".join(parts) == DATA
            async with aclosing(content.read()) as pieces:
                assert max([len(piece) async for piece in pieces]) <= CHUNK

    run(main())


def test_size_and_digest_are_held_to_what_was_announced(source, redis_url, root, run):
    async def main() -> None:
        async with depot_at(redis_url, file_roots=(str(root),)) as depot:
            right = {"size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest().upper()}
            async with depot.open(source | right, param="p"):
                pass
            for wrong, name in ({"size": len(DATA) + 2}, "size"), ({"sha256": "0" * 64}, "sha256"):
                with pytest.raises(InvalidRequest) as caught:
                    async with depot.open(source | wrong, param="p"):
                        pass
                assert caught.value.param == f"p.{name}"
            with pytest.raises(PayloadTooLarge):
                async with depot.open(source, param="p", max_bytes=len(DATA) - 1):
                    pass

    run(main())


def test_a_download_becomes_a_blob_that_the_producer_reads(redis_url, run):
    async def main() -> None:
        said: list[tuple[int, int | None]] = []

        async def progress(done: int, total: int | None) -> None:
            said.append((done, total))

        async with depot_at(redis_url) as depot, AsyncBus(redis_url) as bus:
            download = Download(pieces_of(DATA[:10], DATA[10:]), media_type="audio/mpeg", size=len(DATA))
            kept = await depot.keep(download, None, param="to", progress=progress)
            assert kept == {
                "object": "blob",
                "id": kept["id"],
                "bytes": len(DATA),
                "media_type": "audio/mpeg",
                "filename": "file.mp3",
                "sha256": hashlib.sha256(DATA).hexdigest(),
                "expires_at": kept["expires_at"],
            }
            assert said == [(10, len(DATA)), (len(DATA), len(DATA))]
            assert b"".join([piece async for piece in bus.read_blob(kept["id"])]) == DATA
            async with depot.open({"blob": kept["id"]}, param="p") as content:
                assert await all_of(content) == DATA
            assert await bus.delete_blob(kept["id"])
            assert not await bus.delete_blob(kept["id"])

    run(main())
    assert keys_at(redis_url) == []


def test_a_connection_that_is_cut_while_a_blob_is_read_or_written_costs_nothing(redis_url, run):
    with redis.Redis.from_url(redis_url) as client:

        def cut() -> None:
            for connection in client.client_list(_type="normal"):
                if connection["addr"] != client.client_info()["addr"]:
                    client.client_kill(connection["addr"])

        async def main() -> None:
            async with depot_at(redis_url) as depot, AsyncBus(redis_url) as bus:
                source = {"blob": await bus.blob(DATA)}
                async with depot.open(source, param="source") as content, aclosing(content.read()) as pieces:

                    async def interrupted() -> AsyncGenerator[bytes, None]:
                        async for piece in pieces:
                            yield piece
                            cut()

                    kept = await depot.keep(Download(interrupted(), size=len(DATA)), {"blob": "kept"}, param="to")
            assert kept["sha256"] == hashlib.sha256(DATA).hexdigest()
            assert b"".join(client.lrange("deltabus:blob:kept", 0, -1)) == DATA

        run(main())


def test_names_and_types_of_data_urls_are_theirs_or_the_tasks(redis_url, run):
    async def about(source: dict[str, Any], **options: Any) -> tuple[str, str, bytes]:
        async with depot_at(redis_url) as depot, depot.open(source, param="source", **options) as content:
            return content.name, content.media_type, await all_of(content)

    async def main() -> None:
        png = {"url": "data:image/png;base64,c2VjcmV0"}
        assert await about(png) == ("file.png", "image/png", b"secret")
        assert await about({"url": "DATA:,a%20b"}) == ("file.txt", "text/plain", b"a b")
        assert (await about({"url": "data:text/plain;charset=utf-8,x"}))[1] == "text/plain;charset=utf-8"
        assert (await about(png | {"filename": "a.bin", "media_type": "x/y"}))[:2] == ("a.bin", "x/y")
        assert (await about(png | {"filename": "a.bin"}, name="../b.jpg", media_type="x/z"))[:2] == ("b.jpg", "x/z")
        assert (await about({"base64": "c2VjcmV0", "filename": "talk.mp3"}))[1] == "audio/mpeg"

    run(main())
