"""The API server keeps what it is given, speaks the dialect it is told to, and fails as it is told to."""

from __future__ import annotations

import hashlib
import socket

import httpx
import pytest

from deltabus.testing import LOCALAI, NO_FILES, ApiServer, Dialect, Fault
from deltabus.testing.api import server as server_module

KEY = "key-0123456789"


@pytest.fixture
def client():
    with httpx.Client(timeout=60) as made:
        yield made


def upload(client, server, data=b"hello", filename="a.txt", **fields):
    return client.post(
        f"{server.url}/files",
        data={"purpose": "user_data", **fields},
        files={"file": (filename, data, "text/plain")},
    )


def test_a_file_is_kept_listed_read_and_deleted(client):
    with ApiServer() as server:
        made = upload(client, server, b"hello\r\n").json()
        assert made["bytes"] == 7
        [file] = server.files
        assert (file.data, file.media_type, file.purpose) == (b"hello\r\n", "text/plain", "user_data")
        assert file.sha256 == hashlib.sha256(b"hello\r\n").hexdigest()
        assert client.get(f"{server.url}/files").json()["data"] == [made]
        assert client.get(f"{server.url}/files/{made['id']}").json() == made
        assert client.get(f"{server.url}/files/{made['id']}/content").content == b"hello\r\n"
        assert server.left == [made["id"]]
        assert client.delete(f"{server.url}/files/{made['id']}").json()["deleted"] is True
        assert server.left == []
        assert client.get(f"{server.url}/files/{made['id']}").status_code == 404
        assert server.operations()[0] == "POST /files"
        assert server.requests[0].body == {"purpose": "user_data"}


def test_a_list_has_pages(client):
    with ApiServer() as server:
        ids = [server.put(b"x", f"{number}.txt").id for number in range(5)]
        page = client.get(f"{server.url}/files", params={"limit": 2, "order": "asc"}).json()
        assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:2], True)
        page = client.get(f"{server.url}/files", params={"order": "asc", "after": ids[2]}).json()
        assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[3:], False)


def test_an_upload_in_parts_becomes_a_file_and_a_cancelled_one_nothing(client):
    with ApiServer() as server:
        begin = {"filename": "a.bin", "purpose": "user_data", "bytes": 6, "mime_type": "application/octet-stream"}
        first, second = (client.post(f"{server.url}/uploads", json=begin).json()["id"] for _ in range(2))
        assert set(server.left) == {first, second}
        parts = [
            client.post(f"{server.url}/uploads/{first}/parts", files={"data": data}).json()["id"]
            for data in (b"def", b"abc")
        ]
        done = client.post(f"{server.url}/uploads/{first}/complete", json={"part_ids": parts[::-1]}).json()
        assert done["file"]["bytes"] == 6
        assert server.files[0].data == b"abcdef"
        assert client.post(f"{server.url}/uploads/{second}/cancel").json()["status"] == "cancelled"
        assert server.left == [done["file"]["id"]]


def test_localai_has_text_dates_capital_keys_plain_errors_and_unique_names(client):
    with ApiServer(LOCALAI) as server:
        assert client.get(f"{server.url}/files").json() == {"Object": "list", "Data": None}
        made = upload(client, server).json()
        assert isinstance(made["created_at"], str)
        assert "status" not in made
        again = upload(client, server)
        assert (again.status_code, again.text) == (400, "File already exists")
        gone = client.get(f"{server.url}/files/file-99")
        assert (gone.status_code, gone.text) == (500, "unable to find file id file-99")
        assert client.delete(f"{server.url}/files/{made['id']}").json() == {
            "Id": made["id"],
            "Object": "file",
            "Deleted": True,
        }
        assert client.post(f"{server.url}/uploads", json={}).status_code == 404


def test_a_server_without_files_knows_no_path_of_theirs(client):
    with ApiServer(NO_FILES) as server:
        assert upload(client, server).status_code == 404
        assert server.left == []


def test_a_chat_says_which_bytes_it_was_shown(client):
    with ApiServer() as server:
        file = server.put(b"picture", "p.jpg")
        parts = [
            {"type": "text", "text": "What is it?"},
            {"type": "file", "file": {"file_id": file.id}},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        ]
        body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
        said = client.post(f"{server.url}/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        assert said.split("\n") == [
            "text: What is it?",
            f"file: p.jpg (7 bytes, sha256 {file.sha256})",
            f"image: image/png (2 bytes, sha256 {hashlib.sha256(b'hi').hexdigest()})",
        ]
        streamed = client.post(f"{server.url}/chat/completions", json={**body, "stream": True}).text
        assert streamed.endswith("data: [DONE]\n\n")
        parts[1]["file"]["file_id"] = "file-99"
        assert client.post(f"{server.url}/chat/completions", json=body).status_code == 404
    with ApiServer(Dialect(file_parts=False)) as server:
        assert client.post(f"{server.url}/chat/completions", json=body).status_code == 400


def test_what_is_spoken_is_heard_again(client):
    with ApiServer() as server:
        body = {"model": "tts-1", "input": "good morning", "voice": "alloy"}
        audio = client.post(f"{server.url}/audio/speech", json=body)
        assert audio.headers["content-type"] == "audio/mpeg"
        heard = client.post(
            f"{server.url}/audio/transcriptions",
            data={"model": "whisper-1", "response_format": "json"},
            files={"file": ("a.mp3", audio.content)},
        )
        assert heard.json() == {"text": "good morning"}
        assert server.left == []


def test_vectors_and_pictures_follow_from_what_was_asked(client):
    with ApiServer() as server:
        data = client.post(f"{server.url}/embeddings", json={"model": "e", "input": ["a", "b", "a"]}).json()["data"]
        assert data[0]["embedding"] == data[2]["embedding"] != data[1]["embedding"]
        made = client.post(f"{server.url}/images/generations", json={"prompt": "a dot"}).json()["data"][0]
        assert client.get(made["url"]).content.startswith(b"\x89PNG")


def test_faults_strike_the_requests_they_are_for_and_no_others(client):
    with ApiServer(api_key=KEY) as server:
        assert client.get(f"{server.url}/files").status_code == 401
        client.headers["Authorization"] = f"Bearer {KEY}"
        server.fault(Fault.rate_limit(3), on="POST /files")
        assert client.get(f"{server.url}/files").status_code == 200
        refused = upload(client, server)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
        server.fault(Fault.cut(after=1000), on="POST /files")
        with pytest.raises(httpx.TransportError):
            upload(client, server, b"x" * 10_000_000)
        assert server.left == []
        server.fault(Fault.miscount(2), on="POST /files")
        assert upload(client, server).json()["bytes"] == 7
        assert upload(client, server).json()["bytes"] == 5
        server.fault(Fault.cut_answer(2), on="GET /files/*/content")
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{server.url}/files/{server.files[0].id}/content")


def test_a_client_that_goes_is_seen(client):
    head = b"POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n"
    for fault in (Fault.stall(after=10), Fault.silent()):
        with ApiServer() as server:
            server.fault(fault, on="POST /files")
            with socket.create_connection(("127.0.0.1", server.port)) as raw:
                raw.sendall(head + b"x" * 20)
                server.received(1, on="POST /files").wait()
                assert not server.requests[0].lost.is_set
            server.requests[0].lost.wait()


@pytest.mark.parametrize("fault", [Fault.stall(after=10), Fault.silent()], ids=["stall", "silent"])
def test_the_server_ends_though_a_client_stays(fault, monkeypatch):
    """At its end, and does not only stop being waited for."""
    monkeypatch.setattr(server_module, "PATIENCE", 20.0)
    with socket.socket() as raw, ApiServer() as server:
        server.fault(fault, on="POST /files")
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(b"POST /v1/files HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + b"x" * 20)
        server.received(1, on="POST /files").wait()
    assert server.requests[0].lost.is_set
