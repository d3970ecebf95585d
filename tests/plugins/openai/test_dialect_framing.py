"""What stands around and between the chunks of servers that call themselves compatible, however it is cut.

The numbers are the rows of the survey on which the plugin is built.
"""

from __future__ import annotations

import json

import pytest
from dialectwords import DONE, HELLO, STOP, TWO, Read, call, calls, chunk, sse, text


def test_1_comments_are_not_progress(every_way: Read) -> None:
    comment = b": OPENROUTER PROCESSING\n\n"
    outcome = every_way(comment * 3 + sse(text("Hello")) + comment + sse(STOP) + comment + DONE)
    assert outcome.text == "Hello"
    assert len(outcome.chunks) == 2


def test_4_blank_lines_and_keep_alives_come_before_the_answer(every_way: Read) -> None:
    completion = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
    assert every_way(b"\n\n\r\n \n" + json.dumps(completion, indent=1).encode() + b"\n").text == "Hi"
    assert every_way(b"\n: keep-alive\n\n\n\n: keep-alive\n\n" + HELLO).text == "Hello"


def test_12_null_is_not_text_and_the_end_needs_no_blank_line(every_way: Read) -> None:
    outcome = every_way(sse(chunk({"role": "assistant", "content": None}), text("Hello")) + b"data: [DONE]")
    assert outcome.code == "ok"
    assert outcome.text == "Hello"


def test_12_a_last_chunk_needs_no_blank_line(every_way: Read) -> None:
    assert every_way(sse(text("Hello"), STOP).rstrip()).text == "Hello"
    assert every_way(sse(text("Hello"), STOP)[:-1]).text == "Hello"


@pytest.mark.parametrize("between", [b"", b" ", b"\ndata: ", b"\ndata:", b"data: ", b"\x1e"])
def test_13_two_documents_in_one_event_are_two_chunks(every_way: Read, between: bytes) -> None:
    first, second = json.dumps(text("Hel")).encode(), json.dumps(text("lo")).encode()
    outcome = every_way(b"data: " + first + between + second + b"\n\n" + sse(STOP) + DONE)
    assert outcome.code == "ok"
    assert outcome.text == "Hello"
    assert len(outcome.chunks) == 3


def test_13_a_server_that_forgets_blank_lines_is_understood(every_way: Read) -> None:
    assert every_way(HELLO.replace(b"\n\n", b"\n")).text == "Hello"


def test_29_either_end_is_enough(every_way: Read) -> None:
    assert every_way(sse(text("Hello")) + DONE).text == "Hello"
    assert every_way(sse(text("Hello"), STOP)).text == "Hello"


def test_29_a_usage_chunk_follows_the_end(every_way: Read) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    outcome = every_way(sse(text("Hello"), STOP, chunk(usage=usage) | {"choices": []}) + DONE)
    assert outcome.completion["usage"] == usage


def test_29_what_follows_the_end_does_not_count(every_way: Read) -> None:
    assert every_way(HELLO + sse({"error": {"message": "late"}}) + b"<html>").text == "Hello"


def test_30_the_space_after_the_colon_is_optional(every_way: Read) -> None:
    outcome = every_way(HELLO.replace(b"data: ", b"data:"))
    assert outcome == every_way(HELLO)


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"])
def test_31_lines_end_in_three_ways(every_way: Read, end: bytes) -> None:
    body = b": ping - 2026-10-18 12:00:00\n\n" + HELLO
    assert every_way(body.replace(b"\n", end)).chunks == every_way(HELLO).chunks


def test_32_a_byte_order_mark_is_stripped(every_way: Read) -> None:
    assert every_way(b"\xef\xbb\xbf" + HELLO) == every_way(HELLO)
    completion = json.dumps({"choices": [{"message": {"content": "Hi"}}]}).encode()
    assert every_way(b"\xef\xbb\xbf" + completion).text == "Hi"
    assert every_way(b"\xef\xbb\xbf\n" + completion).text == "Hi"


def test_33_the_body_says_what_it_is(every_way: Read) -> None:
    completion = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}}]}
    assert json.loads(every_way(json.dumps(completion).encode()).completions[0]) == completion
    assert every_way(HELLO).completions == ()


def test_33_a_whole_completion_in_one_event_is_a_chunk_with_all_of_it(every_way: Read) -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "tool_calls": [{"id": "a", "type": "function"} | call("now", "{}")],
    }
    completion = {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    outcome = every_way(sse(completion) + DONE)
    [data] = outcome.data
    assert data["object"] == "chat.completion.chunk"
    assert "message" not in data["choices"][0]
    assert outcome.text == "Hi"
    assert calls(outcome) == [TWO[0]]


def test_33_a_line_of_json_for_each_chunk_is_understood(every_way: Read) -> None:
    body = b"\n".join(json.dumps(part).encode() for part in (text("Hel"), text("lo"), STOP))
    assert every_way(body).text == "Hello"


def test_33_a_web_page_is_neither(every_way: Read) -> None:
    for page in (b"<!DOCTYPE html><html>", b"\n <html><body>Sign in</body></html>"):
        outcome = every_way(page)
        assert outcome.code == "provider_protocol"
        assert "base_url" in outcome.error[1]


def test_34_line_separators_of_unicode_are_text(every_way: Read) -> None:
    content = "a\u2028b\u2029c\u0085d\x0be\x0cf \U0001f600 \u00e9"
    body = b"data: " + json.dumps(text(content), ensure_ascii=False).encode() + b"\n\n" + sse(STOP)
    outcome = every_way(body)
    assert outcome.text == content
    assert outcome.chunks[0] == json.dumps(text(content), ensure_ascii=False).encode()


@pytest.mark.parametrize("heartbeat", [b"data:\n\n", b"data: \n\n", b"data\n\n", b"data:\ndata:\n\n", b"data:  \n\n"])
def test_35_an_event_of_empty_data_is_a_heartbeat(every_way: Read, heartbeat: bytes) -> None:
    outcome = every_way(heartbeat + sse(text("Hello")) + heartbeat + sse(STOP) + heartbeat + DONE)
    assert outcome == every_way(sse(text("Hello"), STOP) + DONE)


@pytest.mark.parametrize("ping", [b'event: ping\ndata: {"type": "ping"}\n\n', b"data: {}\n\n", b"data: null\n\n"])
def test_35_a_ping_in_json_is_one_too(every_way: Read, ping: bytes) -> None:
    assert every_way(ping + sse(text("Hello")) + ping + sse(STOP)) == every_way(sse(text("Hello"), STOP))
