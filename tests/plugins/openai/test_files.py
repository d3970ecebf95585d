"""Files at a server that keeps them, in its dialects and with its faults: nothing is left that should not be."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator

import pytest
from filing import KEY, MIB, Run, fetch, of, provider, refused, upload

from deltabus.provider import (
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    ProviderProtocol,
    ProviderUnavailable,
    RateLimited,
    Request,
    TaskError,
    Unsupported,
)
from deltabus.testing import LOCALAI, NO_FILES, OPENAI, ApiServer, Dialect, Fault, Reply, Sample, ScriptedServer


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
