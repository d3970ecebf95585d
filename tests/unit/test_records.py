"""What RQ remembers of a job, read as what it is, however broken."""

from __future__ import annotations

import asyncio
import base64
import zlib
from contextlib import suppress

import msgspec
import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given
from hypothesis import strategies as st

from deltabus import failure
from deltabus.commit import GroupCommit
from deltabus.errors import BusError, TaskNotFound
from deltabus.events import Cancelled, Completed, Failed
from deltabus.records import Record, Records, RQKeys


def record(state, result=None, data=b""):
    return Record(task="t", state=state, queue="q", data=data, result_ttl=None, result=result, result_at=1.0)


def encoded(value):
    return base64.b64encode(msgspec.json.encode(value))


def test_an_ending_is_told_in_the_words_of_an_event():
    done = record("completed", {b"type": b"1", b"return_value": encoded({"a": 1})}).ending()
    assert done == Completed(task="t", id="9007199254740991-0", at=1.0, result={"a": 1})
    assert record("completed", {b"type": b"1"}).ending().result is None
    assert isinstance(record("cancelled").ending(), Cancelled)
    failed = record("failed").ending()
    assert isinstance(failed, Failed)
    assert failed.error.code == "internal"
    with pytest.raises(TaskNotFound, match="expired"):
        record("completed").ending()
    with pytest.raises(BusError, match="serializer"):
        record("completed", {b"return_value": base64.b64encode(b"\x80\x05K\x01.")}).ending()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("task t failed: quota_exhausted: pay first", "quota_exhausted", "pay first"),
        (
            "Traceback…\n  File x\ndeltabus.errors.TaskFailed: task t failed: not_found: no such model",
            "not_found",
            "no such model",
        ),
        ("Traceback…\nKeyError: 'x'\n", "internal", "KeyError: 'x'"),
        ("", "internal", "RQ does not say why"),
    ],
)
def test_a_failure_keeps_its_code_where_there_is_one(text, code, message):
    failure = record("failed", {b"exc_string": base64.b64encode(zlib.compress(text.encode()))}).ending()
    assert (failure.error.code, failure.error.message) == (code, message)


@given(st.binary(max_size=40))
def test_whatever_a_result_holds_it_is_an_event_or_one_error(noise):
    assert isinstance(record("failed", {b"exc_string": noise}).ending(), Failed)
    with suppress(BusError):
        record("completed", {b"return_value": noise}).ending()


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda tail: b"x\x9c" + tail)))
def test_whatever_a_payload_holds_it_has_a_channel_or_none(noise):
    assert record("queued", data=noise).reply_to is None


def test_the_channel_for_replies_is_found_in_plain_and_in_compressed_payloads():
    payload = b'["f", null, [{"request": {}, "reply_to": "here"}], {}]'
    assert record("queued", data=payload).reply_to == "here"
    assert record("queued", data=zlib.compress(payload)).reply_to == "here"
    assert record("queued", data=b'["f", null, [], {}]').reply_to is None
    bomb = zlib.compress(b"[" + b"0," * 40_000_000 + b"0]")
    assert record("queued", data=bomb).reply_to is None


def test_what_is_nested_without_end_is_no_payload_no_result_and_no_note():
    endless = b"[" * 100_000
    assert record("queued", data=endless).reply_to is None
    assert record("queued", data=zlib.compress(endless)).function is None
    with pytest.raises(BusError, match="is not JSON"):
        record("completed", {b"return_value": base64.b64encode(endless)}).ending()
    for note in (b'{"x":' + endless, b'{"execution":"\xff"}'):
        assert failure.decode(note, b"e") is None


def test_a_broken_hash_is_read_as_far_as_it_goes():
    async def main():
        redis = FakeAsyncRedis()
        commit = GroupCommit(redis, [])
        records = Records(commit, RQKeys("rq"))
        try:
            assert await records.read("t") is None
            await redis.hset("rq:job:t", mapping={"status": b"\xff", "origin": b"\xff", "result_ttl": "x"})
            assert await records.read("t") is None
            await redis.hset("rq:job:t", "status", "queued")
            found = await records.read("t")
            assert found is not None
            assert (found.state, found.data, found.result_ttl, found.over) == ("queued", b"", None, False)
            await redis.hset("rq:job:t", "result_ttl", "9" * 5000)
            assert (await records.read("t")).result_ttl is None
            await redis.hset("rq:job:t", "result_ttl", "-1")
            assert (await records.read("t")).result_ttl == -1
        finally:
            await commit.aclose()
            await redis.aclose()

    asyncio.run(main())
