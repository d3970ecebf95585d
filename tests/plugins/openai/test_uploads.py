"""Files over the limit of one request go in parts, several at a time; what fails is cancelled at the endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from flight import LONG, pass_by

from deltabus.provider import (
    NotFound,
    PayloadTooLarge,
    ProviderProtocol,
    ProviderUnavailable,
    RateLimited,
    TaskError,
    UploadRequest,
)
from deltabus.testing import LOCALAI, ApiServer, Fault, Sample
from deltabus_openai import OpenAIProvider, takeback

Run = Callable[[Coroutine[Any, Any, Any]], Any]

SMALL = {"max_upload_bytes": 1000 * 1024, "upload_part_bytes": 300 * 1024}
SIZE = 1024 * 1024
PARTS = 4


def made_for(server: ApiServer, **settings: Any) -> OpenAIProvider:
    return OpenAIProvider("kit", {"base_url": server.url, **SMALL, **settings})


def upload(content: Sample, **fields: Any) -> UploadRequest:
    return UploadRequest(body={"purpose": "user_data", **fields}, content=content)


def test_a_large_file_goes_in_parts_and_comes_out_whole(run: Run) -> None:
    async def main() -> None:
        sample = Sample(SIZE, name="na\u00efve.pdf", media_type="application/pdf")
        with ApiServer() as server:
            made = made_for(server)
            expiry = {"anchor": "created_at", "seconds": 3600}
            file = await made.upload(upload(sample, expires_after=expiry, md5="0" * 32))
            await made.aclose()
            [kept] = server.files
            assert (kept.sha256, kept.filename, kept.media_type) == (sample.sha256, sample.name, "application/pdf")
            assert (file["id"], file["object"], file["bytes"]) == (kept.id, "file", SIZE)
            assert file["expires_at"] == file["created_at"] + 3600
            assert server.left == [file["id"]]
            begin, *parts, end = server.requests
            assert begin.operation == "POST /uploads"
            assert begin.body == {
                "purpose": "user_data",
                "filename": sample.name,
                "bytes": SIZE,
                "mime_type": "application/pdf",
                "expires_after": expiry,
            }
            assert len(parts) == PARTS
            assert end.path.endswith("/complete")
            assert end.body["md5"] == "0" * 32
        assert sample.open == 0

    run(main())


def test_a_file_of_just_the_limit_goes_at_once(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            made = made_for(server)
            await made.upload(upload(Sample(SMALL["max_upload_bytes"])))
            await made.aclose()
            assert server.operations() == ["POST /files"]

    run(main())


def test_parts_arrive_in_any_order_and_no_more_are_under_way_than_may_be(run: Run) -> None:
    async def main() -> None:
        most = 0

        class Watched(Sample):
            async def read(self, start: int = 0, length: int | None = None) -> Any:
                nonlocal most
                async for piece in Sample.read(self, start, length):
                    most = max(most, self.open)
                    # The first parts take longest: the last ones overtake them.
                    for _ in range(50 - start // 100_000):
                        await asyncio.sleep(0)
                    yield piece

        sample = Watched(5 * SIZE)
        with ApiServer() as server:
            made = made_for(server, upload_part_bytes=200 * 1024, upload_parallel=3)
            await made.upload(upload(sample))
            await made.aclose()
            assert server.files[0].sha256 == sample.sha256
        assert most == 3

    run(main())


@pytest.mark.parametrize(
    ("fault", "on", "skip", "kind"),
    [
        (Fault.refuse(500), "* /uploads", 0, ProviderUnavailable),
        (Fault.rate_limit(3), "* /uploads/*/parts", 2, RateLimited),
        (Fault.cut(after=10_000), "* /uploads/*/parts", 1, ProviderUnavailable),
        (Fault.refuse(500, "Internal error"), "* /uploads/*/complete", 0, ProviderUnavailable),
        (Fault.refuse(200, {"id": "upload_1", "object": "upload"}), "* /uploads/*/complete", 0, ProviderProtocol),
        (Fault.refuse(200, {}), "* /uploads/*/parts", 0, ProviderProtocol),
    ],
    ids=["begin", "a part is refused", "a part is cut off", "complete", "no file", "a part without id"],
)
def test_an_upload_that_fails_is_cancelled_there(
    run: Run, fault: Fault, on: str, skip: int, kind: type[TaskError]
) -> None:
    async def main() -> None:
        sample = Sample(SIZE)
        with ApiServer() as server:
            server.fault(fault, on=on, skip=skip)
            made = made_for(server)
            with pytest.raises(kind) as caught:
                await made.upload(upload(sample))
            assert type(caught.value) is kind
            assert caught.value.provider == "kit"
            await made.aclose()
            assert server.left == []
            assert sample.open == 0

    run(main())


def test_what_the_source_raises_is_raised_as_it_is(run: Run) -> None:
    async def main() -> None:
        error = NotFound("the source is gone")
        with ApiServer() as server:
            made = made_for(server)
            with pytest.raises(NotFound) as caught:
                await made.upload(upload(Sample(SIZE, failure=error, after=500_000)))
            assert caught.value is error
            await made.aclose()
            assert server.left == []

    run(main())


def test_an_upload_whose_parts_were_miscounted_is_refused_and_leaves_nothing(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            server.fault(Fault.miscount(2), on="* /uploads/*/parts")
            made = made_for(server)
            with pytest.raises(TaskError, match="bytes, not"):
                await made.upload(upload(Sample(SIZE)))
            await made.aclose()
            assert server.left == []

    run(main())


def test_cancelling_an_upload_cuts_its_parts_and_cancels_it_there(run: Run) -> None:
    async def main() -> None:
        sample = Sample(SIZE)
        with ApiServer() as server:
            server.fault(Fault.stall(after=1000), on="* /uploads/*/parts", times=None)
            made = made_for(server)
            task = asyncio.create_task(made.upload(upload(sample)))
            await server.received(3, on="* /uploads/*/parts").happened()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for request in [request for request in server.requests if request.path.endswith("/parts")]:
                async with asyncio.timeout(60):
                    await request.lost.happened()
            assert server.left == []
            assert sample.open == 0
            await made.aclose()

    run(main())


@asynccontextmanager
async def taking_back() -> AsyncGenerator[tuple[ApiServer, OpenAIProvider, asyncio.Task[Any]]]:
    """An upload that has failed, and whose cancel the endpoint has heard and does not answer."""
    with ApiServer() as server:
        server.fault(Fault.refuse(500), on="* /uploads/*/parts", times=None)
        server.fault(Fault.silent(), on="* /uploads/*/cancel")
        made = made_for(server)
        task = asyncio.create_task(made.upload(upload(Sample(SIZE))))
        await server.received(1, on="* /uploads/*/cancel").happened()
        yield server, made, task


def test_taking_back_is_bounded_in_time(run: Run) -> None:
    async def main() -> None:
        async with taking_back() as (_, made, task):
            pass_by(takeback.PATIENCE)
            with pytest.raises(ProviderUnavailable):
                await task
            await made.aclose()

    run(main())


def test_closing_does_not_wait_for_what_is_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeback, "PATIENCE", 600.0)

    async def main() -> None:
        async with taking_back() as (server, made, task):
            task.cancel()  # Whoever waited for the cancel is gone at once; the request itself goes on.
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not server.requests[-1].lost.is_set
            await made.aclose()
            async with asyncio.timeout(60):
                await server.requests[-1].lost.happened()

    run(main())


def test_a_deadline_that_has_passed_does_not_keep_an_upload_from_being_cancelled(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            server.fault(Fault.stall(after=1000), on="* /uploads/*/parts", times=None)
            made = made_for(server)
            request = UploadRequest(body={"purpose": "user_data"}, content=Sample(SIZE), deadline=time.time() + LONG)
            task = asyncio.create_task(made.upload(request))
            await server.received(1, on="* /uploads/*/parts").happened()
            pass_by(LONG)
            with pytest.raises(TaskError) as caught:
                await task
            assert caught.value.code == "deadline_exceeded"
            await made.aclose()
            assert server.left == []

    run(main())


def test_a_server_without_uploads_in_parts_says_what_is_too_large_and_what_the_limit_is(run: Run) -> None:
    async def main() -> None:
        with ApiServer(LOCALAI) as server:
            made = made_for(server)
            with pytest.raises(PayloadTooLarge) as caught:
                await made.upload(upload(Sample(SIZE)))
            assert "max_upload_bytes" in caught.value.message
            assert str(SIZE) in caught.value.message
            await made.aclose()

    run(main())
