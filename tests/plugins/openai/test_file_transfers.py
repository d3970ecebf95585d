"""Bytes on their way to and from a server: cancelled, too slow, broken off, many at once, over TLS."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from filing import KEY, MIB, Run, fetch, of, provider, refused, upload
from flight import LONG, fly, pass_by

from deltabus.provider import (
    DeadlineExceeded,
    ProviderProtocol,
    ProviderTimeout,
    StreamTruncated,
)
from deltabus.testing import Action, ApiServer, Fault, Reply, Sample, ScriptedServer


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
                    async with asyncio.timeout(60):
                        await server.requests[0].lost.happened()
                assert sample.open == 0
                assert server.left == []

    run(main())


def test_an_upload_that_is_not_taken_is_a_timeout_and_one_that_moves_is_none(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            for fault, size, limit, other in (
                (Fault.stall(after=100_000), 50 * MIB, "between_bytes", "first_byte"),
                (Fault.silent(), 10, "first_byte", "between_bytes"),
            ):
                server.fault(fault, on="POST /files")
                async with provider(server, timeouts={limit: LONG, other: 0}) as made:
                    begun = server.received(len(server.requests) + 1)
                    task = asyncio.create_task(refused(made.upload(upload(Sample(size))), ProviderTimeout))
                    await begun.happened()
                    error = await fly(task)
                    assert limit in error.message

            class Slow(Sample):
                """A source that takes longer than the endpoint may: that is not the endpoint's fault."""

                async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
                    for place in range(5):
                        pass_by(2 * LONG)
                        await asyncio.sleep(0)
                        yield b"x" if place else b"y"

            async with provider(server, timeouts={"first_byte": LONG, "between_bytes": LONG}) as made:
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
                asked = upload(Endless(100 * MIB), deadline=time.time() + LONG)
                task = asyncio.create_task(refused(made.upload(asked), DeadlineExceeded))
                await server.received(1).happened()
                pass_by(LONG)
                await task
                await server.requests[0].lost.happened()
            assert server.left == []

    run(main())


def test_a_download_that_breaks_off_or_stalls_is_an_error(run: Run) -> None:
    async def main() -> None:
        with ApiServer() as server:
            file = server.put(b"x" * MIB)
            async with provider(server, timeouts={"connect": 0, "first_byte": 0, "between_bytes": LONG}) as made:
                server.fault(Fault.cut_answer(100_000), on="GET /files/*")
                assert (await refused(fetch(made, file.id), StreamTruncated)).provider == "kit"
                server.fault(Fault.stall_answer(100_000), on="GET /files/*")
                await fly(asyncio.create_task(refused(fetch(made, file.id), ProviderTimeout)))

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
                async with asyncio.timeout(60):
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
                async with asyncio.timeout(60):
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
