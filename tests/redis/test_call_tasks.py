"""`deltabus.tasks.embeddings`, `models`, `speech`, `transcription`, `images` on a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deltabus import Bus
from deltabus.errors import TaskFailed
from deltabus.settings import ProviderSettings


@pytest.fixture
def bus(site: Any, install: Callable[..., None]) -> Iterator[Bus]:
    """A bus with a worker behind it that has a shelf, and an echo for models called so."""
    install("shelf", (Path(__file__).parent / "shelf.py").read_text(), providers={"shelf": "shelf:Shelf"})
    providers = {
        "echo": ProviderSettings(name="echo", plugin="echo", models=("echo-*",)),
        "shelf": ProviderSettings(name="shelf", plugin="shelf", models=("*",)),
    }
    settings = site.settings(redis_url=site.url, retry_delay=0.001, max_retries=0, providers=providers)
    with site.worker("file", "chat", settings=settings), Bus(settings=settings) as bus:
        yield bus


def blobs(site: Any) -> list[bytes]:
    return site.redis.keys("deltabus:blob:*")


def test_embeddings_are_the_providers_object(bus: Bus) -> None:
    answer = bus.embeddings("a text", model="m", dimensions=2).result(timeout=60)
    assert answer["data"] == [{"index": 0, "embedding": [0.5, 1.0]}]
    assert answer["asked"] == {"model": "m", "input": "a text", "dimensions": 2}


def test_models_are_the_providers_list(bus: Bus) -> None:
    assert bus.models().result(timeout=60)["data"] == [{"id": "m-1", "object": "model"}]


def test_speech_becomes_a_blob(bus: Bus) -> None:
    kept = bus.speech("hello there", voice="alloy", model="m").result(timeout=60)
    assert (kept["object"], kept["media_type"], kept["bytes"]) == ("blob", "audio/mpeg", 11)
    assert b"".join(bus.read_blob(kept["id"])) == b"hello there"


def test_speech_is_written_down(bus: Bus, site: Any) -> None:
    task = bus.transcription(b"hello there", filename="hello.mp3", model="m", language="en")
    assert task.result(timeout=60) == {"text": "hello there", "asked": {"model": "m", "language": "en"}}
    assert site.types(task.id) == ["started", "progress", "completed"]


def test_what_is_no_sound_is_not_sent(bus: Bus) -> None:
    with pytest.raises(TaskFailed) as caught:
        bus.transcription(b"<html>", filename="page.html", model="m").result(timeout=60)
    assert caught.value.info.param == "request.source"
    assert "text/html, not audio" in caught.value.info.message


def test_a_picture_becomes_a_blob_and_a_url_stays_one(bus: Bus, site: Any) -> None:
    import shelf

    answer = bus.images("a cat", model="m", kinds=["bytes", "url", "bytes"]).result(timeout=60)
    first, second, third = answer["data"]
    assert second == {"url": "https://pictures.example/1.png"}
    assert first["revised_prompt"] == "a cat"
    assert "b64_json" not in first
    assert (first["blob"]["media_type"], first["blob"]["bytes"]) == ("image/png", len(shelf.PICTURE))
    assert b"".join(bus.read_blob(third["blob"]["id"])) == shelf.PICTURE
    assert len(blobs(site)) == 2


def test_where_one_picture_is_broken_nothing_is_left_of_the_others(bus: Bus, site: Any) -> None:
    with pytest.raises(TaskFailed) as caught:
        bus.images("a cat", model="m", kinds=["bytes", "broken"]).result(timeout=60)
    assert caught.value.info.code == "provider_protocol"
    assert blobs(site) == []


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda bus: bus.embeddings("a", model="echo-1"), "makes no embeddings"),
        (lambda bus: bus.models(provider="echo"), "does not list its models"),
        (lambda bus: bus.speech("a", voice="v", model="echo-1"), "does not speak"),
        (lambda bus: bus.transcription(b"a", filename="a.mp3", model="echo-1"), "transcribes nothing"),
        (lambda bus: bus.images("a", model="echo-1"), "draws no images"),
    ],
)
def test_what_a_provider_cannot_do_is_said(bus: Bus, ask: Callable[[Bus], Any], says: str) -> None:
    with pytest.raises(TaskFailed, match=says) as caught:
        ask(bus).result(timeout=60)
    assert caught.value.info.code == "unsupported"


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        (lambda bus: bus.embeddings("", model="m"), "request.input"),
        (lambda bus: bus.speech("", voice="v"), "request.input"),
        (lambda bus: bus.speech("a", voice="v", to={"ftp": "x"}), "request.to.ftp"),
        (lambda bus: bus.transcription({"blob": "gone"}), "request.source.blob"),
        (lambda bus: bus.images(""), "request.prompt"),
        (lambda bus: bus.images("a", n=0), "request.n"),
    ],
)
def test_bad_input_is_refused_by_field(bus: Bus, ask: Callable[[Bus], Any], param: str) -> None:
    with pytest.raises(TaskFailed) as caught:
        ask(bus).result(timeout=60)
    assert caught.value.info.param == param


@pytest.mark.parametrize("function", ["embeddings", "models", "file"])
def test_attachments_are_refused_where_there_are_no_messages_to_take_them(bus: Bus, function: str) -> None:
    attachment = {"source": {"base64": "bGE="}, "as": "file"}
    request = {"model": "m", "input": "a", "operation": "list"}
    task = bus.enqueue(f"deltabus.tasks.{function}", {"request": request, "attachments": [attachment]})
    with pytest.raises(TaskFailed) as caught:
        task.result(timeout=60)
    assert (caught.value.info.code, caught.value.info.param) == ("invalid_request", "attachments")
