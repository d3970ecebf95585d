"""A form is exactly as long as it says, and is read back as it was meant by a parser that is not ours."""

from __future__ import annotations

import asyncio
import email
import email.policy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltabus.http import Form
from deltabus.http.config import Timeouts
from deltabus.http.multipart import escaped
from deltabus.http.watchdog import Watchdog
from deltabus.provider import InvalidRequest
from deltabus.testing import Sample


def written(form: Form, **part: int) -> tuple[bytes, int]:
    async def main() -> tuple[bytes, int]:
        body = form.body(**part)
        body.watchdog = Watchdog(Timeouts())
        data = b"".join([bytes(piece) async for piece in body])
        await body.aclose()
        assert body.complete
        return data, body.size

    return asyncio.run(main())


def parsed(form: Form, data: bytes) -> list[Any]:
    head = f"MIME-Version: 1.0\r\nContent-Type: {form.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + data, policy=email.policy.HTTP)
    return list(message.iter_parts())


@given(data=st.binary(max_size=300), name=st.text(max_size=20), value=st.text(max_size=20))
def test_any_bytes_any_name_and_any_value_fit_in(data: bytes, name: str, value: str) -> None:
    form = Form({"field": value}, "file", Sample(data, name=name))
    body, size = written(form)
    assert len(body) == size
    assert body.count(form.headers["Content-Type"].partition("boundary=")[2].encode()) == 3
    assert body.split(b"\r\n\r\n", 2)[2].rpartition(b"\r\n--")[0] == data
    head = body.split(b"\r\n\r\n", 2)[1].rpartition(b"\r\n--")[2]
    assert head.count(b'"') == 4


def test_a_parser_that_is_not_ours_reads_it_back() -> None:
    form = Form({"purpose": "batch"}, "file", Sample(b"one\r\n\r\ntwo", name="a b.txt", media_type="text/plain"))
    field, file = parsed(form, written(form)[0])
    assert field.get_param("name", header="content-disposition") == "purpose"
    assert field.get_payload() == "batch"
    assert (file.get_filename(), file.get_content_type()) == ("a b.txt", "text/plain")
    assert file.get_payload(decode=True) == b"one\r\n\r\ntwo"


@pytest.mark.parametrize(("start", "length"), [(0, 10), (5, 5), (1_500_000, 1_000_000), (2_999_999, 1)])
def test_a_part_of_the_content_is_exactly_that_part(start: int, length: int) -> None:
    sample = Sample(3_000_000)
    whole, _ = written(Form({}, "data", sample, boundary="b"))
    part, size = written(Form({}, "data", sample, boundary="b"), start=start, length=length)
    head = whole.index(b"\r\n\r\n") + 4
    assert part[head : -len(b"\r\n--b--\r\n")] == whole[head + start : head + start + length]
    assert len(part) == size
    assert sample.open == 0


def test_names_are_escaped_as_browsers_do() -> None:
    assert escaped('a"b\r\nc\\d\u00ef\x00') == "a%22b%0D%0Ac\\d\u00ef%00"


@pytest.mark.parametrize(
    "media_type", ["text", "text/plain\r\nX: 1", "text/plain\r\n\r\n; x", "a/b; c\n", "/", "text/pl\u00e4in"]
)
def test_what_is_no_media_type_is_refused(media_type: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Form({}, "file", Sample(media_type=media_type))
    assert caught.value.param == "media_type"
