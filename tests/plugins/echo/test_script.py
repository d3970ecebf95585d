"""What a script makes the echo provider do: fail, stall, keep a pace; and which scripts are refused."""

from __future__ import annotations

import asyncio

import pytest
from echoing import deltas, read, request

from deltabus.provider import (
    Chunk,
    Completion,
    ConfigError,
    InvalidRequest,
    ProviderUnavailable,
    RateLimited,
    StreamTruncated,
    TaskError,
)
from deltabus_echo import EchoProvider
from deltabus_echo.pace import Pace
from deltabus_echo.script import ERRORS


def said(items: list[Chunk]) -> int:
    return sum(bool(delta.get("content")) for delta in deltas(items))


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_script_fails_after_so_many_words(run, after):
    items, error = run(read(request(echo={"words": 3, "fail_after": after, "error": "rate_limited", "retry_after": 7})))
    assert isinstance(error, RateLimited)
    assert (error.status, error.provider, error.retry_after) == (429, "echo", 7.0)
    assert said(items) == after
    assert len(items) == after + (after > 0), "before the first word, there is not even the role"


def test_a_fault_beyond_the_last_word_never_strikes(run):
    script = {"words": 3, "fail_after": 4, "stall_after": 5, "truncate_after": 6}
    items, error = run(read(request(echo=script)))
    assert error is None
    assert said(items) == 3


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"fail_after": 1}, ProviderUnavailable),
        ({"error": "rate_limited"}, RateLimited),
        ({"truncate_after": 1}, StreamTruncated),
        ({"truncate_after": 2, "fail_after": 1}, ProviderUnavailable),
        ({"error": "crash"}, RuntimeError),
    ],
)
def test_the_first_fault_strikes_streamed_or_not(run, script, expected):
    for streamed in (True, False):
        items, error = run(read(request(stream=streamed, echo=script)))
        assert type(error) is expected
        assert not any(isinstance(item, Completion) for item in items)


def test_every_code_that_a_provider_may_raise_can_be_asked_for(run):
    for code, kind in ERRORS.items():
        _, error = run(read(request(echo={"error": code})))
        assert type(error) is kind
    closed = {kind.code for kind in TaskError.__subclasses__()}
    assert closed - ERRORS.keys() == {"unknown_provider", "unknown_task", "worker_lost"}, "the bus' own"


def test_only_the_first_attempts_fail(run):
    outcomes = [run(read(request(attempt=n, echo={"fail_after": 1, "fail_attempts": 2})))[1] for n in (1, 2, 3)]
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "ProviderUnavailable",
        "ProviderUnavailable",
        "NoneType",
    ]


def test_a_stall_is_silent_until_it_is_cancelled(run):
    async def main():
        items = []
        said_two = asyncio.Event()

        async def collect():
            async for item in EchoProvider("echo", {}).chat(request(echo={"words": 9, "stall_after": 2})):
                items.append(item)
                if said(items) == 2:
                    said_two.set()

        task = asyncio.create_task(collect())
        await said_two.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert said(items) == 2

    run(main())


def test_words_come_at_the_pace_that_is_asked_for_and_late_ones_are_made_up_for(run, monkeypatch):
    dues = []

    async def until(self, due):
        dues.append(due)

    monkeypatch.setattr(Pace, "until", until)
    run(read(request(echo={"words": 20, "interval": 0.005})))
    assert [due - dues[0] for due in dues] == pytest.approx([0.005 * n for n in range(21)])


def test_streams_with_a_pace_wake_each_other_correctly(run):
    async def main():
        provider = EchoProvider("echo", {})

        async def one(n: int, interval: float) -> int:
            return len([item async for item in provider.chat(request(echo={"words": n, "interval": interval}))])

        counts = await asyncio.gather(*(one(n, 0.001 * (n % 4)) for n in range(40)))
        assert counts == [n + 2 for n in range(40)]

    run(main())


def test_a_cancelled_stream_does_not_keep_others_asleep(run):
    async def main():
        provider = EchoProvider("echo", {})
        paced = request(echo={"words": 5, "interval": 0.002})

        async def one() -> int:
            return len([item async for item in provider.chat(paced)])

        tasks = [asyncio.create_task(one()) for _ in range(10)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert ended[1::2] == [7] * 5
        assert all(isinstance(end, asyncio.CancelledError) for end in ended[::2])

    run(main())


def test_one_provider_serves_loops_that_come_and_go():
    provider = EchoProvider("echo", {})

    async def one(words: int) -> int:
        return len([item async for item in provider.chat(request(echo={"words": words, "interval": 0.001}))])

    assert [asyncio.run(one(n)) for n in (3, 4)] == [5, 6]


def test_a_long_answer_without_a_pace_lets_others_run(run):
    async def main():
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        await read(request(echo={"words": 1600}))
        task.cancel()
        assert turns >= 100

    run(main())


@pytest.mark.parametrize(
    ("script", "param", "told"),
    [
        ({"wrods": 5}, "request.echo.wrods", "unknown key; did you mean `words`?"),
        ({"zzz": 5}, "request.echo.zzz", "unknown key; a script has text, words,"),
        ({"words": "5"}, "request.echo.words", "Expected `int | null`, got `str`"),
        ({"words": -1}, "request.echo.words", "Expected `int` >= 0"),
        ({"interval": -1}, "request.echo.interval", "Expected `float` >= 0.0"),
        ({"error": "rate_limit"}, "request.echo.error", "unknown error code; did you mean `rate_limited`?"),
        ({"error": "xyz"}, "request.echo.error", "must be one of authentication,"),
        ({"tool_calls": [{"nam": "f"}]}, "request.echo.tool_calls[0]", "Object "),
        ("loud", "request.echo", "must be an object"),
    ],
)
def test_a_wrong_script_is_refused_with_its_path_and_the_fix(run, script, param, told):
    for streamed in (True, False):
        _, error = run(read(request(stream=streamed, echo=script)))
        assert isinstance(error, InvalidRequest)
        assert error.param == param
        assert error.message.startswith(told)


def test_the_providers_table_holds_defaults_for_scripts(run):
    items, _ = run(read(request(), words=2))
    assert said(items) == 2
    items, _ = run(read(request(echo={"words": 4}), words=2, chunk_words=2))
    assert said(items) == 2


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"intervall": 1}, "`intervall`: unknown key; did you mean `interval`?"),
        ({"words": "many"}, "`words`: Expected `int | null`, got `str`"),
        ({"error": "nope"}, "`error`: must be one of"),
    ],
)
def test_a_wrong_table_is_refused_with_the_key_and_the_fix(table, told):
    with pytest.raises(ConfigError) as caught:
        EchoProvider("echo", table)
    assert str(caught.value).startswith(told)


def test_its_health_is_good(run):
    health = run(EchoProvider("echo", {}).check())
    assert health.ok
