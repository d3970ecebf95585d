"""What LiteLLM's proxy sent, recorded by `make peers`: a body that nobody here made up, however it is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltabus.http import errors
from deltabus.provider import (
    Authentication,
    Chunk,
    Completion,
    InvalidRequest,
    ProviderUnavailable,
    RateLimited,
    TaskError,
)
from deltabus_openai.wire import AnswerDecoder

BODIES = Path(__file__).parent / "litellm"
TEXT = "Hello from a server that nobody here wrote: naïve, 日本語, 🙂."

#: Status, and what it is to the bus.
REFUSALS: dict[str, tuple[int, type[TaskError]]] = {
    "unknown-model.json": (400, InvalidRequest),
    "wrong-key.json": (400, Authentication),
    "rate-limited.json": (429, RateLimited),
    "broken.json": (500, ProviderUnavailable),
}


def decode(*reads: bytes) -> tuple[list[Any], TaskError | None]:
    """What comes out, and the error that ends it."""
    decoder, items = AnswerDecoder(1 << 20), []
    try:
        for data in reads:
            items += decoder.feed(data)
        items += decoder.finish()
    except TaskError as error:
        return [item.data for item in items], error
    return [item.data for item in items], None


@pytest.mark.parametrize("name", ["text.sse", "tools.sse", "cut-off.sse", "text.json", "tools.json"])
def test_an_answer_is_the_same_however_it_is_cut(name):
    body = (BODIES / name).read_bytes()
    items, error = decode(body)

    assert items
    for cut in range(1, len(body)):
        again, same_error = decode(body[:cut], body[cut:])
        assert again == items, cut
        assert str(same_error) == str(error), cut


def test_chunks_are_passed_on_as_they_came():
    body = (BODIES / "text.sse").read_bytes()
    decoder = AnswerDecoder(1 << 20)
    chunks = [item for item in (*decoder.feed(body), *decoder.finish()) if isinstance(item, Chunk)]

    sent = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line not in {b"", b"data: [DONE]"}]
    assert [chunk.raw for chunk in chunks] == sent
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.data["choices"])
    assert text == TEXT


def test_an_answer_in_one_piece_is_the_servers_own_object():
    body = (BODIES / "tools.json").read_bytes()
    decoder = AnswerDecoder(1 << 20)
    (completion,) = [*decoder.feed(body), *decoder.finish()]

    assert isinstance(completion, Completion)
    assert completion.data == json.loads(body)


def test_an_error_in_the_middle_of_a_stream_comes_after_what_was_said():
    items, error = decode((BODIES / "cut-off.sse").read_bytes())

    assert [item["choices"][0]["delta"]["content"] for item in items] == ["Two ", "words"]
    assert isinstance(error, ProviderUnavailable)
    assert "scripted failure" in error.message


@pytest.mark.parametrize("name", REFUSALS)
def test_each_refusal_has_its_class(name):
    status, kind = REFUSALS[name]
    error = errors.from_answer(status, {}, (BODIES / name).read_bytes())

    assert type(error) is kind
    assert error.status == status
    assert error.message
