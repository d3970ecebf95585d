"""The words of the protocol, as they go over the wire: key names, and the JSON of each event."""

from __future__ import annotations

from pathlib import Path

from deltabus import events, keys
from deltabus.errors import ErrorInfo

CHUNK = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1763777777,
    "model": "gpt-4o",
    "choices": [{"index": 0, "delta": {"content": "naïve 日本 🙂\u2028\n"}, "finish_reason": None}],
}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
ERROR = ErrorInfo(
    code="rate_limited",
    message="slow down",
    retryable=True,
    status=429,
    provider="openai",
    param="request.model",
    request_id="req_1",
)

#: Each event with all of its fields, and with as few as it can have.
EVENTS: tuple[events.AnyEvent, ...] = (
    events.Started(task="t-1", id="1-0", at=1763777777.25, worker="host.1"),
    events.Started(task="t-1", id="2-0", at=1763777777.25),
    events.Delta(task="t-1", id="1-1", chunks=(CHUNK, CHUNK)),
    events.Snapshot(task="t-1", id="1-57", chunks=(CHUNK,)),
    events.Progress(task="t-1", id="1-2", at=1763777778.5, done=3, total=10, unit="items"),
    events.Progress(task="t-1", id="1-3", at=1763777778.5, done=4096),
    events.Retrying(task="t-1", id="1-4", at=1763777779.0, reason="rate limited", delay=2.5, error=ERROR),
    events.Retrying(task="t-1", id="1-5", at=1763777779.0, reason="the worker is shutting down"),
    events.Completed(task="t-1", id=keys.SEAL, at=1763777780.0, result=COMPLETION, execution="e1"),
    events.Completed(task="t-1", id=keys.SEAL, at=1763777780.0, result=None),
    events.Failed(task="t-1", id=keys.SEAL, at=1763777780.0, error=ERROR, partial=COMPLETION, execution="e1"),
    events.Failed(task="t-1", id=keys.SEAL, at=1763777780.0, error=ErrorInfo(code="internal", message="a bug")),
    events.Cancelled(task="t-1", id=keys.SEAL, at=1763777780.0, reason="the user left", execution="e1"),
    events.Cancelled(task="t-1", id=keys.SEAL, at=1763777780.0),
)


def test_events_are_written_as_they_always_were(golden):
    golden("events.jsonl", b"".join(events.encode(event) + b"\n" for event in EVENTS))


def test_events_written_once_are_read_forever():
    written = (Path(__file__).parent / "events.jsonl").read_bytes()

    assert tuple(events.decode(line) for line in written.split(b"\n") if line) == EVENTS


def test_chunks_go_out_as_the_bytes_that_came(golden):
    odd = b'{"id":"chatcmpl-1" , "choices":[], "unicode":"\\u00e9", "big":12345678901234567890.0}'

    golden("chunks.jsonl", events.encode_chunks("delta", "t-1", "1-1", [odd, b"{}"]) + b"\n")


def test_keys_have_the_names_they_always_had(golden):
    names = [
        keys.log("t-1"),
        keys.cancel("t-1"),
        keys.events("t-1"),
        keys.results("chat"),
        keys.CANCEL_CHANNEL,
        keys.SEAL,
        keys.EVENT_FIELD,
        str(keys.CANCEL_TTL),
        keys.TASK_ID.pattern,
        keys.blob("b-1"),
    ]

    golden("keys.txt", "".join(f"{name}\n" for name in names).encode())


def test_the_seal_is_the_largest_integer_that_every_language_holds():
    assert keys.SEAL.split("-") == [str(2**53 - 1), "0"]
