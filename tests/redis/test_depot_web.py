"""What a depot makes of a server's answer: the bytes, a name, a type, or one clear error and nothing left."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from depots import all_of, depot_at, fetched, keys_at

from deltabus.blobs import CHUNK
from deltabus.depot.openfile import OpenFile
from deltabus.errors import (
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    ProviderTimeout,
    ProviderUnavailable,
    StreamTruncated,
    TaskError,
)
from deltabus.testing.server import Action, Reply, ScriptedServer, Signal

DATA = bytes(range(256)) * 5000

SECRET = "?signature=secret-of-the-url"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[OpenFile]:
    """Temporary files that were made."""
    files: list[OpenFile] = []
    real = OpenFile.temporary

    def temporary() -> OpenFile:
        files.append(real())
        return files[-1]

    monkeypatch.setattr(OpenFile, "temporary", temporary)
    return files


@pytest.fixture
def fetch(redis_url: str, run: Callable[..., Any], opened: list[OpenFile]) -> Callable[..., Any]:
    """`fetch(reply, …)`: what a source at a server that so replies is; then nothing of it is left."""

    def fetch(*replies: Reply, path: str = "/file", settings: dict[str, Any] | None = None, **source: Any) -> Any:
        async def main(url: str) -> tuple[str, str, bytes]:
            async with (
                depot_at(redis_url, url_hosts=("127.0.0.1",), **settings or {}) as depot,
                depot.open({"url": url + path + SECRET, **source}, param="source") as content,
            ):
                return content.name, content.media_type, await all_of(content)

        try:
            with ScriptedServer(*replies) as server:
                return run(main(server.url))
        finally:
            assert opened
            for file in opened:
                with pytest.raises(ValueError, match="closed"):
                    file.read(0, 1)
            assert keys_at(redis_url) == []

    return fetch


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_the_bytes_are_those_that_were_sent(framing, fetch):
    assert fetch(Reply(body=[DATA[:7], DATA[7:]], framing=framing))[2] == DATA


@pytest.mark.parametrize(
    ("path", "headers", "source", "known"),
    [
        ("/a/report.pdf", {}, {}, ("report.pdf", "application/pdf")),
        ("/a/report.pdf", {"Content-Type": "binary/octet-stream"}, {}, ("report.pdf", "application/pdf")),
        ("/a/b", {"Content-Type": "image/png"}, {}, ("b.png", "image/png")),
        ("/a/b", {"Content-Type": "text/html; charset=utf-8"}, {}, ("b.html", "text/html; charset=utf-8")),
        ("/a/b", {"Content-Type": "nonsense"}, {}, ("b", "application/octet-stream")),
        ("/", {}, {}, ("file", "application/octet-stream")),
        ("/talk.mp3", {}, {"filename": "x.wav", "media_type": "audio/x-mine"}, ("x.wav", "audio/x-mine")),
        ("/talk.mp3", {}, {"filename": "x.wav"}, ("x.wav", "audio/wav")),
        ("/%2e%2e%2f%2e%2e%2fetc%2fpasswd", {}, {}, ("passwd", "application/octet-stream")),
        ("/%D1%84%D0%B0%D0%B9%D0%BB.txt", {}, {}, ("файл.txt", "text/plain")),
        ("/evil%0d%0aname%e2%80%ae.txt", {}, {}, ("evilname.txt", "text/plain")),
    ],
)
def test_name_and_type_are_what_is_known_of_them(path, headers, source, known, fetch):
    reply = Reply(body=[b"x"], headers=headers, framing="length")
    assert fetch(reply, path=path, **source) == (*known, b"x")


def test_a_redirect_is_followed_and_the_best_name_kept(fetch):
    there = Reply(status=302, headers={"Location": "/0a1b2c"}, framing="length")
    assert fetch(there, Reply(body=[b"x"], framing="length"), path="/report.pdf")[0] == "report.pdf"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(DATA)),
        ("gzip", gzip.compress(DATA[:9]) + gzip.compress(DATA[9:])),
        ("deflate", zlib.compress(DATA)),
    ],
)
def test_what_comes_compressed_unasked_is_inflated(coding, body, fetch):
    cut = len(body) // 2
    reply = Reply(headers={"Content-Encoding": coding}, body=[body[:cut], body[cut:]], framing="length")
    assert fetch(reply)[2] == DATA


FAILURES = {
    "no-such-file": (Reply(status=404, framing="length"), NotFound),
    "gone": (Reply(status=410, framing="length"), NotFound),
    "forbidden": (Reply(status=403, framing="length"), InvalidRequest),
    "part-of-it": (Reply(status=206, body=[b"x"], framing="length"), InvalidRequest),
    "busy": (Reply(status=503, framing="length"), ProviderUnavailable),
    "too-many-requests": (Reply(status=429, framing="length"), ProviderUnavailable),
    "empty": (Reply(framing="length"), InvalidRequest),
    "announced-too-large": (
        Reply(headers={"Content-Length": "1000000000"}, body=[b"x", Action.HANG], framing="length"),
        PayloadTooLarge,
    ),
    "endless": (Reply(body=[b"x" * 100_000] * 30), PayloadTooLarge),
    "endless-when-inflated": (
        Reply(headers={"Content-Encoding": "gzip"}, body=[gzip.compress(bytes(20_000_000))], framing="length"),
        PayloadTooLarge,
    ),
    "truncated": (Reply(headers={"Content-Length": "9"}, body=[b"x", Action.CLOSE], framing="length"), StreamTruncated),
    "reset": (Reply(headers={"Content-Length": "9"}, body=[b"x", Action.ABORT], framing="length"), TaskError),
    "truncated-between-chunks": (Reply(body=[b"x", Action.CLOSE]), StreamTruncated),
    "truncated-and-compressed": (
        Reply(headers={"Content-Encoding": "gzip"}, body=[gzip.compress(DATA)[:-9]], framing="length"),
        StreamTruncated,
    ),
    "not-as-compressed-as-it-says": (
        Reply(headers={"Content-Encoding": "gzip"}, body=[b"plain"], framing="length"),
        InvalidRequest,
    ),
    "compressed-in-another-way": (Reply(headers={"Content-Encoding": "br"}, body=[b"x"]), InvalidRequest),
    "not-http": (Reply.raw(b"SSH-2.0-OpenSSH_9.9\r\n"), ProviderUnavailable),
    "no-answer": (Reply.raw(Action.CLOSE), ProviderUnavailable),
}


@pytest.mark.parametrize(("reply", "kind"), [pytest.param(*case, id=name) for name, case in FAILURES.items()])
def test_a_failure_is_one_clear_error_that_names_the_field_and_no_secret(reply, kind, fetch):
    with pytest.raises(kind) as caught:
        fetch(reply, settings={"max_file_bytes": 2_000_000})
    assert caught.value.param in {"source", "source.url"}
    assert "`source" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_size_that_was_announced_and_is_another_is_an_error(fetch):
    with pytest.raises(InvalidRequest, match="announced as 3 bytes, but there are 1"):
        fetch(Reply(body=[b"x"], framing="length"), size=3)


@pytest.mark.parametrize("body", [[Action.HANG], [b"x", Action.HANG]])
def test_a_server_that_takes_too_long_is_left(body, fetch):
    with pytest.raises(ProviderTimeout, match="url_timeout"):
        fetch(Reply(body=body), settings={"url_timeout": 0.2})


def test_a_host_that_does_not_exist_is_a_clear_error(redis_url, run):
    async def main() -> None:
        async with depot_at(redis_url) as depot:
            await fetched(depot, {"url": f"https://nobody.invalid/{SECRET}"})

    with pytest.raises(TaskError, match=r"nobody\.invalid") as caught:
        run(main())
    assert "secret" not in caught.value.message


def test_who_is_cancelled_while_fetching_leaves_nothing(redis_url, run, opened):
    begun = Signal()

    @asynccontextmanager
    async def cancelled(work: Any) -> Any:
        task = asyncio.create_task(work)
        yield
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def main() -> None:
        with ScriptedServer(Reply(body=[b"x" * CHUNK * 2, begun, Action.HANG])) as server:
            async with depot_at(redis_url, url_hosts=("127.0.0.1",)) as depot:
                async with cancelled(fetched(depot, {"url": server.url})):
                    await asyncio.to_thread(server.received(1).wait)
                begun.set()
            await asyncio.to_thread(server.requests[0].closed.wait)

    run(main())
    assert len(opened) == 1
    with pytest.raises(ValueError, match="closed"):
        opened[0].read(0, 1)
