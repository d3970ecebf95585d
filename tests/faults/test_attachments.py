"""What goes with a chat task reaches the model, and nothing of it stays behind, whatever happens on the way."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Scene, attempts
from processes import PATIENCE

from deltabus import Task, keys
from deltabus.errors import InvalidRequest
from deltabus.events import Cancelled, Completed, Failed
from deltabus.testing import check_events
from deltabus.testing.api import NO_FILES, ApiServer, Fault

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
REPORT = b"%PDF-1.7\n" + bytes(range(256)) * 40

Settings = Callable[..., dict[str, str]]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """The provider."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def settings(server: ApiServer, tmp_path: Path) -> Settings:
    """A worker's, where the provider has these capabilities."""

    def settings(**capabilities: bool) -> dict[str, str]:
        table = ", ".join(f"{name} = {str(value).lower()}" for name, value in capabilities.items())
        config = tmp_path / "deltabus.toml"
        config.write_text(
            f'[providers.server]\nplugin = "openai"\nbase_url = "{server.url}"\ncapabilities = {{ {table} }}\n'
        )
        return {"DELTABUS_CONFIG": str(config)}

    return settings


def ask(scene: Scene, *attachments: dict[str, Any], **options: Any) -> Task:
    return scene.bus.chat(messages="What is this?", model="gpt-4o-mini", attachments=attachments, **options)


def picture(scene: Scene) -> dict[str, Any]:
    return {"source": {"blob": scene.bus.blob(PICTURE)}, "as": "image", "filename": "picture.png"}


def report(scene: Scene) -> dict[str, Any]:
    return {"source": {"blob": scene.bus.blob(REPORT)}, "as": "file", "filename": "report.pdf"}


def seen(task: Task) -> list[str]:
    """What the model saw, line by line."""
    events = list(task.events())
    check_events(events)
    ending = events[-1]
    assert isinstance(ending, Completed), ending
    return str(ending.result["choices"][0]["message"]["content"]).splitlines()


def digest(data: bytes) -> str:
    return f"({len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()})"


def nothing_stays(scene: Scene, server: ApiServer) -> None:
    assert server.left == []
    assert scene.redis.keys(f"{keys.PREFIX}:*files") == []


def test_a_provider_that_takes_ids_gets_the_files_uploaded_and_they_are_deleted_after_the_answer(
    scene: Scene, server: ApiServer, settings: Settings
) -> None:
    with scene.worker(**settings(file_ids=True, image_ids=True)):
        lines = seen(ask(scene, picture(scene), report(scene)))
        nothing_stays(scene, server)
    assert [line.partition("-")[0] for line in lines[:2]] == ["file: picture", "file: report"]
    assert [line.partition(" (")[2] for line in lines[:2]] == [digest(PICTURE)[1:], digest(REPORT)[1:]]
    assert lines[2:] == ["text: What is this?"]
    assert server.operations().count("POST /files") == 2


def test_any_other_provider_gets_them_inline_and_keeps_nothing(
    scene: Scene, server: ApiServer, settings: Settings
) -> None:
    sound = {"source": {"base64": "bGE="}, "as": "audio", "filename": "la.mp3"}
    with scene.worker(**settings()):
        lines = seen(ask(scene, picture(scene), report(scene), sound))
    assert lines == [
        f"image: image/png {digest(PICTURE)}",
        f"file: report.pdf application/pdf {digest(REPORT)}",
        f"audio: mp3 {digest(b'la')}",
        "text: What is this?",
    ]
    assert set(server.operations()) == {"POST /chat/completions"}


@pytest.mark.parametrize("file_ids", [True, False])
def test_files_that_messages_name_are_fetched_for_a_provider_that_would_not_find_them(
    scene: Scene, server: ApiServer, settings: Settings, file_ids: bool
) -> None:
    shown, read = server.put(PICTURE, "picture"), server.put(REPORT, "report.pdf")
    content = [
        {"type": "input_image", "file_id": shown.id},
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_file", "file_id": read.id},
        {"type": "input_image", "file_id": shown.id},
    ]
    with scene.worker(**settings(file_ids=file_ids)):
        lines = seen(scene.bus.chat(messages=[{"role": "user", "content": content}], model="gpt-4o-mini"))
    image = f"image: image/png {digest(PICTURE)}"
    pdf = f"file: report.pdf {digest(REPORT)}" if file_ids else f"file: report.pdf application/pdf {digest(REPORT)}"
    assert lines == [image, "text: What is this?", pdf, image]
    assert server.operations().count(f"GET /files/{shown.id}/content") == 1
    assert sorted(server.left) == sorted([shown.id, read.id])


@pytest.mark.parametrize("files", [True, False], ids=["unknown", "known"])
def test_at_a_server_without_files_the_error_says_what_to_send_instead(
    scene: Scene, tmp_path: Path, files: bool
) -> None:
    config = tmp_path / "deltabus.toml"
    named = {"type": "input_file", "file_id": "file-1"}
    with ApiServer(NO_FILES) as server:
        config.write_text(
            f'[providers.server]\nplugin = "openai"\nbase_url = "{server.url}"\n'
            f"capabilities = {{ files = {str(files).lower()} }}\n"
        )
        with scene.worker(DELTABUS_CONFIG=str(config)):
            task = scene.bus.chat(messages=[{"role": "user", "content": [named]}], model="gpt-4o-mini")
            *_, ending = task.events()
    assert isinstance(ending, Failed)
    assert ending.error.code == ("not_found" if files else "unsupported")
    assert ending.error.param == "request.messages[0].content[0].file_id"
    assert "send the content itself, as an attachment or as a data URL" in ending.error.message


def test_a_failed_answer_leaves_nothing(scene: Scene, server: ApiServer, settings: Settings) -> None:
    server.fault(Fault.refuse(400, "no"), on="POST /chat/completions", times=None)
    with scene.worker(**settings(file_ids=True)):
        *_, ending = ask(scene, report(scene)).events()
        assert isinstance(ending, Failed)
        nothing_stays(scene, server)


def test_an_upload_that_fails_at_first_is_made_again(scene: Scene, server: ApiServer, settings: Settings) -> None:
    server.fault(Fault.cut(after=1000), on="POST /files")
    with scene.worker(**settings(file_ids=True)):
        assert len(seen(ask(scene, report(scene)))) == 2
        nothing_stays(scene, server)


def test_a_cancelled_answer_leaves_nothing(scene: Scene, server: ApiServer, settings: Settings) -> None:
    server.fault(Fault.silent(), on="POST /chat/completions")
    with scene.worker(**settings(file_ids=True)):
        task = ask(scene, report(scene))
        server.received(1, "POST /chat/completions").wait(PATIENCE)
        assert len(server.left) == 1
        assert task.cancel()
        *_, ending = task.events()
        assert isinstance(ending, Cancelled)
        nothing_stays(scene, server)


def test_what_is_inline_has_a_limit_all_together(scene: Scene, server: ApiServer, settings: Settings) -> None:
    with scene.worker(**settings(file_ids=False), DELTABUS_MAX_INLINE_BYTES=str(2 * len(PICTURE))) as worker:
        attachment = picture(scene)
        assert len(seen(ask(scene, attachment, attachment))) == 3
        *_, ending = ask(scene, *[attachment] * 3).events()
        assert isinstance(ending, Failed)
        assert (ending.error.code, ending.error.param) == ("payload_too_large", "attachments[2].source")
        assert "`max_inline_bytes`" in ending.error.message

        shown = server.put(PICTURE, "picture")
        part = {"type": "input_image", "file_id": shown.id}
        assert len(seen(scene.bus.chat(messages=[{"role": "user", "content": [part] * 2}], model="gpt-4o-mini"))) == 2
        *_, ending = scene.bus.chat(messages=[{"role": "user", "content": [part] * 3}], model="gpt-4o-mini").events()
        assert isinstance(ending, Failed)
        assert (ending.error.code, ending.error.param) == (
            "payload_too_large",
            "request.messages[0].content[2].file_id",
        )
        assert worker.process.poll() is None


@pytest.mark.parametrize("file_id", ["../models", "a/../../models", "a?b=c", "..", "x" * 5000])
def test_a_file_id_in_a_message_leads_nowhere_but_to_a_file(
    scene: Scene, server: ApiServer, settings: Settings, file_id: str
) -> None:
    with scene.worker(**settings(file_ids=False)):
        for part in ({"type": "input_image", "file_id": file_id}, {"type": "file", "file": {"file_id": file_id}}):
            *_, ending = scene.bus.chat(messages=[{"role": "user", "content": [part]}], model="gpt-4o-mini").events()
            assert isinstance(ending, Failed)
            assert ending.error.code == "invalid_request"
            assert str(ending.error.param).startswith("request.messages[0].content[0].")
            assert file_id not in ending.error.message
    assert server.operations() == []


@pytest.mark.parametrize("on", ["POST /chat/completions", "POST /files"])
def test_what_a_killed_worker_had_uploaded_is_deleted_by_the_next(
    scene: Scene, server: ApiServer, settings: Settings, on: str
) -> None:
    server.fault(Fault.silent(), on=on)
    options = settings(file_ids=True)
    with scene.worker(**options) as victim:
        task = ask(scene, report(scene))
        server.received(1, on).wait(PATIENCE)
        victim.process.send_signal(signal.SIGKILL)
        victim.process.wait()
    with scene.worker(**options):
        assert len(seen(task)) == 2
        assert attempts(list(task.events())) == 2
        nothing_stays(scene, server)


def test_what_a_killed_worker_had_uploaded_for_a_task_that_runs_no_more_is_swept_up(
    scene: Scene, server: ApiServer, settings: Settings
) -> None:
    server.fault(Fault.silent(), on="POST /chat/completions")
    options = settings(file_ids=True) | {"DELTABUS_LEASE": "1"}
    with scene.worker(**options) as victim:
        task = ask(scene, report(scene))
        server.received(1, "POST /chat/completions").wait(PATIENCE)
        victim.process.send_signal(signal.SIGKILL)
        victim.process.wait()
    assert len(server.left) == 1
    task.cancel()
    with scene.worker(**options):
        *_, ending = task.events()
        assert isinstance(ending, Cancelled)
        server.received(1, f"DELETE /files/{server.left[0]}").wait(PATIENCE)
        scene.until(lambda: not scene.redis.keys(f"{keys.PREFIX}:*files"))
        nothing_stays(scene, server)


@pytest.mark.parametrize(
    ("attachment", "param", "said"),
    [
        ({"source": {"blob": "gone"}, "as": "image"}, "attachments[0].source.blob", "blob"),
        ({"source": {"base64": "JVBERi0="}, "as": "image"}, "attachments[0]", "not a picture"),
        ({"source": {"base64": "JVBERi0="}, "as": "audio"}, "attachments[0]", "not a sound"),
        ({"source": {"url": "http://127.0.0.1:9/x"}, "as": "file"}, "attachments[0].source.url", "not public"),
    ],
    ids=["an expired blob", "no picture", "no sound", "a private address"],
)
def test_an_attachment_that_cannot_be_had_is_named(
    scene: Scene, settings: Settings, attachment: dict[str, Any], param: str, said: str
) -> None:
    with scene.worker(**settings()):
        *_, ending = ask(scene, attachment).events()
    assert isinstance(ending, Failed)
    assert ending.error.param == param
    assert said in ending.error.message


@pytest.mark.parametrize(
    ("attachment", "said"),
    [
        ({"source": {"base64": "bGE="}, "as": "video"}, "Invalid enum value 'video'; it may be image, file or audio"),
        ({"source": {"base64": "bGE="}}, "Object missing required field `as`"),
        ({"as": "image"}, "Object missing required field `source`"),
    ],
)
def test_an_attachment_that_is_none_is_refused_at_the_door(scene: Scene, attachment: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask(scene, attachment)
    assert caught.value.message == said
