"""Objects in cloud storage, from and to; fsspec's memory stands for the cloud."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest
from depots import all_of, depot_at, fetched, pieces_of

from deltabus.depot import storage
from deltabus.errors import InvalidRequest, NotFound, PayloadTooLarge, ProviderUnavailable, StreamTruncated, Unsupported
from deltabus.provider import Download

DATA = bytes(range(256)) * 50_000

ROOTS = {"storage_roots": ("memory://bucket/in", "memory://bucket/out/")}


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A storage, empty."""
    monkeypatch.setattr(storage, "SCHEMES", ("memory", "s3"))
    cloud = fsspec.filesystem("memory")
    cloud.store.clear()
    real = type(cloud)._open

    def as_clouds_do(self: Any, path: str, mode: str = "rb", *, autocommit: bool = True, **options: Any) -> Any:
        """Held back until it is committed: the memory does that in transactions only."""
        self._intrans = not autocommit
        try:
            return real(self, path, mode, **options)
        finally:
            self._intrans = False

    monkeypatch.setattr(type(cloud), "_open", as_clouds_do)
    yield cloud
    cloud.store.clear()


def test_an_object_is_read_whole_and_in_parts(cloud, redis_url, run):
    cloud.pipe_file("bucket/in/report.pdf", DATA)

    async def main() -> None:
        async with (
            depot_at(redis_url, **ROOTS) as depot,
            depot.open({"url": "memory://bucket/in/report.pdf"}, param="source") as content,
        ):
            assert (content.name, content.media_type, content.size) == ("report.pdf", "application/pdf", len(DATA))
            assert await all_of(content) == DATA
            assert await all_of(content, storage.BLOCK - 1, 3) == DATA[storage.BLOCK - 1 : storage.BLOCK + 2]

    run(main())


def test_a_download_becomes_an_object(cloud, redis_url, run):
    async def main() -> Any:
        async with depot_at(redis_url, **ROOTS) as depot:
            download = Download(pieces_of(DATA[:5], DATA[5:]), media_type="audio/mpeg")
            return await depot.keep(download, {"url": "memory://bucket/out/talk.mp3"}, param="to")

    assert run(main()) == {
        "object": "stored",
        "url": "memory://bucket/out/talk.mp3",
        "bytes": len(DATA),
        "media_type": "audio/mpeg",
        "filename": "talk.mp3",
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }
    assert cloud.cat_file("bucket/out/talk.mp3") == DATA
    assert not cloud.transaction.files


def test_a_download_that_breaks_off_leaves_no_object(cloud, redis_url, run):
    async def main() -> None:
        async with depot_at(redis_url, **ROOTS) as depot:
            download = Download(pieces_of(DATA, error=StreamTruncated("it broke off")))
            await depot.keep(download, {"url": "memory://bucket/out/talk.mp3"}, param="to")

    with pytest.raises(StreamTruncated):
        run(main())
    assert cloud.store == {}


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://bucket/in/missing", NotFound),
        ("memory://bucket/in/folder", InvalidRequest),
        ("memory://bucket/in/empty", InvalidRequest),
        ("memory://bucket/in/large", PayloadTooLarge),
        ("memory://bucket/in", InvalidRequest),
        ("memory://bucket/in/", InvalidRequest),
        ("memory://bucket/inner/x", InvalidRequest),
        ("memory://bucket/elsewhere", InvalidRequest),
        ("memory://bucket/in/../elsewhere", InvalidRequest),
        ("memory://bucket/in/./x", InvalidRequest),
        ("memory://bucket/in//x", InvalidRequest),
        ("memory://bucket/in/x::memory://bucket/elsewhere", InvalidRequest),
        ("memory://bucket/in/x\n", InvalidRequest),
        ("memory://", InvalidRequest),
    ],
)
def test_an_object_that_may_not_be_taken_is_a_clear_error(url, kind, cloud, redis_url, run):
    cloud.pipe_file("bucket/in/folder/x", b"x")
    cloud.pipe_file("bucket/in/empty", b"")
    cloud.pipe_file("bucket/in/large", DATA)
    cloud.pipe_file("bucket/elsewhere", b"x")

    async def main() -> None:
        async with depot_at(redis_url, max_file_bytes=1000, **ROOTS) as depot:
            await fetched(depot, {"url": url})

    with pytest.raises(kind) as caught:
        run(main())
    assert caught.value.param in {"source", "source.url"}


def test_a_storage_that_fails_is_worth_another_attempt_and_tells_nothing(cloud, redis_url, run, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the key is sk-secret")

    async def main() -> None:
        async with depot_at(redis_url, **ROOTS) as depot:
            await fetched(depot, {"url": "memory://bucket/in/x"})

    monkeypatch.setattr(type(cloud), "info", fail)
    with pytest.raises(ProviderUnavailable, match="RuntimeError") as caught:
        run(main())
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_a_worker_without_the_extra_says_how_to_install_it(missing, cloud, redis_url, run, monkeypatch):
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    async def main() -> None:
        async with depot_at(redis_url, storage_roots=("s3://bucket",)) as depot:
            await fetched(depot, {"url": "s3://bucket/report.pdf"})

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Unsupported, match=r"pip install 'deltabus\[storage\]'"):
        run(main())


def test_a_worker_without_roots_uses_no_storage(redis_url, run):
    async def main() -> None:
        async with depot_at(redis_url) as depot:
            with pytest.raises(Unsupported, match="storage_roots"):
                await fetched(depot, {"url": "s3://bucket/report.pdf"})
            with pytest.raises(Unsupported, match="storage_roots"):
                await depot.check({"url": "s3://bucket/report.pdf"}, param="to")
            with pytest.raises(InvalidRequest, match=r"must be a URL of one of s3://"):
                await depot.check({"url": "https://files.example/x"}, param="to")

    run(main())
