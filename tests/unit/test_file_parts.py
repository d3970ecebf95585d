"""Files for a server that loses them in messages, as LocalAI does: nothing is asked of it, and the task says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deltabus import Bus, TaskFailed
from deltabus.settings import load
from deltabus.testing import LOCALAI, ApiServer, memory_bus


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(LOCALAI) as server:
        yield server


@pytest.fixture
def bus(server: ApiServer, tmp_path: Path) -> Iterator[Bus]:
    file = tmp_path / "deltabus.toml"
    file.write_text(f'[providers.local]\nplugin = "openai"\nbase_url = "{server.url}"\n')
    with file.open("a") as lines:
        lines.write("capabilities = { file_parts = false }\n")
    with memory_bus(load(file, environ={})) as bus:
        yield bus


def failure(bus: Bus, **request: Any) -> tuple[str, str | None]:
    task = bus.chat(model="m", **request)
    with pytest.raises(TaskFailed, match="`file_parts` of its capabilities is false") as caught:
        task.result(timeout=100)
    return caught.value.info.code, caught.value.info.param


def test_a_file_in_a_message_is_refused(bus: Bus, server: ApiServer) -> None:
    part = {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain,hello"}}
    refused = failure(bus, messages=[{"role": "user", "content": [part]}])
    assert refused == ("unsupported", "request.messages[0].content[0].file.file_data")
    assert server.operations() == []


def test_a_file_that_is_named_by_its_id_is_refused_before_it_is_fetched(bus: Bus, server: ApiServer) -> None:
    made = bus.upload(b"hello", filename="a.txt").result(timeout=100)
    part = {"type": "file", "file": {"file_id": made["id"]}}
    refused = failure(bus, messages=[{"role": "user", "content": [part]}])
    assert refused == ("unsupported", "request.messages[0].content[0].file.file_id")
    assert server.operations() == ["POST /files"]


def test_an_attached_file_is_refused_and_a_picture_is_not(bus: Bus, server: ApiServer) -> None:
    source = {"source": {"base64": "aGVsbG8="}, "filename": "a.txt"}
    assert failure(bus, messages="read", attachments=[{**source, "as": "file"}]) == ("unsupported", "attachments[0]")
    picture = {"source": {"base64": "iVBORw0KGgo="}, "filename": "a.png", "as": "image"}
    assert bus.chat(model="m", messages="look", attachments=[picture]).result(timeout=100)
