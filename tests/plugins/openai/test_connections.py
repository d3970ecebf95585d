"""Connections to a real server: who closes them, when, and how long one that is silent is waited for."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import pytest
from chatting import COMPLETION, HELLO, Run, answer, failure, opened, provider, request, soon, text
from flight import LONG, fly, pass_by

from deltabus.provider import DeadlineExceeded
from deltabus.testing.server import Action, Reply, Request, ScriptedServer, Signal


def test_a_connection_serves_again_after_an_answer(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        go = Signal()
        # The end of the body comes after [DONE], in a packet of its own.
        server.script(Reply.sse(text("Hello", "stop"), b"data: [DONE]\n\n", go, done=False), HELLO)
        server.script(Reply.json(COMPLETION), Reply.json({"error": {"message": "no"}}, 400), HELLO)
        async with provider(server) as made:
            await answer(made)
            go.set()
            await asyncio.gather(*made._client._drains)
            await answer(made)
            await asyncio.gather(*made._client._drains)
            await answer(made, request(stream=False))
            await failure(made)
            await answer(made)
        assert server.connections == 1

    run(main())


def test_a_connection_that_breaks_after_the_answer_harms_nobody(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(Reply.sse(text("Hello", "stop"), b"data: [DONE]\n\n", Action.ABORT, done=False), HELLO)
        async with provider(server) as made:
            assert await answer(made) == [text("Hello", "stop")]
            await asyncio.gather(*made._client._drains)
            assert len(await answer(made)) == 3
        assert server.connections == 2

    run(main())


def test_closing_the_provider_does_not_wait_for_what_is_left_of_an_answer(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(Reply.sse(text("Hello", "stop"), b"data: [DONE]\n\n", Action.HANG, done=False))
        async with provider(server) as made:
            await answer(made)
            assert len(made._client._drains) == 1
        await soon(server.requests[0].closed)

    run(main())


def test_hundreds_of_streams_run_at_once(run: Run) -> None:
    async def main() -> None:
        count, go = 300, Signal()

        def reply(_: Request) -> Reply:
            return Reply.sse(text("Hel"), go, text("lo", "stop"))

        with ScriptedServer(default=reply) as server:
            async with provider(server) as made:
                tasks = [asyncio.create_task(answer(made)) for _ in range(count)]
                await soon(server.received(count))
                go.set()
                assert await asyncio.gather(*tasks) == [[text("Hel"), text("lo", "stop")]] * count
            assert server.connections == count

    run(main())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "reply",
    [
        Reply.raw(Action.HANG),
        Reply.raw(b"HTTP/1.1 200", Action.HANG),
        Reply(body=[Action.HANG]),
        Reply(body=[b": keep-alive\n\n", Action.HANG]),
        Reply(body=[b'{"id"', Action.HANG]),
        Reply(status=500, body=[b'{"err', Action.HANG]),
    ],
    ids=["no status", "half a status", "no body", "comment", "half a body", "half an error"],
)
def test_a_cancelled_request_closes_its_connection_at_once(
    run: Run, server: ScriptedServer, reply: Reply, stream: bool
) -> None:
    async def main() -> None:
        server.script(reply)
        async with provider(server) as made:
            task = asyncio.create_task(answer(made, request(stream=stream)))
            await soon(server.received(1))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await soon(server.requests[0].closed)

    run(main())


def test_closing_a_stream_closes_its_connection_at_once(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(Reply.sse(text("Hel"), Action.HANG), Reply.sse(text("Hel"), text("lo"), Action.HANG))
        async with provider(server) as made:
            for place in range(2):
                stream = opened(made)
                await anext(stream)
                await stream.aclose()
                await soon(server.requests[place].closed)

    run(main())


def test_cancelling_one_stream_leaves_the_others_alone(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        go = Signal()
        server.script(Reply.sse(text("Hel"), Action.HANG), Reply.sse(text("Hel"), go, text("lo", "stop")))
        async with provider(server) as made:
            first = asyncio.create_task(answer(made))
            await soon(server.received(1))
            second = asyncio.create_task(answer(made))
            await soon(server.received(2))
            first.cancel()
            await soon(server.requests[0].closed)
            go.set()
            assert await second == [text("Hel"), text("lo", "stop")]

    run(main())


@pytest.mark.parametrize(
    ("reply", "phase"),
    [
        (Reply.raw(Action.HANG), "first_byte"),
        (Reply(body=[Action.HANG]), "first_byte"),
        (Reply.sse(text("Hel"), Action.HANG), "between_bytes"),
        (Reply(body=[b": keep-alive\n\n", Action.HANG]), "between_bytes"),
    ],
)
def test_a_silent_provider_is_a_timeout_that_names_its_phase(
    run: Run, server: ScriptedServer, reply: Reply, phase: str
) -> None:
    async def main() -> None:
        server.script(reply)
        async with provider(server, timeouts={"first_byte": 0, phase: LONG}) as made:
            asking = asyncio.create_task(failure(made))
            await soon(server.received(1))
            error = await fly(asking)
            assert error.code == "provider_timeout"
            assert f"timeouts.{phase} = {LONG} s" in error.message
            await soon(server.requests[0].closed)

    run(main())


def endless(count: int) -> Reply:
    """Keep-alives, more than anybody waits for; each is written when the socket takes it."""
    return Reply(body=[b": keep-alive " + b"." * 1000 + b"\n\n"] * count)


def test_keep_alives_do_not_hold_off_the_end_of_all_patience(run: Run) -> None:
    async def main() -> None:
        with ScriptedServer(endless(100_000), endless(100_000)) as server:
            async with provider(server, timeouts={"total": 0.1}) as made:
                error = await failure(made)
                assert error.code == "provider_timeout"
                assert "timeouts.total" in error.message
            async with provider(server) as made:
                assert isinstance(await failure(made, request(deadline=time.time() + 0.1)), DeadlineExceeded)

    run(main())


def test_a_slow_reader_is_not_taken_for_a_silent_provider(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        go = Signal()
        server.script(Reply.sse(text("Hel"), go, text("lo", "stop")))
        async with provider(server, timeouts={"between_bytes": LONG}) as made, aclosing(opened(made)) as stream:
            await anext(stream)
            pass_by(2 * LONG)
            rung = asyncio.Event()
            asyncio.get_running_loop().call_later(0, rung.set)
            await rung.wait()  # Whatever was due has rung by now.
            go.set()
            assert [item.data async for item in stream] == [text("lo", "stop")]

    run(main())


def test_a_request_whose_deadline_has_passed_is_not_sent(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        async with provider(server) as made:
            error = await failure(made, request(deadline=time.time() - 1))
            assert isinstance(error, DeadlineExceeded)
            assert not error.info.retryable
        assert server.requests == []

    run(main())
