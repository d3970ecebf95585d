"""Requests as JSON; answers' bytes as chunks: what holds beyond the dialects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltabus.provider import Chunk, Completion, PayloadTooLarge, ProviderProtocol, StreamTruncated
from deltabus_openai.wire import AnswerDecoder

Outcome = Any
Read = Callable[[bytes], Outcome]
ReadPieces = Callable[[Iterable[bytes]], Outcome]

DONE = b"data: [DONE]\n\n"


def chunk(delta: Any, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def event(raw: bytes) -> bytes:
    return b"data: " + raw + b"\n\n"


def said(content: bytes) -> bytes:
    """A chunk whose content is these bytes, as they are."""
    return b'{"choices":[{"index":0,"delta":{"content":"' + content + b'"},"finish_reason":null}]}'


STOP = event(json.dumps(chunk({}, "stop")).encode())


# Requests


# Chunks that are not quite JSON


def test_invalid_utf8_is_replaced_and_does_no_further_harm(every_way: Read) -> None:
    outcome = every_way(event(said(b"a\xffb")) + event(said(b"\xc3\xa9")) + STOP)
    assert outcome.text == "a\ufffdb\u00e9"
    assert outcome.chunks[1] == said(b"\xc3\xa9")


def test_half_a_surrogate_pair_is_replaced(every_way: Read) -> None:
    outcome = every_way(event(said(b"a\\ud83d")) + event(said(b"\\ude00b")) + STOP)
    assert outcome.code == "ok"
    assert outcome.text == "a\ufffd\ufffdb"


def test_numbers_that_json_lacks_become_null(every_way: Read) -> None:
    raw = b'{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"x":[NaN,-Infinity,1e999,-1.5]}}]}'
    outcome = every_way(event(raw) + STOP)
    assert outcome.data[0]["choices"][0]["logprobs"] == {"x": [None, None, None, -1.5]}


def test_control_characters_in_a_string_are_escaped(every_way: Read) -> None:
    outcome = every_way(event(said(b"a\tb\x01")) + STOP)
    assert outcome.text == "a\tb\x01"


def test_a_document_over_several_lines_is_written_in_one(every_way: Read) -> None:
    lines = json.dumps(chunk({"content": "a\nb"}), indent=2).splitlines()
    body = b"".join(b"data: " + line.encode() + b"\n" for line in lines) + b"\n" + STOP
    outcome = every_way(body)
    assert outcome.text == "a\nb"
    assert outcome.data[0] == chunk({"content": "a\nb"})


def test_white_space_around_a_document_is_dropped(every_way: Read) -> None:
    raw = said(b"a")
    assert every_way(b"data: \t" + raw + b" \n\n" + STOP).text == "a"


def test_large_numbers_are_kept(every_way: Read) -> None:
    raw = b'{"created":18446744073709551615,"choices":[{"index":0,"delta":{"content":"a"}}]}'
    assert every_way(event(raw) + STOP).chunks[0] == raw


def test_a_number_that_nobody_can_hold_is_an_error(in_pieces: ReadPieces) -> None:
    body = b'{"a":' + b"9" * 5000 + b',"choices":[{"delta":{}}]}'
    assert in_pieces([body]).error[0] is ProviderProtocol


@pytest.mark.parametrize("garbage", [b"oops", b"{oops}", b'{"a":1}}', b"[1, 2]", b"1", b'"text"', b"true"])
def test_what_is_no_chunk_is_an_error_after_those_before_it(every_way: Read, garbage: bytes) -> None:
    outcome = every_way(event(said(b"a")) + event(garbage) + STOP + DONE)
    assert outcome.error[0] is ProviderProtocol
    assert outcome.text == "a"


@pytest.mark.parametrize("choices", [b"[1]", b'["a"]', b"[null]", b"[[]]"])
def test_choices_that_are_no_objects_are_an_error(every_way: Read, choices: bytes) -> None:
    assert every_way(event(b'{"choices":' + choices + b"}") + STOP).error[0] is ProviderProtocol


@pytest.mark.parametrize("choices", [b"null", b"{}", b"7"])
def test_choices_that_are_no_list_are_none(every_way: Read, choices: bytes) -> None:
    outcome = every_way(event(b'{"usage":{"total_tokens":1},"choices":' + choices + b"}") + event(said(b"a")) + STOP)
    assert outcome.text == "a"
    assert outcome.data[0]["choices"] == []


def test_nesting_without_end_is_an_error(in_pieces: ReadPieces) -> None:
    deep = b'{"a":' * 100_000
    assert in_pieces([event(said(b"a")), event(deep)]).error[0] is ProviderProtocol
    assert in_pieces([deep + b"1" + b"}" * 100_000]).error[0] is ProviderProtocol


def test_an_error_never_shows_what_was_said(in_pieces: ReadPieces) -> None:
    for body in (event(b'{"secret answer"'), b'{"secret answer"', b'{"secret answer": 1}', b'["secret answer"]'):
        assert "secret answer" not in in_pieces([body]).error[1]


# Completions


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", StreamTruncated),
        (b" \n", StreamTruncated),
        (b'{"choices": [', StreamTruncated),
        (b"{}", ProviderProtocol),
        (b"[]", ProviderProtocol),
        (b'{"object":"list","data":[]}', ProviderProtocol),
        (b'{"choices":[]}', ProviderProtocol),
        (b'{"choices":[{"index":0,"text":"legacy"}]}', StreamTruncated),
        (b"{oops}", ProviderProtocol),
        (b"Hello, world", StreamTruncated),
    ],
)
def test_a_body_that_is_no_completion_is_an_error(every_way: Read, body: bytes, error: type[Exception]) -> None:
    assert every_way(body).error[0] is error


def test_a_completion_is_passed_on_with_all_it_holds(every_way: Read) -> None:
    body = {"id": "1", "choices": [{"index": 1, "message": {"content": "a", "x": 1}, "y": None}], "z": {"w": [1.5]}}
    assert json.loads(every_way(json.dumps(body).encode()).completions[0]) == body


# Bounds


def test_a_completion_over_the_limit_is_refused() -> None:
    decoder = AnswerDecoder(1000)
    body = json.dumps({"choices": [{"message": {"content": "x" * 2000}}]}).encode()
    list(decoder.feed(body[:900]))
    with pytest.raises(PayloadTooLarge, match="1000 bytes"):
        list(decoder.feed(body[900:1100]))


def test_keep_alives_before_a_completion_do_not_count() -> None:
    decoder = AnswerDecoder(100)
    for _ in range(100):
        list(decoder.feed(b"\n" * 50))
    list(decoder.feed(b'{"choices":[{"message":{"content":"a"}}]}'))
    [completion] = decoder.finish()
    assert isinstance(completion, Completion)


# When an answer is whole


def test_settled_means_that_every_choice_asked_for_has_ended() -> None:
    decoder = AnswerDecoder(1000, choices=2)
    for part in (chunk({"content": "a"}), chunk({}, "stop")):
        list(decoder.feed(event(json.dumps(part).encode())))
    assert decoder.complete
    assert not decoder.settled
    list(decoder.feed(event(json.dumps(chunk({}, "stop", index=1)).encode())))
    assert decoder.settled


def test_a_wrong_n_is_the_providers_business() -> None:
    for wrong in (None, "2", 1.5, True):
        assert not AnswerDecoder(1000, choices=wrong).settled


# Properties

CONTENT = st.text(max_size=8)
DELTAS = st.one_of(
    st.builds(lambda content: {"content": content}, CONTENT),
    st.builds(lambda content: {"role": "assistant", "content": content}, st.none() | CONTENT),
    st.builds(lambda content: {"reasoning_content": content}, CONTENT),
    st.builds(lambda content: {"content": [{"type": "text", "text": content}]}, CONTENT),
    st.builds(
        lambda index, id_, name, arguments: {
            "tool_calls": [
                {
                    **({} if index is None else {"index": index}),
                    **({} if id_ is None else {"id": id_}),
                    "function": {**({} if name is None else {"name": name}), "arguments": arguments},
                }
            ]
        },
        st.none() | st.integers(-1, 2),
        st.none() | st.sampled_from(["", "a", "b", "c"]),
        st.none() | st.sampled_from(["now", "add"]),
        CONTENT,
    ),
)
DOCUMENTS = st.one_of(
    st.builds(chunk, DELTAS, st.sampled_from([None, None, "", "stop", "eos"]), st.integers(0, 1)),
    st.builds(lambda usage: {"choices": [], "usage": {"total_tokens": usage}}, st.integers(0, 9)),
    st.sampled_from(
        [{}, {"choices": [{"delta": {"content": "x"}}]}, {"choices": [{"index": 0}]}, {"error": {"code": 1}}]
    ),
)
NOISE = st.sampled_from([b"", b"", b": ping\n\n", b"\n", b"data:\n\n", b"event: x\n", b"id: 1\n"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A stream as some server might send it."""
    body = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\n\n"]))
    for document in draw(st.lists(DOCUMENTS, max_size=6)):
        raw = json.dumps(document, ensure_ascii=draw(st.booleans())).encode()
        body += draw(NOISE) + draw(st.sampled_from([b"data: ", b"data:"])) + raw + b"\n\n"
    body += draw(st.sampled_from([b"", DONE, b"data: [DONE]", b"data: {"]))
    return body.replace(b"\n", draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))


@given(body=bodies(), cuts=st.data())
def test_no_cut_changes_what_a_stream_says(body: bytes, cuts: st.DataObject, in_pieces: ReadPieces) -> None:
    places = sorted(cuts.draw(st.lists(st.integers(0, len(body)), max_size=10)))
    pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    whole = in_pieces([body])
    assert in_pieces(pieces) == whole
    assert in_pieces([body[place : place + 1] for place in range(len(body))]) == whole
    if whole.chunks and any(data["choices"] for data in whole.data):
        assert in_pieces(pieces).completion == whole.completion


@given(pieces=st.lists(st.binary(max_size=30), max_size=8))
def test_arbitrary_bytes_end_in_chunks_and_errors_of_ours(pieces: list[bytes], in_pieces: ReadPieces) -> None:
    assert in_pieces(pieces) == in_pieces([b"".join(pieces)])


@given(parts=st.lists(CONTENT, min_size=1, max_size=8), ascii=st.booleans())
def test_the_text_of_a_stream_is_its_pieces_in_order(parts: list[str], ascii: bool, in_pieces: ReadPieces) -> None:
    raw = [json.dumps(chunk({"content": part}), ensure_ascii=ascii).encode() for part in parts]
    outcome = in_pieces([*map(event, raw), STOP, DONE])
    assert outcome.text == "".join(parts)
    assert outcome.chunks[:-1] == tuple(raw)


def test_a_chunk_is_the_bytes_that_came() -> None:
    raw = b'{ "choices" : [ {"delta":{"content":"\\u00e9"}, "index":0,"finish_reason" :null} ], "b":1.0, "a":1e2 }'
    [made] = AnswerDecoder(1000).feed(event(raw))
    assert isinstance(made, Chunk)
    assert made.raw == raw
