"""The provider against a real server on a real socket."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, cast

import pytest
from chatting import COMPLETION, HELLO, KEY, Run, answer, failure, opened, provider, request, text
from flight import LONG

from deltabus.http.pace import Pace
from deltabus.http.transport import PIECE, Exchange
from deltabus.provider import Completion, InvalidRequest
from deltabus.testing.server import Action, Reply, ScriptedServer, Signal
from deltabus_openai import OpenAIProvider


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
    monkeypatch.setattr("deltabus.http.client.CHECK", 60 if "time" not in told else 0.05)
    server.script(reply)
    health = check(run, server)
    assert not health.ok
    assert told in health.detail
    assert KEY not in health.detail


def rested(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[float]]:
    """Chunks of the reads after which a stream may rest, and rests: no time passes in them."""
    reads: list[int] = []
    rests: list[float] = []

    def pace(_: Pace, chunks: int) -> float:
        reads.append(chunks)
        return LONG

    async def rest(_: Exchange, seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(Pace, "rest", pace)
    monkeypatch.setattr(Exchange, "rest", rest)
    return reads, rests


def test_a_large_answer_is_read_without_rests(
    run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it comes as one, or as chunks of which none is whole in a read: what rests must not hold it up."""
    reads, rests = rested(monkeypatch)
    large = "x" * (20 * PIECE)

    async def main() -> None:
        server.script(
            Reply.json({"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": large}}]})
        )
        server.script(Reply.sse(text(large), text("", "stop")))
        async with provider(server) as made:
            await answer(made, request(stream=False))
            assert reads == rests == []
            assert await answer(made) == [text(large), text("", "stop")]
            assert len(rests) <= 1, "at most after the read that brought the end of the chunk"

    run(main())


def test_a_stream_rests_as_long_as_its_pace_says_but_not_at_its_end(
    run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, rests = rested(monkeypatch)

    async def main() -> None:
        second, third = Signal(), Signal()
        server.script(Reply.sse(text("a"), second, text("b"), third, text("", "stop")))
        async with provider(server) as made, aclosing(opened(made)) as stream:
            assert (await anext(stream)).data == text("a")
            second.set()
            assert (await anext(stream)).data == text("b")
            assert rests == [LONG]
            third.set()
            assert [item.data async for item in stream] == [text("", "stop")]
            assert rests == [LONG, LONG]
            assert reads[:3] == [1, 1, 1]

    run(main())


def test_a_rest_ends_and_none_outlasts_the_request(
    run: Run, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of these would last until the tests' own limit."""
    rests = iter([0.001, 3600.0])
    monkeypatch.setattr(Pace, "rest", lambda *_: next(rests, 0.0))

    async def main() -> None:
        second, third = Signal(), Signal()
        server.script(Reply.sse(text("a"), second, text("b"), third, text("", "stop")))
        async with provider(server, timeouts={"total": 1800}) as made, aclosing(opened(made)) as stream:
            assert (await anext(stream)).data == text("a")
            second.set()
            assert (await anext(stream)).data == text("b")
            third.set()
            assert [item.data async for item in stream] == [text("", "stop")]
        assert next(rests, None) is None

    run(main())
