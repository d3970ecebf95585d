"""Files at a server that keeps them, in its dialects and with its faults: nothing is left that should not be."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deltabus.provider import (
    DeadlineExceeded,
    FileRequest,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    ProviderProtocol,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    Request,
    StreamTruncated,
    TaskError,
    Unsupported,
    UploadRequest,
)
from deltabus.testing import LOCALAI, NO_FILES, OPENAI, Action, ApiServer, Dialect, Fault, Reply, Sample, ScriptedServer
from deltabus_openai import OpenAIProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]

KEY = "key-0123456789abcdef"
MIB = 1024 * 1024


@asynccontextmanager
async def provider(server: ApiServer | ScriptedServer, **settings: Any) -> AsyncGenerator[OpenAIProvider, None]:
    made = OpenAIProvider("kit", {"base_url": server.url, "api_key": KEY, **settings})
    try:
        yield made
    finally:
        await made.aclose()


def upload(content: Sample, **fields: Any) -> UploadRequest:
    rest = {name: fields.pop(name) for name in ("deadline", "headers") if name in fields}
    return UploadRequest(body={"purpose": "user_data", **fields}, content=content, **rest)


def of(file_id: str) -> FileRequest:
    return FileRequest(file_id=file_id)


async def fetch(made: OpenAIProvider, file_id: str) -> bytes:
    download = await made.content(of(file_id))
    try:
        return b"".join([piece async for piece in download])
    finally:
        await download.aclose()


async def refused(call: Coroutine[Any, Any, Any], kind: type[TaskError]) -> TaskError:
    with pytest.raises(kind) as caught:
        await call
    assert type(caught.value) is kind
    assert KEY not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    return caught.value


# A file's life


@pytest.mark.parametrize("dialect", [OPENAI, LOCALAI], ids=["openai", "localai"])
@pytest.mark.parametrize("size", [1, 2, 65536, MIB, MIB + 1, 5 * MIB])
def test_a_file_comes_back_byte_for_byte(run: Run, dialect: Dialect, size: int) -> None:
    async def main() -> None:
        sample = Sample(size, name="na\u00efve \u65e5\u672c.pdf", media_type="application/pdf")
        with ApiServer(dialect, api_key=KEY) as server:
            async with provider(server) as made:
                file = await made.upload(upload(sample))
                assert (file["object"], file["bytes"], file["purpose"]) == ("file", size, "user_data")
                assert (file["filename"], file["status"]) == (sample.name, "processed")
                assert abs(file["created_at"] - time.time()) < 100
                [kept] = server.files
                assert (kept.sha256, kept.size) == (sample.sha256, size)
                assert (kept.filename, kept.media_type) == (sample.name, "application/pdf")
                assert await made.file(of(file["id"])) == {**file, **await made.file(of(file["id"]))}
                assert hashlib.sha256(await fetch(made, file["id"])).hexdigest() == sample.sha256
                page = await made.files(Request())
                assert [item["id"] for item in page["data"]] == [page["first_id"]] == [page["last_id"]] == [file["id"]]
                assert await made.delete(of(file["id"])) == {"id": file["id"], "object": "file", "deleted": True}
                assert (await made.files(Request()))["data"] == []
            assert server.left == []
            assert sample.open == 0

    run(main())


def test_a_json_file_is_bytes_even_if_it_looks_like_an_error(run: Run) -> None:
    async def main() -> None:
        data = b'{"error": {"message": "this is a file", "code": "rate_limit_exceeded"}}'
        with ApiServer() as server:
            file = server.put(data, "answers.json", media_type="application/json")
            async with provider(server) as made:
                download = await made.content(of(file.id))
                assert (download.name, download.media_type, download.size) == (
                    "answers.json",
                    "application/json",
                    len(data),
                )
                assert b"".join([piece async for piece in download]) == data
                await download.aclose()

    run(main())


def test_the_fields_of_an_upload_go_along_and_unknown_ones_too(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            async with provider(server) as made:
                expiry = {"anchor": "created_at", "seconds": 3600}
                file = await made.upload(
                    upload(Sample(), expires_after=expiry, x_new=True, x_none=None, x_list=["a", "b"])
                )
                assert file["expires_at"] == file["created_at"] + 3600
            assert server.requests[0].body == {
                "purpose": "user_data",
                "expires_after": {"anchor": "created_at", "seconds": "3600"},
                "x_new": "true",
                "x_list": ["a", "b"],
            }

    run(main())


def test_a_list_is_read_page_by_page_also_where_the_server_has_no_pages(run: Run) -> None:
    async def main(dialect: Dialect) -> None:
        with ApiServer(dialect) as server:
            ids = [server.put(b"x", f"{number}.txt").id for number in range(5)]
            server.put(b"x", "other.txt", purpose="batch")
            async with provider(server) as made:
                seen: list[str] = []
                more = True
                while more:
                    after = {"after": seen[-1]} if seen else {}
                    body = {"purpose": "user_data", "limit": 2, "order": "asc", **after}
                    page = await made.files(Request(body=body))
                    seen += [file["id"] for file in page["data"]]
                    more = page["has_more"]
                assert seen == ids

    run(main(OPENAI))
    run(main(LOCALAI))


# What is refused, and how it is told


@pytest.mark.parametrize("dialect", [OPENAI, LOCALAI], ids=["openai", "localai"])
def test_a_file_that_is_not_there_is_not_found_whatever_the_status(run: Run, dialect: Dialect) -> None:
    async def main() -> None:
        with ApiServer(dialect) as server:
            async with provider(server) as made:
                for call in (made.file, made.content, made.delete):
                    error = await refused(call(of("file-99")), NotFound)
                    assert "file-99" in error.message
                    assert error.provider == "kit"
                    assert not error.info.retryable

    run(main())


@pytest.mark.parametrize("file_id", ["", ".", "..", " ", "a\nb"])
def test_an_id_that_would_lead_elsewhere_is_refused_unsent(run: Run, file_id: str) -> None:
    async def main() -> None:
        with ApiServer() as server:
            async with provider(server) as made:
                for call in (made.file, made.content, made.delete):
                    assert (await refused(call(of(file_id)), InvalidRequest)).param == "request.file_id"
            assert server.operations() == []

    run(main())


def test_an_id_with_a_slash_names_one_file_and_no_other_path(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            file = server.put(b"x")
            async with provider(server) as made:
                await refused(made.delete(of(f"../files/{file.id}")), NotFound)
                await refused(made.delete(of(f"{file.id}?x=")), NotFound)
            assert server.left == [file.id]

    run(main())


def test_a_name_that_is_taken_says_so_and_how_to_go_on(run: Run) -> None:
    async def main() -> None:
        with ApiServer(LOCALAI) as server:
            async with provider(server) as made:
                first = await made.upload(upload(Sample(b"one")))
                error = await refused(made.upload(upload(Sample(b"two"))), InvalidRequest)
                assert "File already exists" in error.message
                assert "another filename" in error.message
                assert error.param == "request.filename"
            assert server.left == [first["id"]]

    run(main())


def test_a_server_without_files_is_not_found_and_one_said_to_have_none_is_not_asked(run: Run) -> None:
    async def main() -> None:
        with ApiServer(NO_FILES) as server:
            async with provider(server) as made:
                await refused(made.upload(upload(Sample())), NotFound)
            asked = len(server.operations())
            async with provider(server, capabilities={"files": False}) as made:
                for call in (
                    made.upload(upload(Sample())),
                    made.files(Request()),
                    made.file(of("a")),
                    made.content(of("a")),
                    made.delete(of("a")),
                ):
                    assert "capabilities.files" in (await refused(call, Unsupported)).message
            assert len(server.operations()) == asked

    run(main())


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.refuse(500), ProviderUnavailable),
        (Fault.refuse(500, "Failed to save file: disk full"), ProviderUnavailable),
        (Fault.refuse(413, early=True), PayloadTooLarge),
        (Fault.refuse(401, early=True), None),
        (Fault.rate_limit(7), RateLimited),
        (Fault.cut(after=100_000), ProviderUnavailable),
        (Fault.miscount(2), ProviderProtocol),
        (Fault.miscount(-1), ProviderProtocol),
    ],
    ids=["500", "plain 500", "early 413", "early 401", "429", "cut", "two more", "one fewer"],
)
def test_an_upload_that_fails_leaves_nothing(run: Run, fault: Fault, kind: type[TaskError] | None) -> None:
    async def main() -> None:
        with ApiServer() as server:
            server.fault(fault, on="POST /files")
            sample = Sample(8 * MIB)
            async with provider(server) as made:
                with pytest.raises(kind or TaskError) as caught:
                    await made.upload(upload(sample))
                assert caught.value.provider == "kit"
                if fault.status == 429:
                    assert caught.value.retry_after == 7
                if fault.kind == "cut":
                    assert "bytes" in caught.value.message
                # And the next one is good.
                await made.delete(of((await made.upload(upload(Sample(3)))).get("id", "")))
            assert server.left == []
            assert sample.open == 0

    run(main())


def test_an_error_of_the_source_is_raised_as_it_is(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            async with provider(server) as made:
                error = NotFound("the source is gone", param="request.source.url")
                sample = Sample(5 * MIB, failure=error, after=3 * MIB)
                with pytest.raises(NotFound) as caught:
                    await made.upload(upload(sample))
                assert caught.value is error
                assert error.provider is None
            assert server.left == []
            assert sample.open == 0

    run(main())


@pytest.mark.parametrize(("said", "word"), [(MIB + 1, "fewer"), (MIB - 1, "more")])
def test_a_source_that_lies_about_its_size_is_found_out(run: Run, said: int, word: str) -> None:
    class Liar(Sample):
        async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
            async for piece in Sample.read(self, 0, None):
                yield piece

    async def main() -> None:
        with ApiServer() as server:
            async with provider(server) as made:
                error = await refused(made.upload(upload(Liar(MIB, said=said))), InvalidRequest)
                assert word in error.message
            assert server.left == []

    run(main())


def test_an_answer_that_is_no_file_is_an_error(run: Run) -> None:
    async def main() -> None:
        for document in ([], {"ok": True}, "file-1", None, {"id": ""}):
            with ScriptedServer(Reply.json(document)) as server:
                async with provider(server) as made:
                    error = await refused(made.upload(upload(Sample())), ProviderProtocol)
                    assert error.provider == "kit"

    run(main())


# Time


def test_cancelling_an_upload_resets_its_connection_at_once_even_if_the_server_does_not_read(run: Run) -> None:
    async def main() -> None:
        for fault in (Fault.stall(after=100_000), Fault.silent()):
            with ApiServer() as server:
                server.fault(fault, on="POST /files")
                sample = Sample(20 * MIB)
                async with provider(server) as made:
                    task = asyncio.create_task(made.upload(upload(sample)))
                    await server.received(1).happened()
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                    async with asyncio.timeout(5):
                        await server.requests[0].lost.happened()
                assert sample.open == 0
                assert server.left == []

    run(main())


def test_an_upload_that_is_not_taken_is_a_timeout_and_one_that_moves_is_none(run: Run) -> None:
    async def main() -> None:
        limits = {"first_byte": 0.3, "between_bytes": 0.3}
        with ApiServer() as server:
            async with provider(server, timeouts=limits) as made:
                server.fault(Fault.stall(after=100_000), on="POST /files")
                error = await refused(made.upload(upload(Sample(50 * MIB))), ProviderTimeout)
                assert "between_bytes" in error.message
                server.fault(Fault.silent(), on="POST /files")
                error = await refused(made.upload(upload(Sample(10))), ProviderTimeout)
                assert "first_byte" in error.message

                class Slow(Sample):
                    """A source that takes longer than the endpoint may: that is not the endpoint's fault."""

                    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
                        for place in range(5):
                            await asyncio.sleep(0.1)
                            yield b"x" if place else b"y"

                file = await made.upload(upload(Slow(5)))
                assert file["bytes"] == 5
            assert server.left == [file["id"]]

    run(main())


def test_a_deadline_holds_for_an_upload_that_moves(run: Run) -> None:
    async def main() -> None:
        class Endless(Sample):
            async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0.001)

        with ApiServer() as server:
            async with provider(server) as made:
                asked = upload(Endless(100 * MIB), deadline=time.time() + 0.3)
                await refused(made.upload(asked), DeadlineExceeded)
                await server.requests[0].lost.happened()
            assert server.left == []

    run(main())


def test_a_download_that_breaks_off_or_stalls_is_an_error(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            file = server.put(b"x" * MIB)
            async with provider(server, timeouts={"between_bytes": 0.2}) as made:
                server.fault(Fault.cut_answer(100_000), on="GET /files/*")
                assert (await refused(fetch(made, file.id), StreamTruncated)).provider == "kit"
                server.fault(Fault.stall_answer(100_000), on="GET /files/*")
                await refused(fetch(made, file.id), ProviderTimeout)

    run(main())


def test_closing_a_download_closes_its_connection_also_before_it_is_read(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            file = server.put(b"x" * (64 * MIB))
            async with provider(server) as made:
                await (await made.content(of(file.id))).aclose()
                download = await made.content(of(file.id))
                await anext(aiter(download))
                await download.aclose()
                async with asyncio.timeout(5):
                    for request in server.requests:
                        await request.lost.happened()

    run(main())


def test_a_hundred_files_at_once_do_not_mix(run: Run) -> None:
    async def main() -> None:
        with ApiServer(api_key=KEY) as server:
            async with provider(server) as made:

                async def one(number: int) -> None:
                    sample = Sample(f"file {number} ".encode() * 1000, name=f"{number}.txt")
                    file = await made.upload(upload(sample))
                    assert (file["filename"], file["bytes"]) == (sample.name, sample.size)
                    assert hashlib.sha256(await fetch(made, file["id"])).hexdigest() == sample.sha256
                    await made.delete(of(file["id"]))

                await asyncio.gather(*map(one, range(100)))
            assert server.left == []

    run(main())


# Over TLS


def test_over_tls_too_bytes_are_exact_and_a_cancelled_upload_is_reset(run: Run) -> None:
    certificate = Path(__file__).parent / "loopback.pem"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def main() -> None:
        sample = Sample(3 * MIB)
        answer = {"id": "file-1", "object": "file", "bytes": sample.size, "created_at": 1}
        with ScriptedServer(Reply.json(answer), Reply.raw(Action.HANG), tls=context) as server:
            async with provider(server, ca_bundle=str(certificate)) as made:
                await made.upload(upload(sample))
                [request] = server.requests
                assert len(request.body) == int(request.headers["content-length"])
                data = request.body.split(b"\r\n\r\n")[-1].rpartition(b"\r\n--")[0]
                assert hashlib.sha256(data).hexdigest() == sample.sha256
                task = asyncio.create_task(made.upload(upload(sample)))
                await server.received(2).happened()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                async with asyncio.timeout(5):
                    await server.requests[1].closed.happened()
            assert sample.open == 0

    run(main())


def test_a_part_of_a_file_is_not_taken_for_all_of_it(run: Run) -> None:
    async def story() -> None:
        with ApiServer() as server:
            file = server.put(b"0123456789", "digits.txt")
            server.fault(Fault.refuse(206, b"01", headers={"Content-Range": "bytes 0-1/10"}), on="GET /files/*/content")
            async with provider(server) as made:
                with pytest.raises(ProviderProtocol, match="a part of the bytes") as caught:
                    await fetch(made, file.id)
                assert caught.value.provider == "kit"
                assert await fetch(made, file.id) == b"0123456789"

    run(story())
