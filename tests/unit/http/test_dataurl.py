"""Data URLs as clients write them."""

from __future__ import annotations

import base64

import pytest

from deltabus.http.dataurl import DataURL
from deltabus.provider import InvalidRequest


@pytest.mark.parametrize(
    ("url", "media_type", "data"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", "image/png", b"\x89PNG\r\n\x1a\n"),
        ("DATA:Image/PNG;BASE64,iVBORw0KGgo=", "image/png", b"\x89PNG\r\n\x1a\n"),
        ("data:text/plain;charset=utf-8;base64,SGk=", "text/plain", b"Hi"),
        ("data:text/plain;charset=utf-8,a%20b%2C", "text/plain", b"a b,"),
        ("data:,x", "text/plain", b"x"),
    ],
)
def test_a_data_url_has_a_type_and_bytes(url: str, media_type: str, data: bytes) -> None:
    read = DataURL.parse(url, param="p")
    assert read is not None
    assert read.media_type == media_type
    assert base64.b64decode(read.base64) == read.decode(param="p") == data


def test_other_urls_are_none() -> None:
    assert DataURL.parse("https://h.example/data:x,", param="p") is None


@pytest.mark.parametrize("url", ["data:", "data:image/png;base64", "data:image/png"])
def test_one_that_is_cut_off_is_named(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        DataURL.parse(url, param="request.x")
    assert caught.value.param == "request.x"


def test_what_is_not_base64_is_named() -> None:
    for data in ("#", "é"):
        read = DataURL.parse(f"data:;base64,{data}", param="p")
        assert read is not None
        with pytest.raises(InvalidRequest):
            read.decode(param="p")
