"""The provider against a real server on a real socket."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest

from deltabus.provider import ChatRequest, Chunk, Completion, DeadlineExceeded, InvalidRequest, TaskError
from deltabus.testing.server import Action, Reply, Request, ScriptedServer, Signal
from deltabus_openai import OpenAIProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]

KEY = "key-0123456789abcdef"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}}]}


def text(content: str, finish: str | None = None) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


HELLO = Reply.sse(text("Hel"), text("lo"), text("", "stop"))


@asynccontextmanager
async def provider(server: ScriptedServer, **settings: Any) -> AsyncGenerator[OpenAIProvider, None]:
    made = OpenAIProvider("kit", {"base_url": server.url, "api_key": KEY, **settings})
    try:
        yield made
    finally:
        await made.aclose()


def request(*, stream: bool = True, **fields: Any) -> ChatRequest:
    body = {**BODY, "stream": stream, **fields.pop("body", {})}
    return ChatRequest(body=body, task="t", **fields)


def opened(made: OpenAIProvider, asked: ChatRequest | None = None) -> AsyncGenerator[Chunk | Completion, None]:
    return cast("AsyncGenerator[Chunk | Completion, None]", made.chat(asked or request()))


async def answer(made: OpenAIProvider, asked: ChatRequest | None = None) -> list[dict[str, Any]]:
    return [item.data async for item in made.chat(asked or request())]


async def failure(made: OpenAIProvider, asked: ChatRequest | None = None) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await answer(made, asked)
    return caught.value


async def soon(signal: Signal) -> None:
    async with asyncio.timeout(10):
        await signal.happened()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


# Answers


def test_a_stream_is_passed_on_as_it_arrives(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        go = Signal()
        server.script(Reply.sse(text("Hel"), go, text("lo"), text("", "stop")))
        async with provider(server) as made, aclosing(opened(made)) as stream:
            assert (await anext(stream)).data == text("Hel")
            assert not go.is_set
            go.set()
            assert [item.data async for item in stream] == [text("lo"), text("", "stop")]

    run(main())


def test_pieces_may_be_cut_anywhere(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        body = b"".join(cast("list[bytes]", HELLO.body))
        server.script(*[Reply(body=[body[i : i + size] for i in range(0, len(body), size)]) for size in (1, 7, 4096)])
        async with provider(server) as made:
            for _ in range(3):
                assert await answer(made) == [text("Hel"), text("lo"), text("", "stop")]

    run(main())


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_a_completion_comes_at_once_however_it_is_framed(run: Run, server: ScriptedServer, framing: Any) -> None:
    async def main() -> None:
        raw = json.dumps(COMPLETION).encode()
        server.script(Reply(body=[raw[:10], raw[10:]], framing=framing))
        async with provider(server) as made:
            assert await answer(made, request(stream=False)) == [COMPLETION]

    run(main())


def test_the_body_decides_and_not_what_was_asked_for(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(Reply.json(COMPLETION, headers={"Content-Type": "text/event-stream"}))
        server.script(Reply(body=HELLO.body, headers={"Content-Type": "application/json"}))
        async with provider(server) as made:
            [whole] = [item async for item in made.chat(request(stream=True))]
            assert isinstance(whole, Completion)
            assert len(await answer(made, request(stream=False))) == 3

    run(main())


def test_done_ends_the_answer_even_if_the_connection_stays_open(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(Reply.sse(text("Hello", "stop"), b"data: [DONE]\n\n", Action.HANG, done=False))
        async with provider(server) as made:
            assert await answer(made) == [text("Hello", "stop")]

    run(main())


def test_a_finished_answer_survives_whatever_the_connection_does(
    run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr("deltabus.http.client.LAST_WORDS", 0.01)
        for end in (Action.HANG, Action.ABORT, Action.CLOSE):
            go = Signal()
            server.script(Reply.sse(text("Hello", "stop"), go, end, done=False))
            async with provider(server) as made, aclosing(opened(made)) as stream:
                assert (await anext(stream)).data == text("Hello", "stop")
                go.set()
                assert [item async for item in stream] == []

    run(main())


# Connections


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


# Time


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
        async with provider(server, timeouts={phase: 0.05}) as made:
            error = await failure(made)
            assert error.code == "provider_timeout"
            assert f"timeouts.{phase} = 0.05 s" in error.message
            await soon(server.received(1))  # A busy server may not have read the request yet, which is sent.
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
        async with provider(server, timeouts={"between_bytes": 0.25}) as made, aclosing(opened(made)) as stream:
            await anext(stream)
            go.set()
            rung = asyncio.Event()
            asyncio.get_running_loop().call_later(0.5, rung.set)
            await rung.wait()
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


# Errors


def test_an_error_carries_what_the_provider_said_about_it(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        body = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
        headers = {"Retry-After": "7", "X-Request-Id": "req_1", "X-Should-Retry": "false"}
        server.script(Reply.json(body, 429, headers))
        async with provider(server) as made:
            error = await failure(made)
        assert error.code == "rate_limited"
        assert (error.message, error.status, error.provider) == ("slow down", 429, "kit")
        assert (error.retry_after, error.should_retry, error.request_id) == (7.0, False, "req_1")

    run(main())


def test_an_error_within_a_stream_carries_the_request_too(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(
            Reply.sse(text("Hel"), {"error": {"message": "gone", "code": 502}}, headers={"x-request-id": "r"})
        )
        async with provider(server) as made:
            error = await failure(made)
        assert (error.code, error.provider, error.request_id, error.status) == ("provider_unavailable", "kit", "r", 502)

    run(main())


@pytest.mark.parametrize("where", ["body", "stream", "text"])
def test_a_key_that_the_provider_echoes_is_not_passed_on(run: Run, server: ScriptedServer, where: str) -> None:
    async def main() -> None:
        message = f"Incorrect API key provided: {KEY}. Bearer {KEY}"
        error = {"error": {"message": message, "code": "invalid_api_key"}}
        replies = {
            "body": Reply.json(error, 401),
            "stream": Reply.sse(error),
            "text": Reply(status=401, body=[message.encode()]),
        }
        server.script(replies[where])
        async with provider(server) as made:
            caught = await failure(made)
        assert caught.code == "authentication"
        assert KEY not in f"{caught} {caught!r} {caught.info} {caught.args}"

    run(main())


@pytest.mark.parametrize("hint", [True, False])
def test_an_address_without_a_version_gets_a_hint(run: Run, server: ScriptedServer, hint: bool) -> None:
    async def main() -> None:
        server.script(Reply(status=404, body=[b"404 page not found"]))
        async with provider(server, base_url=server.url + ("/api" if hint else "/v1")) as made:
            error = await failure(made)
        assert error.code == "not_found"
        assert (f"{server.url}/api/v1" in str(error)) is hint

    run(main())


def test_redirects_are_not_followed(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(Reply(status=307, headers={"Location": f"{server.url}/elsewhere"}))
        async with provider(server) as made:
            error = await failure(made)
        assert error.code == "provider_protocol"
        assert "base_url" in error.message
        assert len(server.requests) == 1

    run(main())


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply.raw(b"garbage\r\n\r\n"), "provider_protocol"),
        (Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), "provider_protocol"),
        (Reply.raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), "provider_protocol"),
        (Reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n"), "provider_protocol"),
        (Reply.raw(b"HTTP/1.1 200 OK\r\nConte", Action.CLOSE), "provider_unavailable"),
        (Reply.raw(Action.CLOSE), "provider_unavailable"),
        (Reply.raw(Action.ABORT), "provider_unavailable"),
        (Reply.sse(text("Hel"), Action.CLOSE), "stream_truncated"),
        (Reply.sse(text("Hel"), Action.ABORT), "stream_truncated"),
        (Reply.sse(text("Hel"), done=False), "stream_truncated"),
        (Reply(body=[b'{"id"', Action.CLOSE], headers={"Content-Length": "100"}, framing="length"), "stream_truncated"),
        (Reply(body=[b'{"id"'], framing="close"), "stream_truncated"),
        (Reply(status=204, framing="length"), "stream_truncated"),
        (Reply(body=[b"<html>"]), "provider_protocol"),
        (Reply(body=[b"x"], headers={"Content-Encoding": "br"}), "provider_protocol"),
        (Reply(body=[b"xyz"], headers={"Content-Encoding": "gzip"}), "provider_protocol"),
        (Reply(status=502, body=[b"<html>"], headers={"Content-Encoding": "br"}), "provider_protocol"),
        (Reply(status=500, body=[b'{"err', Action.ABORT]), "provider_unavailable"),
    ],
)
def test_whatever_comes_over_the_connection_has_a_code(
    run: Run, server: ScriptedServer, reply: Reply, code: str
) -> None:
    async def main() -> None:
        server.script(reply)
        async with provider(server) as made:
            error = await failure(made)
        assert error.code == code
        assert error.provider == "kit"
        assert KEY not in f"{error!r} {error.__cause__!r} {error.__context__!r}"

    run(main())


def test_an_answer_over_the_limit_is_refused_and_its_connection_closed(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        whole = json.dumps(COMPLETION | {"padding": "x" * 1_000_000}).encode()
        server.script(
            Reply(body=[whole], framing="length"),
            Reply(body=[b"data: " + whole]),
            Reply(body=[gzip.compress(b"{" + b" " * 100_000_000), Action.HANG], headers={"Content-Encoding": "gzip"}),
        )
        async with provider(server, max_answer_bytes=100_000) as made:
            for place in range(3):
                error = await failure(made, request(stream=False))
                assert error.code == "payload_too_large"
                await soon(server.requests[place].closed)

    run(main())


def test_an_answer_that_is_compressed_all_the_same_is_understood(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        packed = gzip.compress(b"".join(cast("list[bytes]", HELLO.body)))
        refused = gzip.compress(b'{"error": {"message": "no"}}')
        headers = {"Content-Encoding": "gzip"}
        server.script(Reply(body=[packed[:30], packed[30:]], headers=headers))
        server.script(Reply(body=[refused], status=400, headers=headers))
        async with provider(server) as made:
            assert len(await answer(made)) == 3
            assert (await failure(made)).message == "no"
        assert server.requests[0].headers["accept-encoding"] == "identity"

    run(main())


# Requests


def test_a_producers_header_goes_along_under_those_configured(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(HELLO)
        async with provider(server, headers={"X-Team": "ops"}) as made:
            await answer(made, request(headers={"x-team": "search", "X-Ticket": "7"}))
        sent = server.requests[0].headers
        assert (sent["x-team"], sent["x-ticket"]) == ("ops", "7")

    run(main())


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer x"}, {"X-A": "b\r\nX-B: c"}, {"Host": "h"}])
def test_a_header_that_is_refused_is_never_sent(run: Run, server: ScriptedServer, headers: Mapping[str, str]) -> None:
    async def main() -> None:
        async with provider(server) as made:
            error = await failure(made, request(headers=headers))
        assert isinstance(error, InvalidRequest)
        assert error.provider == "kit"
        assert error.param is not None
        assert server.requests == []

    run(main())


def test_cookies_of_one_answer_are_not_sent_with_another_request(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(*[Reply.json(COMPLETION, headers={"Set-Cookie": "session=1; Path=/"})] * 2)
        async with provider(server) as made:
            await answer(made)
            await answer(made)
        assert "cookie" not in server.requests[1].headers

    run(main())


def test_nothing_is_logged(run: Run, server: ScriptedServer, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server.script(HELLO)
        async with provider(server, query={"key": "hidden"}) as made:
            await answer(made)

    with caplog.at_level(logging.INFO):
        run(main())
    assert caplog.records == []


def test_the_body_of_a_request_is_not_changed(run: Run, server: ScriptedServer) -> None:
    async def main() -> None:
        server.script(HELLO)
        asked = request()
        before = json.dumps(asked.body)
        async with provider(server, params={"seed": 1}, force_params={"model": "other"}) as made:
            await answer(made, asked)
        assert json.dumps(asked.body) == before
        assert server.requests[0].json() == {**asked.body, "model": "other", "seed": 1}

    run(main())


# The rest


def test_the_repr_shows_the_address_and_no_secret(server: ScriptedServer) -> None:
    made = OpenAIProvider("kit", {"base_url": f"{server.url}/v1?key=hidden", "api_key": KEY})
    assert repr(made) == f"OpenAIProvider('kit', base_url='{server.url}/v1')"


def check(run: Run, server: ScriptedServer, **settings: Any) -> Any:
    async def main() -> Any:
        async with provider(server, **settings) as made:
            return await made.check()

    return run(main())


def test_a_check_names_the_models(run: Run, server: ScriptedServer) -> None:
    server.script(Reply.json({"object": "list", "data": [{"id": "a"}, {"id": "b"}]}))
    health = check(run, server)
    assert health.ok
    assert health.models == ("a", "b")
    assert server.requests[0].method == "GET"
    assert server.requests[0].path == "/v1/models"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply.json({"error": {"message": f"bad key {KEY}"}}, 401), "check api_key (bad key [redacted])"),
        (Reply.json({"error": {"message": "not here"}}, 403), "the key may not list models"),
        (Reply(status=404, body=[b"not found"]), "check base_url"),
        (Reply(body=[b"<html>"]), "base_url is probably wrong"),
        (Reply.json({"hello": 1}), "base_url is probably wrong"),
        (Reply.json({"error": {"message": "in a 200"}}), "in a 200"),
        (Reply.raw(Action.HANG), "in time"),
        (Reply(status=302, headers={"Location": "https://login.example/"}), "login.example"),
        (Reply(status=503, body=[b"<h1>Service Unavailable</h1>"]), "Service Unavailable"),
    ],
)
def test_a_check_says_what_is_wrong(
    run: Run, server: ScriptedServer, reply: Reply, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltabus.http.client.CHECK", 10 if "time" not in told else 0.05)
    server.script(reply)
    health = check(run, server)
    assert not health.ok
    assert told in health.detail
    assert KEY not in health.detail
