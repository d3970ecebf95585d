"""What the echo provider says, and how a script makes it say something else."""

from __future__ import annotations

import asyncio
import json

import pytest

from deltabus.provider import (
    ChatRequest,
    Chunk,
    Completion,
    ConfigError,
    InvalidRequest,
    ProviderUnavailable,
    RateLimited,
    StreamTruncated,
    TaskError,
)
from deltabus.testing.chunks import completion_violations, stream_text, stream_violations
from deltabus_echo import EchoProvider
from deltabus_echo.answer import CREATED, PASSAGE
from deltabus_echo.pace import Pace
from deltabus_echo.script import ERRORS

HELLO = [{"role": "user", "content": "hello big bus"}]


def request(*, stream: bool = True, attempt: int = 1, task: str = "t1", **fields) -> ChatRequest:
    body = {"model": "m", "messages": HELLO, "stream": stream, **fields}
    return ChatRequest(body=body, task=task, attempt=attempt)


async def read(request: ChatRequest, **settings) -> tuple[list[Chunk | Completion], BaseException | None]:
    """What is yielded, and the error at the end."""
    items: list[Chunk | Completion] = []
    try:
        async for item in EchoProvider("echo", settings).chat(request):
            items.append(item)  # noqa: PERF401  What came before an error is kept.
    except (TaskError, RuntimeError) as exc:
        return items, exc
    return items, None


@pytest.fixture
def stream(run):
    """The items of a good stream."""

    def stream(**fields):
        items, error = run(read(request(**fields)))
        assert error is None
        assert stream_violations(items) == []
        return items

    return stream


@pytest.fixture
def whole(run):
    """The completion of a good answer that is not streamed."""

    def whole(**fields):
        items, error = run(read(request(stream=False, **fields)))
        assert error is None
        assert completion_violations(items) == []
        return items[0].data

    return whole


def deltas(items: list[Chunk]) -> list[dict]:
    return [choice["delta"] for item in items for choice in item.data["choices"]]


def test_a_stream_is_these_bytes(stream):
    head = b'{"id":"chatcmpl-t1","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":'
    assert [item.raw for item in stream()] == [
        head + b'[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}' % (delta, reason)
        for delta, reason in [
            (b'{"role":"assistant","content":""}', b"null"),
            (b'{"content":"hello"}', b"null"),
            (b'{"content":" big"}', b"null"),
            (b'{"content":" bus"}', b"null"),
            (b"{}", b'"stop"'),
        ]
    ]


def test_the_same_request_gives_the_same_bytes(stream, whole):
    fields = {"n": 2, "logprobs": True, "stream_options": {"include_usage": True}, "echo": {"words": 30}}
    assert [item.raw for item in stream(**fields)] == [item.raw for item in stream(**fields)]
    assert whole(**fields) == whole(**fields)


def test_a_whole_answer_says_the_same(whole):
    message = {"role": "assistant", "content": "hello big bus", "refusal": None}
    assert whole() == {
        "id": "chatcmpl-t1",
        "object": "chat.completion",
        "created": CREATED,
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }


@pytest.mark.parametrize(
    "text", ["one", "a  b", " a\n\nb ", "\ta", "日本語 です", 'q"uo\\te', "\u2028", " ", "a\x00b", "😀 😀"]
)
def test_every_character_comes_back(stream, whole, text):
    messages = [{"role": "user", "content": text}]
    items = stream(messages=messages)
    assert stream_text(items) == text
    assert all(json.loads(item.raw) == item.data for item in items)
    assert whole(messages=messages)["choices"][0]["message"]["content"] == text


def test_the_last_user_message_comes_back(stream):
    messages = [*HELLO, {"role": "user", "content": "last"}, {"role": "assistant", "content": "no"}]
    assert stream_text(stream(messages=messages)) == "last"


def test_without_a_user_the_last_message_comes_back(stream):
    assert stream_text(stream(messages=[{"role": "system", "content": "rules"}])) == "rules"


def test_the_texts_of_parts_come_back(stream):
    parts = [{"type": "text", "text": "a "}, {"type": "image_url", "image_url": {"url": "u"}}, {"text": "b"}]
    assert stream_text(stream(messages=[{"role": "user", "content": parts}])) == "a b"


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": None}], [{"role": "user"}]])
def test_nothing_to_say_is_said_in_full(run, messages):
    items, error = run(read(request(messages=messages)))
    assert error is None
    assert deltas(items) == [{"role": "assistant", "content": ""}, {}]


def test_words_come_from_the_passage_over_and_over(stream):
    count = len(PASSAGE.split())
    text = stream_text(stream(echo={"words": 2 * count}))
    assert text == f"{PASSAGE} {PASSAGE}"
    assert len(stream(echo={"words": 7})) == 7 + 2


def test_words_of_a_text_are_repeated_as_often_as_asked(stream):
    assert stream_text(stream(echo={"text": "a b", "words": 5})) == "a b a b a"
    assert stream_text(stream(echo={"text": "a b c", "words": 2})) == "a b"
    assert stream_text(stream(echo={"text": "as  it is"})) == "as  it is"


def test_chunks_can_hold_several_words(stream):
    items = stream(echo={"text": "a b c d e", "chunk_words": 2})
    assert [delta.get("content") for delta in deltas(items)] == ["", "a b", " c d", " e", None]


def test_the_limit_of_tokens_cuts_the_answer(stream, whole):
    for name in ("max_tokens", "max_completion_tokens"):
        items = stream(**{name: 2})
        assert stream_text(items) == "hello big"
        assert items[-1].data["choices"][0]["finish_reason"] == "length"
    assert whole(max_tokens=2)["choices"][0]["finish_reason"] == "length"
    assert whole(max_tokens=3)["choices"][0]["finish_reason"] == "stop"


def test_usage_comes_last_where_it_is_asked_for_and_only_there(stream):
    items = stream(stream_options={"include_usage": True}, n=2)
    assert [item.data["usage"] for item in items[:-1]] == [None] * (len(items) - 1)
    assert items[-1].data["choices"] == []
    assert items[-1].data["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    assert all("usage" not in item.data for item in stream())


def test_a_script_overrides_usage_and_finish_reason(whole):
    answer = whole(echo={"usage": {"prompt_tokens": 100, "cached": 1}, "finish_reason": "content_filter"})
    assert answer["usage"] == {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103, "cached": 1}
    assert answer["choices"][0]["finish_reason"] == "content_filter"


def test_several_choices_say_the_same_side_by_side(stream, whole):
    items = stream(n=3)
    assert [item.data["choices"][0]["index"] for item in items[:6]] == [0, 1, 2, 0, 1, 2]
    assert [choice["index"] for choice in whole(n=3)["choices"]] == [0, 1, 2]


def test_log_probabilities_stand_beside_the_words(stream, whole):
    items = stream(logprobs=True, top_logprobs=2)
    entry = {"token": "hello", "logprob": 0.0, "bytes": list(b"hello")}
    assert items[1].data["choices"][0]["logprobs"] == {"content": [{**entry, "top_logprobs": [entry]}], "refusal": None}
    tokens = whole(logprobs=True)["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == "hello big bus"
    assert tokens[0]["top_logprobs"] == []


def test_reasoning_comes_before_the_content(stream, whole):
    script = {"reasoning": "let me see", "text": "yes"}
    said = [next(iter(delta)) for delta in deltas(stream(echo=script))[1:-1]]
    assert said == ["reasoning_content"] * 3 + ["content"]
    assert whole(echo=script)["choices"][0]["message"]["reasoning_content"] == "let me see"


def called(items: list[Chunk]) -> list[dict]:
    """The calls that the deltas add up to."""
    calls: dict[int, dict] = {}
    for delta in deltas(items):
        for part in delta.get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"arguments": ""})
            call["arguments"] += part["function"]["arguments"]
            call |= {key: part[key] for key in ("id", "type") if key in part}
            call |= {"name": part["function"]["name"]} if "name" in part["function"] else {}
    return [calls[index] for index in sorted(calls)]


def test_tool_calls_of_a_script_are_streamed_in_pieces(stream, whole):
    calls = [{"name": "f", "arguments": {"city": "Paris"}}, {"name": "g", "arguments": "not json", "id": "call_x"}]
    items = stream(echo={"tool_calls": calls})
    assert called(items) == [
        {"id": "call_0", "type": "function", "name": "f", "arguments": '{"city":"Paris"}'},
        {"id": "call_x", "type": "function", "name": "g", "arguments": "not json"},
    ]
    assert items[-1].data["choices"][0]["finish_reason"] == "tool_calls"
    message = whole(echo={"tool_calls": calls})["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f", "g"]
    assert stream_text(stream(echo={"tool_calls": calls, "text": "and words"})) == "and words"


def tool(name: str, **schema) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = tool(
    "weather",
    type="object",
    required=["city", "days", "unit", "at", "tags", "exact", "kind", "free"],
    properties={
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 2},
        "unit": {"enum": ["C", "F"]},
        "at": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"}}},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "exact": {"type": "boolean"},
        "kind": {"const": "now"},
        "left out": {"type": "string"},
    },
)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_is_demanded_is_made_with_arguments_that_fit(stream, choice):
    tools = [WEATHER, tool("other")] if choice == "required" else [tool("other"), WEATHER]
    (call,) = called(stream(tools=tools, tool_choice=choice))
    assert call["name"] == "weather"
    assert json.loads(call["arguments"]) == {
        "city": "hello big bus",
        "days": 2,
        "unit": "C",
        "at": {"lat": 0},
        "tags": ["hello big bus"],
        "exact": False,
        "kind": "now",
        "free": None,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [WEATHER]},
        {"tools": [WEATHER], "tool_choice": "auto"},
        {"tools": [WEATHER], "tool_choice": "none"},
        {"tools": [], "tool_choice": "required"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "absent"}}},
    ],
)
def test_a_call_that_is_not_demanded_is_not_made(stream, fields):
    assert stream_text(stream(**fields)) == "hello big bus"


def test_a_tool_without_parameters_is_called_without_arguments(stream):
    (call,) = called(stream(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="required"))
    assert (call["name"], call["arguments"]) == ("f", "{}")


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
