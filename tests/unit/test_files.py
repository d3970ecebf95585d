"""The rules of file tasks: what is refused, in which words, and what is let through."""

from __future__ import annotations

from typing import Any

import pytest

from deltabus import files
from deltabus.errors import InvalidRequest, Unsupported
from deltabus.files import Delete, Fetch, Get, Listing, Upload
from deltabus.provider import Capabilities

STRICT = Capabilities(files=True)
LOOSE = Capabilities(files=True, strict_ranges=False)

UPLOAD: dict[str, Any] = {"operation": "upload", "source": {"blob": "b1"}, "purpose": "user_data"}


def refused(request: dict[str, Any], capabilities: Capabilities = STRICT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        files.prepare(request, capabilities)
    return caught.value


def test_an_upload_is_divided_into_what_is_ours_and_what_is_the_providers() -> None:
    expires = {"anchor": "created_at", "seconds": 3600}
    request = {**UPLOAD, "filename": "a.pdf", "media_type": "application/pdf", "expires_after": expires, "new": 1}
    assert files.prepare(request, STRICT) == Upload(
        source={"blob": "b1"},
        name="a.pdf",
        media_type="application/pdf",
        body={"purpose": "user_data", "expires_after": expires, "new": 1},
    )


def test_null_means_not_set() -> None:
    request = {**UPLOAD, "filename": None, "media_type": None, "expires_after": None}
    assert files.prepare(request, STRICT) == Upload(source={"blob": "b1"}, body={"purpose": "user_data"})
    assert files.prepare({"operation": "list", "limit": None, "after": None}, STRICT) == Listing(body={})
    assert files.prepare({"operation": "content", "file_id": "f", "to": None}, STRICT) == Fetch(file_id="f", body={})


def test_the_other_operations_know_their_file() -> None:
    assert files.prepare({"operation": "get", "file_id": "file-1"}, STRICT) == Get(file_id="file-1", body={})
    assert files.prepare({"operation": "delete", "file_id": "file-1"}, STRICT) == Delete(file_id="file-1", body={})
    to = {"url": "s3://bucket/key"}
    request = {"operation": "content", "file_id": "file-1", "to": to}
    assert files.prepare(request, STRICT) == Fetch(file_id="file-1", body={}, to=to)
    page = {"purpose": "batch_output", "limit": 10_000, "order": "asc", "after": "file-1"}
    assert files.prepare({"operation": "list", **page}, STRICT) == Listing(body=page)


def test_the_request_is_not_changed() -> None:
    request = dict(UPLOAD)
    files.prepare(request, STRICT)
    assert request == UPLOAD


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "a second part named file": ({**UPLOAD, "file": "x"}, "request.file", "say in `source` where they are"),
    "no operation": ({}, "request.operation", "is required: one of upload, list, get, content, delete"),
    "unknown operation": ({"operation": "dowload"}, "request.operation", "not `dowload`"),
    "misspelt operation": ({"operation": "uplod"}, "request.operation", "did you mean `upload`?"),
    "operation of another type": ({"operation": 1}, "request.operation", "not a number"),
    "no source": ({"operation": "upload", "purpose": "vision"}, "request.source", "is required: where the bytes are"),
    "a source that is a text": ({**UPLOAD, "source": "report.pdf"}, "request.source", "not a string"),
    "no purpose": ({"operation": "upload", "source": {}}, "request.purpose", "is required"),
    "unknown purpose": ({**UPLOAD, "purpose": "fun"}, "request.purpose", "must be one of assistants, batch, evals"),
    "misspelt purpose": ({**UPLOAD, "purpose": "user-data"}, "request.purpose", "did you mean `user_data`?"),
    "a name with a folder": ({**UPLOAD, "filename": "a/b.pdf"}, "request.filename", "without a folder"),
    "a name with a backslash": ({**UPLOAD, "filename": "a\\b.pdf"}, "request.filename", "without a folder"),
    "a name that ends a header": ({**UPLOAD, "filename": "a\r\nX: y"}, "request.filename", "control characters"),
    "an empty name": ({**UPLOAD, "filename": " "}, "request.filename", "leave it out"),
    "a name that climbs": ({**UPLOAD, "filename": ".."}, "request.filename", "such as report.pdf"),
    "a long name": ({**UPLOAD, "filename": "ä" * 128}, "request.filename", "at most 255 bytes"),
    "no MIME type": ({**UPLOAD, "media_type": "pdf"}, "request.media_type", "such as application/pdf"),
    "an empty MIME type": ({**UPLOAD, "media_type": ""}, "request.media_type", "such as application/pdf"),
    "a MIME type that ends a header": ({**UPLOAD, "media_type": "a/b\r\nX: y"}, "request.media_type", "MIME type"),
    "a MIME type that ends all headers": (
        {**UPLOAD, "media_type": "a/b\r\n\r\n; c"},
        "request.media_type",
        "MIME type",
    ),
    "a MIME type's parameter that does": ({**UPLOAD, "media_type": "a/b; c\n"}, "request.media_type", "MIME type"),
    "expiry without a time": (
        {**UPLOAD, "expires_after": {"anchor": "created_at"}},
        "request.expires_after.seconds",
        "is required",
    ),
    "another anchor": (
        {**UPLOAD, "expires_after": {"anchor": "now", "seconds": 3600}},
        "request.expires_after.anchor",
        "must be one of created_at",
    ),
    "expiry as a number": ({**UPLOAD, "expires_after": 3600}, "request.expires_after", "must be an object such as"),
    "too short": (
        {**UPLOAD, "expires_after": {"anchor": "created_at", "seconds": 60}},
        "request.expires_after.seconds",
        "must be from 3600 (an hour) to 2592000",
    ),
    "no file": ({"operation": "get"}, "request.file_id", "is required: the id of a file"),
    "an empty file": ({"operation": "get", "file_id": ""}, "request.file_id", "must be the id of a file"),
    "a file as a number": ({"operation": "delete", "file_id": 7}, "request.file_id", "not a number"),
    "no page": ({"operation": "list", "limit": 0}, "request.limit", "must be from 1 to 10000"),
    "too large a page": ({"operation": "list", "limit": 10_001}, "request.limit", "must be from 1 to 10000"),
    "half a page": ({"operation": "list", "limit": 1.5}, "request.limit", "must be an integer"),
    "another order": ({"operation": "list", "order": "up"}, "request.order", "must be one of asc, desc"),
    "a cursor that leads elsewhere": ({"operation": "list", "after": "a&b=c"}, "request.after", "the last file"),
    "a target that is a text": ({"operation": "content", "file_id": "f", "to": "x"}, "request.to", "not a string"),
    "half a surrogate pair": ({**UPLOAD, "filename": "\ud800"}, "request", "valid Unicode"),
}


@pytest.mark.parametrize(("request_", "param", "says"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_field_and_with_the_fix(request_: dict[str, Any], param: str, says: str) -> None:
    error = refused(request_)
    assert error.param == param
    assert says in error.message


#: What would lead to another place than the file, were it put into a URL.
ESCAPES = (
    "..",
    ".",
    "../models",
    "file-1/content",
    "file-1\\content",
    "file-1?purpose=x",
    "file-1#x",
    "%2e%2e%2fmodels",
    "file-1\r\nHost: elsewhere",
    "file-1\x00",
    "file 1",
    "\u2024\u2024",
    "f" * 513,
)


@pytest.mark.parametrize("operation", ["get", "content", "delete"])
@pytest.mark.parametrize("file_id", ESCAPES)
def test_a_file_id_cannot_lead_elsewhere_whatever_the_provider_allows(operation: str, file_id: str) -> None:
    error = refused({"operation": operation, "file_id": file_id}, LOOSE)
    assert error.param == "request.file_id"
    assert "letters, digits" in error.message


@pytest.mark.parametrize("file_id", ["file-10", "assistant-a1B2", "0f1e-22", "bGl0ZWxsbTpt=", "a.b:c@d+e"])
def test_a_file_id_of_any_server_will_do(file_id: str) -> None:
    assert files.prepare({"operation": "get", "file_id": file_id}, STRICT) == Get(file_id=file_id, body={})


def test_a_server_with_words_of_its_own_gets_them() -> None:
    request = {**UPLOAD, "purpose": "ocr", "expires_after": {"anchor": "created_at", "seconds": 1}}
    assert files.prepare(request, LOOSE).body["purpose"] == "ocr"
    assert files.prepare({"operation": "list", "purpose": "ocr", "limit": 20_000}, LOOSE).body["limit"] == 20_000


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"purpose": ""}, "request.purpose"),
        ({"purpose": 1}, "request.purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 0}}, "request.expires_after.seconds"),
    ],
)
def test_what_no_server_can_mean_is_refused_for_all(change: dict[str, Any], param: str) -> None:
    assert refused({**UPLOAD, **change}, LOOSE).param == param


@pytest.mark.parametrize("operation", files.OPERATIONS)
def test_a_provider_without_files_says_so_before_anything_is_read(operation: str) -> None:
    with pytest.raises(Unsupported, match="this provider has no files") as caught:
        files.prepare({"operation": operation}, Capabilities(files=False))
    assert caught.value.param == "request.operation"


def test_errors_show_no_content() -> None:
    error = refused({**UPLOAD, "source": "my secret text", "purpose": "a secret purpose"})
    assert "secret" not in str(error)
