"""Whatever goes wrong at a real server is told as an error that has a code, and never shows the key."""

from __future__ import annotations

import gzip
import json
from typing import cast

import pytest
from chatting import COMPLETION, HELLO, KEY, Run, answer, failure, provider, request, soon, text

from deltabus.testing.server import Action, Reply, ScriptedServer


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
            Reply(body=[gzip.compress(b"{" + b" " * 10_000_000), Action.HANG], headers={"Content-Encoding": "gzip"}),
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
