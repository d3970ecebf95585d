"""Whatever text stands where a URL should: it is one, or it is refused as an error of the task."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from deltabus.depot import content, web
from deltabus.errors import InvalidRequest, TaskError
from deltabus.fields import Field

PIECES = [*"http:s/[]@.?#%:0x7f1\\ -_~a,;=①\u3002\u00e9\u00ad\ud800", "http://", "https://", "[::1]", "127.1", "xn--"]

TEXTS = st.lists(st.sampled_from([*PIECES, "data:", ";base64", "base64,"]), max_size=12).map("".join)


def only_errors_of_ours(parse: Callable[..., Any], *arguments: Any) -> Any:
    with suppress(TaskError):
        return parse(*arguments)


@given(TEXTS)
@example("%①127.1~]t[@")
@example("xn--")
def test_a_text_is_a_url_or_refused(text):
    for prefix in ("", "http://"):
        url = only_errors_of_ours(web._parse, Field("url", prefix + text))
        if url is not None:
            assert url.raw_host
            assert url.scheme in {"http", "https"}
            assert [url.raw_user, url.raw_password] == [None, None]
            assert (url.name, url.host, web._host(url)) is not None


@given(TEXTS)
@example("https://:http://")
def test_a_redirect_leads_to_a_url_or_is_refused(text):
    only_errors_of_ours(web._next, URL("https://public.example/x"), text, Field("url", ""))


@given(TEXTS)
def test_a_data_url_is_one_or_refused(text):
    only_errors_of_ours(content.from_data_url, Field("url", f"data:{text}"), 100)


@pytest.mark.parametrize("text", ["http://x:99999/", "http://x:http/", "http://[::1", "http://", "http:///x", "x", "?"])
def test_what_is_no_url_is_said_to_be_none(text):
    with pytest.raises(InvalidRequest, match="URL"):
        web._parse(Field("url", text))


@pytest.mark.parametrize(
    "text", ["http://files.example/a%2Fb%20c?X-Signature=%2B%2f&x=a+b", "https://files.example:8443/%D1%84?a=%5B"]
)
def test_a_signed_url_is_sent_as_it_stands(text):
    assert str(web._parse(Field("url", text))) == text
