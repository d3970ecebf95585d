"""A chunk is told by the form of the one before it where, and only where, decoding it would tell the same."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deltabus.chat.accumulator import Accumulator
from deltabus.provider import Chunk
from deltabus_openai import wire
from deltabus_openai.stencil import FIELDS, cut
from deltabus_openai.wire import AnswerDecoder

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
#: What a text could be mistaken for, or mistaken in.
ODD = st.sampled_from(
    ["content", '"', "\\", '","', "}", '"},"logprobs":null', "\n", "é", "\N{GRINNING FACE}", "0", "index"]
)


def chunk(text: str, field: str = "content", delta: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {**(delta or {}), field: text}, "logprobs": None, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [choice], **fields}


def written(document: Any, *, ascii_only: bool = False, spaces: bool = False) -> bytes:
    return json.dumps(document, ensure_ascii=ascii_only, separators=(", ", ": ") if spaces else (",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def decoded(payloads: list[bytes]) -> tuple[list[Chunk], Accumulator]:
    decoder, answer = AnswerDecoder(1 << 20), Accumulator()
    chunks = [item for payload in payloads for item in decoder.feed(b"data: " + payload + b"\n\n")]
    for item in chunks:
        if item.text is not None:
            answer.add_text(*item.text)
        else:
            answer.add(item.data)
    return chunks, answer


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("more", [{}, {"usage": None, "obfuscation": "kD2"}, {"obfuscation": "", "model": "m"}])
@pytest.mark.parametrize("spaces", [False, True])
def test_a_chunk_of_the_same_form_is_its_text(field, more, spaces):
    stencil = cut(written(chunk("Hi", field, **more), spaces=spaces), chunk("Hi", field, **more))
    assert stencil is not None
    assert stencil.field == field
    again = {**more, "obfuscation": "longer than that"} if "obfuscation" in more else more
    for text in (" there", "", "naïve ☀", 'a "quoted"\n\tline \\'):
        for ascii_only in (False, True):
            payload = written(chunk(text, field, **again), spaces=spaces, ascii_only=ascii_only)
            assert stencil.text(payload) == text.encode()


@pytest.mark.parametrize(
    "other",
    [
        chunk("there", id="chatcmpl-2"),
        chunk("there", created=2),
        chunk("there", delta={"role": "assistant"}),
        chunk("there", usage={"total_tokens": 3}),
        chunk("there", "refusal"),
        {**chunk("there"), "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]},
        {**chunk("there"), "choices": [{"index": 1, "delta": {"content": "x"}, "finish_reason": None}]},
        {**chunk("there"), "choices": []},
        {"error": {"message": "overloaded"}},
    ],
)
def test_a_chunk_that_says_anything_else_is_of_no_such_form(other):
    stencil = cut(written(chunk("Hi")), chunk("Hi"))
    assert stencil is not None
    assert stencil.text(written(other)) is None


@pytest.mark.parametrize("inside", [b'"', b"\\", b"\n", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\x", b'","content":"'])
def test_what_is_no_inside_of_a_string_is_of_no_such_form(inside):
    payload = written(chunk("Hi"))
    stencil = cut(payload, chunk("Hi"))
    assert stencil is not None
    assert stencil.text(payload.replace(b"Hi", inside)) is None
    assert stencil.text(payload[:-1]) is None
    assert stencil.text(payload + b" ") is None


@pytest.mark.parametrize(
    "document",
    [
        chunk(""),  # its place is not to be found
        chunk("chatcmpl-1"),  # nor here, as it stands there twice
        chunk("Hi", delta={"reasoning": "hm"}),
        chunk("Hi", delta={"tool_calls": [{"index": 0}]}),
        {**chunk("Hi"), "choices": [{"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": []}}]},
        {**chunk("Hi"), "choices": [{"index": 0, "delta": {"content": ["Hi"]}}]},
        {**chunk("Hi"), "choices": [{"index": 0, "delta": {"audio": {"data": "AAAA"}}}]},
    ],
)
def test_a_chunk_that_adds_more_than_a_text_has_no_form(document):
    assert cut(written(document), document) is None


def test_a_text_that_stands_elsewhere_is_not_taken_for_the_chunks_own():
    # The content is written with an escape, and what it says stands as it is in another field.
    payload = b'{"choices":[{"index":0,"delta":{"content":"\\u0048i","role":"Hi"}}]}'
    assert cut(payload, msgspec.json.decode(payload)) is None


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Chunks that follow forms for a while, and odd ones in between."""
    payloads = []
    for _ in range(draw(st.integers(1, 4))):
        field = draw(st.sampled_from([*FIELDS, "refusal"]))
        fields: dict[str, Any] = draw(
            st.fixed_dictionaries(
                {}, optional={"usage": st.none(), "system_fingerprint": TEXT, "obfuscation": TEXT, "x": st.just([1])}
            )
        )
        spaces, ascii_only = draw(st.booleans()), draw(st.booleans())
        delta: dict[str, Any] = draw(st.sampled_from([{}, {"role": "assistant"}, {"refusal": None}, {"z": "more"}]))
        for text in draw(st.lists(TEXT | ODD, min_size=1, max_size=6)):
            if "obfuscation" in fields:
                fields["obfuscation"] = draw(TEXT | ODD)
            document = chunk(text, field, delta, **fields)
            document["choices"][0]["index"] = draw(st.sampled_from([0, 0, 0, 1]))
            payloads.append(written(document, spaces=spaces, ascii_only=ascii_only))
    return payloads


@given(streams())
@example([written(chunk(text)) for text in ("Hi", " there", "\n", "!")])
def test_a_stream_adds_up_to_what_it_adds_up_to_without_forms(payloads):
    chunks, answer = decoded(payloads)
    documents = [msgspec.json.decode(payload) for payload in payloads]
    assert [item.data for item in chunks] == documents
    assert [item.raw for item in chunks] == payloads
    plain = Accumulator(documents)
    assert answer.completion() == plain.completion()
    assert Accumulator(answer.snapshot()).completion() == plain.completion()


def test_nearly_every_chunk_of_a_usual_stream_needs_no_decoding():
    texts = ["Hello", " there", ",", ' "you"', "\n"] * 20
    chunks, answer = decoded([written(chunk(text)) for text in ["", *texts]])
    assert [item.text is None for item in chunks] == [True, True] + [False] * 99
    assert answer.completion()["choices"][0]["message"]["content"] == "".join(texts)


def test_a_stream_whose_chunks_have_no_form_in_common_soon_looks_for_none(monkeypatch):
    made = []
    monkeypatch.setattr(wire, "cut", lambda payload, document: made.append(payload) or cut(payload, document))
    decoded([written(chunk(f"word {n}", created=n)) for n in range(160)])
    assert len(made) == wire.FEWEST + 160 // wire.USEFUL
