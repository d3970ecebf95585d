"""Bytes as parts of a chat message, and where they go."""

from __future__ import annotations

import base64

import pytest

from deltabus.attachments import _with_parts
from deltabus.chat import parts
from deltabus.errors import InvalidRequest

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 8


@pytest.mark.parametrize(
    ("data", "claimed", "shown"),
    [
        (PNG, "application/octet-stream", "image/png"),
        (PNG, "image/jpeg", "image/png"),  # names lie
        (b"\xff\xd8\xff\xe0", "application/octet-stream", "image/jpeg"),
        (b"GIF89a...", "text/plain", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "application/octet-stream", "image/webp"),
        (b"<svg/>", "image/svg+xml", "image/svg+xml"),
    ],
)
def test_a_picture_is_a_data_url_of_the_type_that_its_bytes_show(data, claimed, shown):
    part = parts.image(data, claimed, param="p")
    assert part == {
        "type": "image_url",
        "image_url": {"url": f"data:{shown};base64,{base64.b64encode(data).decode()}"},
    }


def test_how_closely_a_picture_is_looked_at_goes_with_it():
    assert parts.image(PNG, "image/png", detail="low", param="p")["image_url"]["detail"] == "low"


@pytest.mark.parametrize("data", [b"%PDF-1.7", b"RIFF\x00\x00\x00\x00WAVEfmt "])
def test_what_is_no_picture_is_refused_by_name(data):
    with pytest.raises(InvalidRequest, match="not a picture but application/pdf") as caught:
        parts.image(data, "application/pdf", param="attachments[2]")
    assert caught.value.info.param == "attachments[2]"


@pytest.mark.parametrize(("media_type", "name"), [("audio/mpeg", "mp3"), ("Audio/X-WAV; rate=8000", "wav")])
def test_a_sound_has_the_apis_name_for_its_format(media_type, name):
    audio = {"data": base64.b64encode(b"la").decode(), "format": name}
    assert parts.audio(b"la", media_type, param="p") == {"type": "input_audio", "input_audio": audio}


def test_what_is_no_sound_is_refused_with_the_formats_that_there_are():
    with pytest.raises(InvalidRequest, match=r"not a sound but video/mp4; .*audio/mpeg"):
        parts.audio(b"", "video/mp4", param="p")


def test_any_file_keeps_its_name_and_type():
    assert parts.file(b"a,b", "text/csv", "table.csv") == {
        "type": "file",
        "file": {"filename": "table.csv", "file_data": "data:text/csv;base64,YSxi"},
    }


PART = {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [{"role": "user", "content": "look"}],
            [{"role": "user", "content": [PART, {"type": "text", "text": "look"}]}],
        ),
        (
            [
                {"role": "user", "content": "first"},
                {"role": "user", "content": [{"type": "text", "text": "b"}], "name": "x"},
            ],
            [
                {"role": "user", "content": "first"},
                {"role": "user", "name": "x", "content": [PART, {"type": "text", "text": "b"}]},
            ],
        ),
        (
            [{"role": "user", "content": "look"}, {"role": "assistant", "content": "yes?"}],
            [
                {"role": "user", "content": [PART, {"type": "text", "text": "look"}]},
                {"role": "assistant", "content": "yes?"},
            ],
        ),
        (
            [{"role": "system", "content": "be brief"}],
            [{"role": "system", "content": "be brief"}, {"role": "user", "content": [PART]}],
        ),
        ("not a list", "not a list"),
    ],
    ids=["text", "parts", "an answer after it", "nobody has said anything", "not messages"],
)
def test_attachments_stand_at_the_head_of_what_the_user_said_last(messages, expected):
    assert _with_parts(messages, [PART]) == expected
