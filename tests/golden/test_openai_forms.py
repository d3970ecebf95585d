"""What the OpenAI plugin sends as a form, byte for byte."""

from __future__ import annotations

import asyncio

import pytest

from deltabus.provider import UploadRequest
from deltabus.testing import Reply, Request, Sample, ScriptedServer
from deltabus_openai import OpenAIProvider

FILE = {"id": "file-1", "object": "file", "bytes": 5, "filename": "a", "purpose": "user_data"}


def sent(monkeypatch: pytest.MonkeyPatch, request: UploadRequest, *, transcribe: bool = False) -> Request:
    monkeypatch.setattr("deltabus.http.multipart.secrets.token_hex", lambda _: "0123456789abcdef")

    async def main(base_url: str) -> None:
        made = OpenAIProvider("kit", {"base_url": base_url, "api_key": "sk-golden"})
        try:
            await (made.transcription(request) if transcribe else made.upload(request))
        finally:
            await made.aclose()

    with ScriptedServer(Reply.json({"text": "hi"} if transcribe else FILE)) as server:
        asyncio.run(main(server.url))
        return server.requests[0]


def test_an_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"purpose": "user_data", "expires_after": {"anchor": "created_at", "seconds": 3600}}
    content = Sample(b"a\r\nb\n", name='na\u00efve "\u65e5\u672c"\r\n.pdf', media_type="application/pdf")
    request = sent(monkeypatch, UploadRequest(body=body, content=content))
    lines = [
        "--deltabus-0123456789abcdef",
        'Content-Disposition: form-data; name="purpose"',
        "",
        "user_data",
        "--deltabus-0123456789abcdef",
        'Content-Disposition: form-data; name="expires_after[anchor]"',
        "",
        "created_at",
        "--deltabus-0123456789abcdef",
        'Content-Disposition: form-data; name="expires_after[seconds]"',
        "",
        "3600",
        "--deltabus-0123456789abcdef",
        'Content-Disposition: form-data; name="file"; filename="na\u00efve %22\u65e5\u672c%22%0D%0A.pdf"',
        "Content-Type: application/pdf",
        "",
        "a\r\nb\n",
        "--deltabus-0123456789abcdef--",
        "",
    ]
    assert request.body == "\r\n".join(lines).encode()
    assert (request.method, request.path) == ("POST", "/v1/files")
    assert request.headers["content-length"] == str(len(request.body))
    assert request.headers["content-type"] == "multipart/form-data; boundary=deltabus-0123456789abcdef"
    assert request.headers["authorization"] == "Bearer sk-golden"
    assert "transfer-encoding" not in request.headers


def test_an_empty_file_whose_type_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    content = Sample(b"", name="", media_type="")
    monkeypatch.setitem(FILE, "bytes", 0)
    request = sent(monkeypatch, UploadRequest(content=content))
    assert request.body == (
        b"--deltabus-0123456789abcdef\r\n"
        b'Content-Disposition: form-data; name="file"; filename="file"\r\n'
        b"Content-Type: application/octet-stream\r\n"
        b"\r\n"
        b"\r\n"
        b"--deltabus-0123456789abcdef--\r\n"
    )


def test_a_transcription(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"model": "whisper-1", "timestamp_granularities": ["word", "segment"], "temperature": 0, "stream": False}
    content = Sample(b"\x00\xff", name="a.wav", media_type="audio/wav")
    request = sent(monkeypatch, UploadRequest(body=body, content=content), transcribe=True)
    fields = [
        ("model", "whisper-1"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
        ("temperature", "0"),
        ("stream", "false"),
    ]
    head = "".join(
        f'--deltabus-0123456789abcdef\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields
    )
    assert request.path == "/v1/audio/transcriptions"
    assert request.body == head.encode() + (
        b'--deltabus-0123456789abcdef\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n\x00\xff\r\n--deltabus-0123456789abcdef--\r\n"
    )
