"""The rules of embeddings, models, speech, transcription and images."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from deltabus import calls
from deltabus.calls import Heard, Spoken
from deltabus.errors import InvalidRequest, TaskError, Unsupported
from deltabus.provider import Capabilities, Content

STRICT = Capabilities()
LOOSE = Capabilities(strict_ranges=False)

SPEECH: dict[str, Any] = {"model": "tts-1", "input": "hello", "voice": "alloy"}
HEARD: dict[str, Any] = {"model": "whisper-1", "source": {"blob": "b1"}}

Rule = Callable[[dict[str, Any], Capabilities], Any]


class Sound(Content):
    """So many bytes of some type."""

    def __init__(self, media_type: str, size: int = 1) -> None:
        self.name, self.media_type, self.size = "sound", media_type, size

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        yield b"x"


@pytest.mark.parametrize("input", ["a text", ["one", "two"], [1, 2, 3], [[1], [2, 3]]])
def test_what_is_embedded_has_any_of_the_documented_forms(input: Any) -> None:
    request = {"model": "m", "input": input, "dimensions": 8, "encoding_format": "float", "new": {"x": 1}}
    assert calls.embeddings(request, STRICT) == request


def test_null_means_not_set() -> None:
    assert calls.models({"model": None}, STRICT) == {}
    assert calls.speech({**SPEECH, "to": None, "speed": None}, STRICT) == Spoken(body=SPEECH)
    assert calls.images({"prompt": "a cat", "n": None}, STRICT) == {"prompt": "a cat"}


def test_what_is_ours_is_divided_from_what_is_the_providers() -> None:
    to = {"url": "s3://bucket/hello.mp3"}
    assert calls.speech({**SPEECH, "to": to, "speed": 2}, STRICT) == Spoken(body={**SPEECH, "speed": 2}, to=to)
    request = {**HEARD, "filename": "a.ogg", "media_type": "audio/ogg", "language": "en"}
    assert calls.transcription(request, STRICT) == Heard(
        source={"blob": "b1"}, name="a.ogg", media_type="audio/ogg", body={"model": "whisper-1", "language": "en"}
    )


BAD: dict[str, tuple[Rule, dict[str, Any], str, str]] = {
    "nothing to embed": (calls.embeddings, {"model": "m"}, "request.input", "is required: a text"),
    "an empty text": (calls.embeddings, {"input": ""}, "request.input", "must not be empty"),
    "no texts": (calls.embeddings, {"input": []}, "request.input", "must not be empty"),
    "an empty text among others": (calls.embeddings, {"input": ["a", ""]}, "request.input[1]", "must not be empty"),
    "a text among tokens": (calls.embeddings, {"input": [1, "a"]}, "request.input[0]", "not a number"),
    "no tokens": (calls.embeddings, {"input": [[]]}, "request.input[0]", "must be tokens"),
    "true as a token": (calls.embeddings, {"input": [[True]]}, "request.input[0]", "must be tokens"),
    "too many": (calls.embeddings, {"input": ["a"] * 2049}, "request.input", "at most 2048"),
    "another encoding": (
        calls.embeddings,
        {"input": "a", "encoding_format": "hex"},
        "request.encoding_format",
        "float",
    ),
    "no dimension": (calls.embeddings, {"input": "a", "dimensions": 0}, "request.dimensions", "at least 1"),
    "an empty model": (calls.models, {"model": ""}, "request.model", "must not be empty"),
    "a model as a number": (calls.images, {"model": 1, "prompt": "x"}, "request.model", "not a number"),
    "nothing to say": (calls.speech, {"voice": "alloy"}, "request.input", "is required: the text to be spoken"),
    "an empty saying": (calls.speech, {"input": "", "voice": "x"}, "request.input", "must not be empty"),
    "a long saying": (calls.speech, {**SPEECH, "input": "a" * 4097}, "request.input", "at most 4096"),
    "no voice": (calls.speech, {"input": "a"}, "request.voice", "such as alloy"),
    "an empty voice": (calls.speech, {"input": "a", "voice": ""}, "request.voice", "such as alloy"),
    "another format": (calls.speech, {**SPEECH, "response_format": "mp4"}, "request.response_format", "one of mp3"),
    "too fast": (calls.speech, {**SPEECH, "speed": 5}, "request.speed", "from 0.25 to 4"),
    "a target that is a text": (calls.speech, {**SPEECH, "to": "x"}, "request.to", "not a string"),
    "nothing to hear": (calls.transcription, {"model": "m"}, "request.source", "is required"),
    "too hot": (calls.transcription, {**HEARD, "temperature": 2}, "request.temperature", "from 0 to 1"),
    "a format that nobody knows": (
        calls.transcription,
        {**HEARD, "response_format": "xml"},
        "request.response_format",
        "one of json",
    ),
    "one granularity": (
        calls.transcription,
        {**HEARD, "timestamp_granularities": "word"},
        "request.timestamp_granularities",
        "must be an array",
    ),
    "a second part named file": (calls.transcription, {**HEARD, "file": "x"}, "request.file", "say in `source`"),
    "a type that is none": (calls.transcription, {**HEARD, "media_type": "mp3"}, "request.media_type", "MIME type"),
    "nothing to draw": (calls.images, {}, "request.prompt", "is required: the description of a picture"),
    "an empty description": (calls.images, {"prompt": ""}, "request.prompt", "must not be empty"),
    "too many pictures": (calls.images, {"prompt": "a", "n": 11}, "request.n", "from 1 to 10"),
    "a size as a number": (calls.images, {"prompt": "a", "size": 512}, "request.size", "must be a string"),
    "half a surrogate pair": (calls.images, {"prompt": "\ud800"}, "request", "valid Unicode"),
}


@pytest.mark.parametrize(("rule", "request_", "param", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_field_and_with_the_fix(
    rule: Rule, request_: dict[str, Any], param: str, says: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        rule(request_, STRICT)
    assert caught.value.param == param
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("rule", "request_", "param"),
    [
        (calls.speech, {**SPEECH, "stream_format": "sse"}, "request.stream_format"),
        (calls.transcription, {**HEARD, "stream": True}, "request.stream"),
        (calls.images, {"prompt": "a", "stream": True}, "request.stream"),
    ],
)
def test_an_answer_in_pieces_is_not_asked_for(rule: Rule, request_: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported, match="leave it out") as caught:
        rule(request_, LOOSE)
    assert caught.value.param == param


def test_a_server_with_limits_of_its_own_gets_what_was_asked_for() -> None:
    assert calls.embeddings({"input": ["a"] * 3000, "encoding_format": "int8"}, LOOSE)["encoding_format"] == "int8"
    assert calls.speech({**SPEECH, "input": "a" * 5000, "response_format": "ogg", "speed": 9}, LOOSE).body["speed"] == 9
    assert calls.images({"prompt": "a", "n": 50}, LOOSE)["n"] == 50


@pytest.mark.parametrize("media_type", ["audio/mpeg", "video/mp4", "Audio/WAV", "application/octet-stream"])
def test_what_may_be_sound_is_sent(media_type: str) -> None:
    calls.check_heard(Sound(media_type))


@pytest.mark.parametrize("media_type", ["text/html", "application/pdf", "image/png"])
def test_what_is_no_sound_is_not_sent(media_type: str) -> None:
    with pytest.raises(TaskError, match="not audio") as caught:
        calls.check_heard(Sound(media_type))
    assert caught.value.param == "request.source"
