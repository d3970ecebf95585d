"""ops/schema: made from today's types, accepting what deltabus writes and refusing what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deltabus import envelope, events, files, keys
from deltabus.depot.source import Destination, Source
from deltabus.errors import InvalidRequest
from deltabus.provider import Capabilities

GOLDEN = Path(__file__).parent
SCHEMA = GOLDEN.parents[1] / "ops" / "schema"

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
FULL: dict[str, Any] = {
    "v": 1,
    "provider": "openai",
    "request": REQUEST,
    "deadline": 1763777777.0,
    "timeout": 120,
    "retry": {"max": 2, "after_delta": "fail"},
    "reply_to": "svc-a:replies",
    "tenant": "acme",
    "headers": {"X-Team": "search"},
    "metadata": {"ticket": "42"},
    "trace": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}

BAD_ENVELOPES: dict[str, Any] = {
    "not an object": [],
    "no request": {"v": 1},
    "request is no object": {"request": "hi"},
    "another version": {"v": 2, "request": REQUEST},
    "version as a boolean": {"v": True, "request": REQUEST},
    "unknown field": {"request": REQUEST, "model": "m"},
    "deadline as a string": {"request": REQUEST, "deadline": "tomorrow"},
    "no time at all": {"request": REQUEST, "timeout": 0},
    "channel with a space": {"request": REQUEST, "reply_to": "a b"},
    "a channel of deltabus": {"request": REQUEST, "reply_to": "deltabus:{t}:events"},
    "a channel of RQ": {"request": REQUEST, "reply_to": "rq:pubsub:w"},
    "empty channel": {"request": REQUEST, "reply_to": ""},
    "fewer than no retries": {"request": REQUEST, "retry": {"max": -1}},
    "an unknown policy": {"request": REQUEST, "retry": {"after_delta": "hope"}},
    "a retry field that does not exist": {"request": REQUEST, "retry": {"tries": 1}},
    "credentials": {"request": REQUEST, "headers": {"authorization": "Bearer x"}},
    "credentials, shouted": {"request": REQUEST, "headers": {"X-API-KEY": "x"}},
    "header name with a space": {"request": REQUEST, "headers": {"X Team": "x"}},
    "header smuggling": {"request": REQUEST, "headers": {"X-Team": "a\r\nHost: b"}},
    "header that is no string": {"request": REQUEST, "headers": {"X-Team": 1}},
}

UPLOAD: dict[str, Any] = {"operation": "upload", "source": {"blob": "b-1"}, "purpose": "user_data"}
FILE_REQUESTS: dict[str, Any] = {
    "upload": UPLOAD,
    "upload with all there is": {
        **UPLOAD,
        "source": {"url": "https://x.example/a.pdf", "filename": "a.pdf", "size": 7, "sha256": "0" * 64},
        "filename": "b.pdf",
        "media_type": "application/pdf; charset=x",
        "expires_after": {"anchor": "created_at", "seconds": 3600},
        "anything": "else",
    },
    "list": {"operation": "list"},
    "list with all there is": {
        "operation": "list",
        "purpose": "batch_output",
        "limit": 10,
        "order": "asc",
        "after": "f-1",
    },
    "get": {"operation": "get", "file_id": "f-1"},
    "content": {"operation": "content", "file_id": "f-1", "to": None},
    "content into storage": {"operation": "content", "file_id": "f-1", "to": {"url": "s3://b/k"}},
    "delete": {"operation": "delete", "file_id": "f-1"},
}
BAD_FILE_REQUESTS: dict[str, Any] = {
    "no operation": {"file_id": "f-1"},
    "another operation": {"operation": "rename"},
    "no source": {"operation": "upload", "purpose": "batch"},
    "a source of two kinds": {**UPLOAD, "source": {"blob": "b-1", "url": "https://x.example"}},
    "a source of no kind": {**UPLOAD, "source": {"filename": "x"}},
    "a source with another key": {**UPLOAD, "source": {"blob": "b-1", "headers": {}}},
    "a blob with a slash": {**UPLOAD, "source": {"blob": "a/b"}},
    "a second part named file": {**UPLOAD, "file": "x"},
    "no purpose": {"operation": "upload", "source": {"blob": "b-1"}},
    "another purpose": {**UPLOAD, "purpose": "fun"},
    "a name with a folder": {**UPLOAD, "filename": "a/b"},
    "no MIME type": {**UPLOAD, "media_type": "pdf"},
    "too short an expiry": {**UPLOAD, "expires_after": {"anchor": "created_at", "seconds": 1}},
    "another anchor": {**UPLOAD, "expires_after": {"anchor": "now", "seconds": 3600}},
    "no page": {"operation": "list", "limit": 0},
    "another order": {"operation": "list", "order": "up"},
    "no file": {"operation": "get"},
    "a file that leads elsewhere": {"operation": "delete", "file_id": "../models"},
    "a target of two kinds": {"operation": "content", "file_id": "f-1", "to": {"blob": True, "path": "/x"}},
}

STARTED: dict[str, Any] = {"type": "started", "task": "t-1", "id": "1-0", "at": 1.5}
BAD_EVENTS: dict[str, Any] = {
    "unknown type": {**STARTED, "type": "begun"},
    "no task": {"type": "started", "id": "1-0", "at": 1.5},
    "task id with a slash": {**STARTED, "task": "a/b"},
    "no id": {"type": "started", "task": "t-1", "at": 1.5},
    "id as a number": {**STARTED, "id": 1.0},
    "attempt zero": {**STARTED, "id": "0-1"},
    "padded id": {**STARTED, "id": "01-0"},
    "time as a string": {**STARTED, "at": "now"},
    "delta without chunks": {"type": "delta", "task": "t-1", "id": "1-1"},
    "chunk that is no object": {"type": "delta", "task": "t-1", "id": "1-1", "chunks": ["hi"]},
    "terminal event without the seal": {"type": "cancelled", "task": "t-1", "id": "1-7", "at": 1.5},
    "completed without a result": {"type": "completed", "task": "t-1", "id": keys.SEAL, "at": 1.5},
    "failed without an error": {"type": "failed", "task": "t-1", "id": keys.SEAL, "at": 1.5},
    "unknown code": {"type": "failed", "task": "t-1", "id": keys.SEAL, "at": 1, "error": {"code": "x", "message": "y"}},
}


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((SCHEMA / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schemas_are_made_from_the_types_of_today():
    check = subprocess.run(
        [sys.executable, SCHEMA / "generate.py", "--check"], capture_output=True, text=True, check=False
    )

    assert check.returncode == 0, check.stdout + check.stderr


def test_every_event_that_is_written_is_valid():
    valid = validator("event.json")

    for line in (GOLDEN / "events.jsonl").read_bytes().splitlines():
        valid.validate(json.loads(line))


def test_fields_may_be_added_to_events():
    validator("event.json").validate({**STARTED, "region": "eu"})


@pytest.mark.parametrize("event", BAD_EVENTS.values(), ids=BAD_EVENTS)
def test_what_is_no_event_is_not_valid(event):
    assert not validator("event.json").is_valid(event)


@pytest.mark.parametrize("value", [FULL, {"request": REQUEST}, {"request": {}, "provider": None}])
def test_an_envelope_that_the_worker_takes_is_valid(value):
    envelope.parse(value)

    validator("envelope.json").validate(value)


@pytest.mark.parametrize("value", BAD_ENVELOPES.values(), ids=BAD_ENVELOPES)
def test_an_envelope_that_the_worker_refuses_is_not_valid(value):
    with pytest.raises(InvalidRequest):
        envelope.parse(value)

    assert not validator("envelope.json").is_valid(value)


def check_file_request(request: dict[str, Any]) -> None:
    """What the worker makes of it: the rules of the request, and of what it names."""
    match files.prepare(request, Capabilities(files=True)):
        case files.Upload(source=source):
            Source.read(source, "request.source", filename=None, media_type=None)
        case files.Fetch(to=to):
            Destination.read(to, "request.to")


@pytest.mark.parametrize("request_", FILE_REQUESTS.values(), ids=FILE_REQUESTS)
def test_a_file_request_that_the_worker_takes_is_valid(request_):
    check_file_request(request_)

    validator("file.json").validate(request_)


@pytest.mark.parametrize("request_", BAD_FILE_REQUESTS.values(), ids=BAD_FILE_REQUESTS)
def test_a_file_request_that_the_worker_refuses_is_not_valid(request_):
    with pytest.raises(InvalidRequest):
        check_file_request(request_)

    assert not validator("file.json").is_valid(request_)


@pytest.mark.parametrize("name", ["envelope.json", "event.json", "file.json"])
def test_every_reference_leads_somewhere(name):
    text = (SCHEMA / name).read_text(encoding="utf-8")

    assert set(re.findall(r'"\$ref": "#/\$defs/(\w+)"', text)) == set(json.loads(text)["$defs"])


def test_the_schema_knows_every_event_and_no_other():
    schema = json.loads((SCHEMA / "event.json").read_text(encoding="utf-8"))
    known = {
        schema["$defs"][branch["$ref"].rpartition("/")[2]]["properties"]["type"]["const"] for branch in schema["oneOf"]
    }

    assert known == {event.__struct_config__.tag for event in events.AnyEvent.__args__}
