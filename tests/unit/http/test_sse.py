"""The SSE decoder keeps the HTML standard, forgives what servers get wrong, and does not care how bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltabus.http.sse import ERROR, MESSAGE, SSEDecoder
from deltabus.provider import PayloadTooLarge

Events = list[tuple[str, bytes]]


def decode(*pieces: bytes, limit: int = 10_000) -> Events:
    decoder = SSEDecoder(limit)
    events: Events = []
    for piece in pieces:
        events += decoder.feed(piece)
    return events + decoder.close()


def decode_every_way(body: bytes) -> Events:
    whole = decode(body)
    assert decode(*[body[place : place + 1] for place in range(len(body))]) == whole
    for place in range(len(body) + 1):
        assert decode(body[:place], body[place:]) == whole, f"cut at {place}"
        assert decode(body[:place], b"", body[place:]) == whole, f"cut at {place} with an empty read"
    return whole


def data(*payloads: bytes) -> Events:
    return [(MESSAGE, payload) for payload in payloads]


# The examples of https://html.spec.whatwg.org/multipage/server-sent-events.html


def test_data_lines_are_joined_with_line_feeds() -> None:
    assert decode_every_way(b"data: YHOO\ndata: +2\ndata: 10\n\n") == data(b"YHOO\n+2\n10")


def test_the_standards_second_example() -> None:
    body = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    assert decode_every_way(body) == data(b"first event", b"second event", b" third event")


def test_one_space_after_the_colon_is_optional() -> None:
    assert decode_every_way(b"data:test\n\ndata: test\n\n") == data(b"test", b"test")


# What differs between servers


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_kind_of_line_end_counts(end: bytes) -> None:
    body = b"event: x\ndata: 1\n\n: c\ndata: 2\ndata: 3\n\n\n\ndata: 4\n\n".replace(b"\n", end)
    assert decode_every_way(body) == [("x", b"1"), (MESSAGE, b"2\n3"), (MESSAGE, b"4")]


def test_line_ends_may_be_mixed() -> None:
    assert decode_every_way(b"data: 1\r\n\ndata: 2\n\r\ndata: 3\r\r\ndata: 4\r\n\r") == data(b"1", b"2", b"3", b"4")


def test_an_event_is_whole_at_the_carriage_return_that_ends_it() -> None:
    decoder = SSEDecoder(100)
    assert decoder.feed(b"data: 1\r\n\r") == data(b"1")
    assert decoder.feed(b"\ndata: 2\r\n\r\n") == data(b"2")


def test_a_byte_order_mark_is_stripped_once_and_only_at_the_start() -> None:
    bom = b"\xef\xbb\xbf"
    assert decode_every_way(bom + b"data: 1\n\n") == data(b"1")
    assert decode_every_way(bom + bom + b"data: 1\n\ndata: 2\n\n") == data(b"2")
    assert decode_every_way(b"data: 1\n\ndata: " + bom + b"\n\n") == data(b"1", bom)


def test_a_body_that_only_begins_like_a_byte_order_mark_is_no_event() -> None:
    assert decode_every_way(b"\xef\xbb") == []
    assert decode_every_way(b"\xefdata: 1\n\ndata: 2\n\n") == data(b"2")


def test_comments_ids_retries_and_unknown_fields_make_no_event() -> None:
    assert decode_every_way(b": ping\n\nid: 7\n\n\nretry: 100\n\nfoo: bar\n\nfoo\n\n:\n\n::\n\n") == []
    assert decode_every_way(b"id: 7\ndata: 1\nretry: 9\nfoo: bar\n: c\n\nid: 8\n\n\n") == data(b"1")


def test_an_event_without_data_is_none() -> None:
    assert decode_every_way(b"event: x\n\ndata: 1\n\n") == data(b"1")
    assert decode_every_way(b"data\n\ndata:\n\ndata: \n\ndata:\ndata\n\n") == []


def test_an_empty_line_of_data_among_others_counts() -> None:
    assert decode_every_way(b"data: 1\ndata\ndata: 2\n\n") == data(b"1\n\n2")


def test_the_type_of_an_event_ends_with_it() -> None:
    assert decode_every_way(b"event: x\ndata: 1\n\ndata: 2\n\nevent:\ndata: 3\n\n") == [("x", b"1"), *data(b"2", b"3")]


def test_field_names_are_taken_to_the_letter() -> None:
    assert decode_every_way(b" data: 1\n\nDATA: 2\n\ndata : 3\n\ndatax: 4\n\n") == []


def test_the_last_event_needs_no_blank_line_and_no_line_end() -> None:
    assert decode_every_way(b"data: 1\n\ndata: 2\n") == data(b"1", b"2")
    assert decode_every_way(b"data: 1\n\ndata: 2") == data(b"1", b"2")
    assert decode_every_way(b"data: 1\r\n\r\ndata: [DONE]") == data(b"1", b"[DONE]")


def test_a_field_called_error_is_an_event_of_type_error() -> None:
    assert decode_every_way(b"error: {}\n\ndata: 1\n\n") == [(ERROR, b"{}"), (MESSAGE, b"1")]
    assert decode_every_way(b"event: error\ndata: 1\n\n") == [(ERROR, b"1")]


def test_what_is_not_utf8_is_passed_on() -> None:
    assert decode_every_way(b"data: \xff\xfe\n\nevent: \xff\ndata: 1\n\n") == [(MESSAGE, b"\xff\xfe"), ("\ufffd", b"1")]


def test_separators_of_unicode_end_no_line() -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg".encode()
    assert decode_every_way(b"data: " + text + b"\n\n") == data(text)


# Bounds


def test_an_event_over_the_limit_is_refused_wherever_it_is_cut() -> None:
    body = b"data: " + b"x" * 2000 + b"\n\n"
    for size in (1, 7, 100, 999):
        with pytest.raises(PayloadTooLarge, match="1000 bytes"):
            decode(*[body[place : place + size] for place in range(0, len(body), size)], limit=1000)


def test_a_line_that_never_ends_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        decode(*[b": comment"] * 1000, limit=1000)


def test_events_below_the_limit_may_be_any_number() -> None:
    body = (b"data: " + b"x" * 900 + b"\n\n") * 50
    pieces = [body[place : place + 64] for place in range(0, len(body), 64)]
    assert len(decode(*pieces, limit=1000)) == 50


# Properties

LINES = st.lists(
    st.one_of(
        st.sampled_from([b"", b"", b"data: x", b"data:y", b"data", b": c", b"event: e", b"id: 1", b"error: e", b"foo"]),
        st.binary(max_size=6).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b"")),
    ),
    max_size=12,
)
ENDS = st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=12, max_size=12)


def by_the_standard(lines: list[bytes], tail: bytes) -> Events:
    """The standard's algorithm, a line at a time, plus the forgiven unterminated end and `error`."""
    events: Events = []
    kind, parts, failure = "", [], None
    for line in [*lines, tail, b""]:
        if not line:
            if failure is not None:
                events.append((ERROR, failure))
            elif any(parts):
                events.append((kind or MESSAGE, b"\n".join(parts)))
            kind, parts, failure = "", [], None
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            parts.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace")
        elif name == b"error":
            failure = value
    return events


@given(lines=LINES, ends=ENDS, tail=st.sampled_from([b"", b"data: z", b"data: [DONE]", b": c"]), cuts=st.data())
def test_any_lines_in_any_pieces_are_what_the_standard_says(
    lines: list[bytes], ends: list[bytes], tail: bytes, cuts: st.DataObject
) -> None:
    pairs = list(zip(lines, ends, strict=False))
    body = b"".join(line + end for line, end in pairs) + tail
    if body.startswith(b"\xef\xbb\xbf"):
        return
    # An empty line after a bare CR that ends in LF is that line's own CRLF.
    kept = [
        line
        for place, (line, end) in enumerate(pairs)
        if not (not line and end == b"\n" and place and pairs[place - 1][1] == b"\r")
    ]
    places = sorted(cuts.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    pieces = [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]
    assert decode(*pieces) == by_the_standard(kept, tail)


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_arbitrary_bytes_never_raise_and_cuts_never_matter(pieces: list[bytes]) -> None:
    assert decode(*pieces) == decode(b"".join(pieces))
