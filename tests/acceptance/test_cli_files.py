"""`deltabus file`, `embeddings`, `models`, `speech`, …: real processes, and a server that keeps files."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from processes import DELTABUS, PATIENCE, Background, deltabus, environ
from redis import Redis

from deltabus.cli import exits
from deltabus.embedded import EmbeddedRedis
from deltabus.testing import Reply, ScriptedServer
from deltabus.testing.api import ApiServer, Fault

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]

KEY = "sk-files-0123456789"
DATA = random.Random(7).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """The provider."""
    with ApiServer(api_key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the worker may read."""
    return tmp_path_factory.mktemp("theirs")


@pytest.fixture(scope="module")
def url(server: ApiServer, folder: Path) -> Iterator[str]:
    """A Redis and a worker on it that all tests of this module share."""
    variables = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": server.url,
        "DELTABUS_DRAIN_TIMEOUT": "0",
        "DELTABUS_RETRY_DELAY": "0.01",
        "DELTABUS_FILE_ROOTS": str(folder),
        "DELTABUS_URL_HOSTS": "127.0.0.1",
    }
    with EmbeddedRedis() as redis, Background([*DELTABUS, "worker"], environ=environ(redis.url, **variables)) as worker:
        worker.wait_for("worker started")
        yield redis.url


@pytest.fixture(autouse=True)
def nothing_left(server: ApiServer, url: str) -> Iterator[None]:
    """Each test begins without files, and ends without blobs."""
    yield
    server.mend()
    for file_id in server.left:
        httpx.delete(f"{server.url}/files/{file_id}", headers={"Authorization": f"Bearer {KEY}"})
    with Redis.from_url(url) as redis:
        assert redis.keys("deltabus:blob:*") == []


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    """Run a command to its end."""

    def run(*words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return deltabus(*words, folder=tmp_path, environ=environ(url), input=input)

    return run


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(DATA)
    return path


def answer(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == exits.DONE, done.stderr.decode()
    return done.stdout.decode()


def error(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """The one line on stderr."""
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    assert said.count("\n") == 1, said
    return said


def test_a_file_goes_up_and_comes_back_the_same(run: Run, server: ApiServer, report: Path, tmp_path: Path) -> None:
    done = run("file", "upload", "report.pdf", "--purpose", "user_data")
    file_id = answer(done).strip()
    assert "report.pdf, 3,000,000 bytes, user_data" in done.stderr.decode()
    (stored,) = server.files
    assert (stored.id, stored.sha256, stored.size) == (file_id, SHA256, len(DATA))
    assert (stored.filename, stored.media_type) == ("report.pdf", "application/pdf")

    listed = answer(run("file", "list"))
    assert re.search(rf"^{file_id} +3,000,000 +user_data +20\d\d-\d\d-\d\dT[\d:]+Z +report.pdf$", listed, re.MULTILINE)
    assert json.loads(answer(run("file", "get", file_id)))["bytes"] == len(DATA)

    assert answer(run("file", "content", file_id, "-o", "back.pdf")) == ""
    assert (tmp_path / "back.pdf").read_bytes() == DATA
    assert run("file", "content", file_id).stdout == DATA
    (tmp_path / "folder").mkdir()
    answer(run("file", "content", file_id, "-o", "folder"))
    assert [path.read_bytes() for path in (tmp_path / "folder").iterdir()] == [DATA]

    assert answer(run("file", "delete", file_id)) == f"{file_id} deleted\n"
    assert server.left == []
    assert "not_found" in error(run("file", "get", file_id), exits.FAILED)


def test_json_is_the_providers_object(run: Run, server: ApiServer, report: Path) -> None:
    made = json.loads(answer(run("file", "upload", "report.pdf", "--expires-after", "12h", "--json")))
    assert made["expires_at"] - made["created_at"] == 12 * 3600
    assert json.loads(answer(run("file", "get", made["id"], "--json"))) == made
    assert [json.loads(line) for line in answer(run("file", "list", "--json")).splitlines()] == [made]
    kept = json.loads(answer(run("file", "content", made["id"], "-o", "x", "--json")))
    assert kept == {
        "object": "stored",
        "path": "x",
        "bytes": len(DATA),
        "media_type": "application/pdf",
        "sha256": SHA256,
    }
    assert json.loads(answer(run("file", "delete", made["id"], "--json")))["deleted"] is True


def test_a_file_comes_from_wherever_it_is(run: Run, server: ApiServer, folder: Path) -> None:
    (folder / "theirs.txt").write_bytes(b"on the worker's side")
    answer(run("file", "upload", "-", "--filename", "notes.txt", input=b"from stdin"))
    answer(run("file", "upload", "--path", str(folder / "theirs.txt")))
    ours, theirs = server.files
    assert (ours.data, ours.filename, ours.media_type) == (b"from stdin", "notes.txt", "text/plain")
    assert (theirs.data, theirs.filename) == (b"on the worker's side", "theirs.txt")


def test_the_worker_fetches_a_url_where_its_host_is_allowed(run: Run, server: ApiServer) -> None:
    page = Reply(headers={"Content-Type": "text/markdown"}, body=[b"from ", b"the web"])
    with ScriptedServer(page) as web:
        answer(run("file", "upload", "--url", f"{web.url}/notes.md"))
    (stored,) = server.files
    assert (stored.data, stored.filename, stored.media_type) == (b"from the web", "notes.md", "text/markdown")


def test_a_reader_that_leaves_ends_the_download_quietly(server: ApiServer, url: str) -> None:
    stored = server.put(DATA, "large.bin")
    words = f"{' '.join(DELTABUS)} file content {stored.id} | head -c 3 | wc -c; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", words], env=environ(url), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (exits.PIPE, "3", "")


def test_a_list_goes_on_page_after_page(run: Run, server: ApiServer) -> None:
    ids = [server.put(b"x", f"{n}.txt").id for n in range(30)]
    shown = answer(done := run("file", "list", "--order", "asc")).splitlines()[1:]
    assert [line.split()[0] for line in shown] == ids[:20]
    hint = re.search(r"go on with: deltabus (file list --after \S+)", done.stderr.decode())
    assert hint
    assert len(answer(run(*hint[1].split(), "--order", "asc")).splitlines()) == 11
    everything = answer(run("file", "list", "--all", "--json", "--order", "asc"))
    assert [json.loads(line)["id"] for line in everything.splitlines()] == ids
    assert "no files" in run("file", "list", "--purpose", "batch").stderr.decode()


def test_the_upload_is_shown_as_it_goes(url: str, server: ApiServer, report: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*DELTABUS, "file", "upload", str(report)]
    process = subprocess.Popen(command, env=environ(url) | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # How Linux says that the other side has closed a terminal.
        while data := os.read(ours, 4096):
            shown += data
    os.close(ours)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == exits.DONE
    assert out.decode().strip() == server.files[0].id
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"report.pdf to Redis +━+ +2.9/2.9 MiB", text), text
    assert re.search(r"Redis to the provider +━+ +2.9/2.9 MiB", text), text


def test_an_upload_that_breaks_off_is_done_again(run: Run, server: ApiServer, report: Path) -> None:
    server.fault(Fault.cut(after=1_000_000), on="POST /files")
    answer(run("file", "upload", "report.pdf"))
    assert [file.sha256 for file in server.files] == [SHA256]


def test_ctrl_c_leaves_the_upload_going_and_says_how_to_go_on(
    run: Run, server: ApiServer, url: str, report: Path, tmp_path: Path
) -> None:
    server.fault(Fault.stall(after=100_000), on="POST /files")
    uploads = server.operations().count("POST /files")
    with Background([*DELTABUS, "file", "upload", "report.pdf"], folder=tmp_path, environ=environ(url)) as upload:
        server.received(uploads + 1, "POST /files").wait()
        upload.process.send_signal(signal.SIGINT)
        assert upload.end() == exits.INTERRUPTED
    hint = re.search(r"resume with: deltabus watch (\S+)", upload.said)
    assert hint, upload.said
    assert answer(run("cancel", hint[1])).endswith("is being cancelled\n")
    run("result", hint[1])
    assert server.left == []
    with Redis.from_url(url) as redis:
        (blob,) = redis.keys("deltabus:blob:*")  # Whoever goes on would need it; it expires.
        assert redis.ttl(blob) > 0
        redis.delete(blob)


def test_what_cannot_be_deleted_is_said_and_the_rest_is_deleted(run: Run, server: ApiServer) -> None:
    ids = [server.put(b"x", f"{n}.txt").id for n in range(2)]
    done = run("file", "delete", ids[0], "file-unknown", ids[1])
    assert done.returncode == exits.FAILED
    assert done.stdout.decode() == f"{ids[0]} deleted\n{ids[1]} deleted\n"
    assert "file-unknown: not_found" in done.stderr.decode()
    assert server.left == []


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["file", "upload", "empty.txt"], (exits.USAGE, "empty.txt: is empty")),
        (["file", "upload", "-"], (exits.USAGE, "-: is empty")),
        (["file", "upload", "secret.txt"], (exits.USAGE, "secret.txt: Permission denied")),
        (["file", "upload", "small.txt", "--purpose", "fun"], (exits.FAILED, "must be one of assistants, batch")),
        (["file", "upload", "small.txt", "--media-type", "text"], (exits.FAILED, "must be a MIME type")),
        (["file", "upload", "small.txt", "--filename", "a/b"], (exits.FAILED, "without a folder")),
        (["file", "upload", "small.txt", "--expires-after", "1m"], (exits.FAILED, "from 3600 (an hour)")),
        (["file", "upload", "--path", "/etc/passwd"], (exits.FAILED, "request.source.path")),
        (["file", "upload", "--url", "ftp://x.example/y"], (exits.FAILED, "request.source.url")),
        (["file", "get", "../models"], (exits.FAILED, "request.file_id")),
        (["file", "content", "file-unknown", "-o", "x"], (exits.FAILED, "not_found")),
        (["transcription", "small.txt", "-m", "whisper-1"], (exits.FAILED, "text/plain, not audio")),
        (["embeddings", "x", "-m", "m", "--param", "dimensions=0"], (exits.FAILED, "request.dimensions")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(
    run: Run, server: ApiServer, tmp_path: Path, words: list[str], refused: tuple[int, str]
) -> None:
    if "secret.txt" in words and os.geteuid() == 0:
        pytest.skip("root may read everything")
    for name, data in {"empty.txt": b"", "small.txt": b"small", "secret.txt": b"secret"}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "secret.txt").chmod(0)
    code, says = refused
    assert says in error(run(*words, input=b"" if "-" in words else None), code)
    assert server.left == []
    assert not (tmp_path / "x").exists()


def test_vectors_are_a_line_each(run: Run) -> None:
    vectors = answer(run("embeddings", "one", "two", "one", "-m", "text-embedding-3-small")).splitlines()
    assert len(vectors) == 3
    assert vectors[0] == vectors[2] != vectors[1]
    assert all(isinstance(number, float) for number in json.loads(vectors[0]))


def test_models_are_a_line_each(run: Run) -> None:
    assert answer(run("models")).splitlines() == ["gpt-4o-mini", "text-embedding-3-small", "tts-1", "whisper-1"]


def test_what_was_spoken_is_written_down_again(run: Run, tmp_path: Path) -> None:
    assert answer(run("speech", "hello bus", "-m", "tts-1", "-o", "hello.mp3")) == ""
    assert answer(run("transcription", "hello.mp3", "-m", "whisper-1")) == "hello bus\n"
    piped = run("speech", "-", "-m", "tts-1", input=b"hello bus").stdout
    assert piped == (tmp_path / "hello.mp3").read_bytes()


def test_pictures_are_written_where_they_are_wanted(run: Run, tmp_path: Path) -> None:
    words = ["images", "a cat", "-m", "gpt-image-1", "--param", 'response_format="b64_json"']
    answer(run(*words, "-o", "cat.png"))
    assert (tmp_path / "cat.png").read_bytes().startswith(b"\x89PNG")
    answer(run(*words, "-n", "2", "-o", "cats.png"))
    assert sorted(path.name for path in tmp_path.glob("cats*")) == ["cats-1.png", "cats-2.png"]
    assert answer(run("images", "a cat", "-m", "dall-e-2", "--param", 'response_format="url"')).startswith("http")


def test_json_says_where_the_bytes_are_now_and_not_the_blob_that_is_gone(run: Run, tmp_path: Path) -> None:
    spoken = json.loads(answer(run("speech", "hello bus", "-m", "tts-1", "-o", "hello.mp3", "--json")))
    words = ["images", "a cat", "-m", "gpt-image-1", "--param", 'response_format="b64_json"', "--json"]
    (picture,) = json.loads(answer(run(*words, "-o", "cat.png")))["data"]
    assert "blob" not in picture
    for said, name, media_type in ((spoken, "hello.mp3", "audio/mpeg"), (picture["file"], "cat.png", "image/png")):
        data = (tmp_path / name).read_bytes()
        assert said == {
            "object": "stored",
            "path": name,
            "bytes": len(data),
            "media_type": media_type,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    assert "cannot both go to stdout" in error(run(*words, "-o", "-"), exits.USAGE)
