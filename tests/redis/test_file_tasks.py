"""`deltabus.tasks.file` on a real Redis, by our worker and RQ's own: progress, retries, cancel, bad input."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deltabus import Bus, events, keys
from deltabus.errors import TaskCancelled, TaskFailed
from deltabus.events import Progress, Retrying
from deltabus.settings import ProviderSettings, Settings
from deltabus.tasks import meter
from deltabus.testing import check_events

DATA = random.Random(4).randbytes(3_500_000)


@pytest.fixture
def shelf(install: Callable[..., None]) -> Any:
    """The provider, empty, and installed."""
    install("shelf", (Path(__file__).parent / "shelf.py").read_text(), providers={"shelf": "shelf:Shelf"})
    import shelf

    return shelf


@pytest.fixture
def settings(site: Any) -> Settings:
    providers = {"shelf": ProviderSettings(name="shelf", plugin="shelf", models=("*",))}
    return site.settings(redis_url=site.url, retry_delay=0.001, providers=providers)


@pytest.fixture
def bus(site: Any, shelf: Any, settings: Settings) -> Iterator[Bus]:
    """A bus with a worker behind it that has a shelf."""
    with site.worker("file", "chat", settings=settings), Bus(settings=settings) as bus:
        yield bus


def progress(site: Any, task: str) -> list[int]:
    return [event.done for event in site.log(task) if isinstance(event, Progress)]


def blobs(site: Any) -> list[bytes]:
    return site.redis.keys("deltabus:blob:*")


def failure(bus: Bus, request: dict[str, Any], function: str = "file") -> Any:
    task = bus.enqueue(f"deltabus.tasks.{function}", {"request": request}, queue="file")
    with pytest.raises(TaskFailed) as caught:
        task.result(timeout=60)
    return caught.value.info


def test_a_file_goes_up_is_listed_looked_at_comes_back_and_is_deleted(bus: Bus, site: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(DATA)

    upload = bus.upload(path, purpose="user_data")
    made = upload.result(timeout=60)
    assert made["bytes"] == len(DATA)
    assert (made["filename"], made["media_type"], made["purpose"]) == ("report.pdf", "application/pdf", "user_data")
    assert progress(site, upload.id)[-1] == len(DATA)

    assert [each["id"] for each in bus.files().result(timeout=60)["data"]] == [made["id"]]
    assert bus.file(made["id"]).result(timeout=60) == made

    kept = bus.download(made["id"]).result(timeout=60)
    assert (kept["object"], kept["bytes"], kept["filename"]) == ("blob", len(DATA), "report.pdf")
    assert kept["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert b"".join(bus.read_blob(kept["id"])) == DATA

    assert bus.delete_file(made["id"]).result(timeout=60) == {"id": made["id"], "object": "file", "deleted": True}
    assert bus.files().result(timeout=60)["data"] == []


def test_what_is_uploaded_may_be_held_in_many_ways(bus: Bus, tmp_path: Path) -> None:
    (path := tmp_path / "a.txt").write_bytes(b"hello")
    with path.open("rb") as opened:
        sources = [str(path), path, opened, b"hello", bytearray(b"hello"), [b"hel", b"lo"], {"base64": "aGVsbG8="}]
        made = [bus.upload(source).result(timeout=60) for source in sources]
    assert {each["bytes"] for each in made} == {5}
    assert [each["filename"] for each in made[:3]] == ["a.txt"] * 3


def test_a_file_that_is_not_there_is_an_error_at_once(bus: Bus, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bus.upload(tmp_path / "missing.txt")
    with pytest.raises(IsADirectoryError):
        bus.upload(tmp_path)


def test_a_deletion_whose_answer_was_lost_is_done(bus: Bus, shelf: Any) -> None:
    file_id = bus.upload(b"x").result(timeout=60)["id"]
    gone = bus.delete_file(file_id, lose_answer=True).result(timeout=60)
    assert (gone, shelf.FILES) == ({"id": file_id, "object": "file", "deleted": True}, {})
    assert shelf.CALLS.count("delete") == 2
    with pytest.raises(TaskFailed, match="not_found"):
        bus.delete_file(file_id).result(timeout=60)


def test_a_long_list_comes_page_by_page(bus: Bus) -> None:
    ids = [bus.upload(b"x", filename=f"{n}.txt").result(timeout=60)["id"] for n in range(5)]
    first = bus.files(limit=3).result(timeout=60)
    second = bus.files(limit=3, after=first["data"][-1]["id"]).result(timeout=60)
    assert [each["id"] for page in (first, second) for each in page["data"]] == ids
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_progress_counts_the_bytes_and_ends_with_all_of_them(
    bus: Bus, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "INTERVAL", 0)
    task = bus.upload(DATA)
    task.result(timeout=60)
    told = progress(site, task.id)
    assert told == sorted(set(told))
    assert told[-1] == len(DATA)
    assert len(told) > 1
    assert {event.total for event in site.log(task.id) if isinstance(event, Progress)} == {len(DATA)}
    check_events(task.events())


def test_a_small_file_is_one_event_of_progress(bus: Bus, site: Any) -> None:
    task = bus.upload(b"small")
    task.result(timeout=60)
    assert site.types(task.id) == ["started", "progress", "completed"]


def test_an_upload_that_fails_in_the_middle_begins_again_and_says_so(
    bus: Bus, site: Any, shelf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "INTERVAL", 0)
    task = bus.upload(DATA, fail_after=3_000_000)
    assert task.result(timeout=60)["bytes"] == len(DATA)
    assert shelf.ENDED == ["ProviderUnavailable", "whole"]
    log = site.log(task.id)
    check_events(log)
    retrying = next(place for place, event in enumerate(log) if isinstance(event, Retrying))
    before = [event.done for event in log[:retrying] if isinstance(event, Progress)]
    after = [event.done for event in log[retrying:] if isinstance(event, Progress)]
    assert before
    assert after[-1] == len(DATA)
    assert {event.attempt for event in log[retrying + 1 : -1]} == {2}


def test_an_upload_that_fails_before_anything_was_told_is_tried_again_in_silence(
    bus: Bus, site: Any, shelf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "INTERVAL", 1e9)
    task = bus.upload(DATA, fail_after=3_000_000)
    assert task.result(timeout=60)["bytes"] == len(DATA)
    assert shelf.ENDED == ["ProviderUnavailable", "whole"]
    assert site.types(task.id) == ["started", "progress", "completed"]


def test_an_upload_that_goes_on_failing_fails(bus: Bus, site: Any, shelf: Any) -> None:
    task = bus.upload(DATA, fail_after=1_000_000, fails=99, retry={"max": 2})
    with pytest.raises(TaskFailed) as caught:
        task.result(timeout=60)
    assert caught.value.info.code == "provider_unavailable"
    assert shelf.ENDED == ["ProviderUnavailable"] * 3
    assert shelf.FILES == {}


def test_a_cancel_in_the_middle_ends_the_upload_and_leaves_nothing(
    bus: Bus, site: Any, shelf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "INTERVAL", 0)
    task = bus.upload(DATA, stall_after=2_000_000)
    site.reaches(task.id, lambda event: isinstance(event, Progress))
    assert task.cancel("enough") is True
    with pytest.raises(TaskCancelled, match="enough"):
        task.result(timeout=60)
    assert shelf.ENDED == ["CancelledError"]
    assert shelf.FILES == {}


def test_stock_rq_runs_file_tasks_too(site: Any, shelf: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "deltabus.toml").write_text('[providers.shelf]\nplugin = "shelf"\n')
    monkeypatch.setenv("DELTABUS_CONFIG", str(tmp_path / "deltabus.toml"))
    monkeypatch.setenv("DELTABUS_REDIS_URL", site.url)
    request = {"operation": "upload", "source": {"base64": "aGVsbG8="}, "purpose": "user_data"}
    job = site.queue("file").enqueue("deltabus.tasks.file", {"request": request})
    site.work_simply("file")
    made = site.fetch(job).return_value()
    assert (made["object"], made["bytes"]) == ("file", 5)
    assert site.types(job.id) == ["started", "progress", "completed"]


BAD: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "an unknown operation": ({"operation": "rename"}, "invalid_request", "request.operation"),
    "no operation": ({}, "invalid_request", "request.operation"),
    "no file": ({"operation": "get"}, "invalid_request", "request.file_id"),
    "a file id that leads elsewhere": (
        {"operation": "delete", "file_id": "../models"},
        "invalid_request",
        "request.file_id",
    ),
    "a file that is not there": ({"operation": "get", "file_id": "file-0"}, "not_found", None),
    "an unknown purpose": (
        {"operation": "upload", "source": {"base64": "aGk="}, "purpose": "fun"},
        "invalid_request",
        "request.purpose",
    ),
    "no source": ({"operation": "upload", "purpose": "batch"}, "invalid_request", "request.source"),
    "a source of no kind": (
        {"operation": "upload", "purpose": "batch", "source": {}},
        "invalid_request",
        "request.source",
    ),
    "an empty file": (
        {"operation": "upload", "purpose": "batch", "source": {"blob": "empty"}},
        "invalid_request",
        "request.source",
    ),
    "another size than announced": (
        {"operation": "upload", "purpose": "batch", "source": {"blob": "small", "size": 6}},
        "invalid_request",
        "request.source.size",
    ),
    "a blob that has expired": (
        {"operation": "upload", "purpose": "batch", "source": {"blob": "gone"}},
        "not_found",
        "request.source.blob",
    ),
    "too large a file": (
        {"operation": "upload", "purpose": "batch", "source": {"blob": "large"}},
        "payload_too_large",
        "request.source",
    ),
    "a path of nobody's": (
        {"operation": "upload", "purpose": "batch", "source": {"path": "/etc/passwd"}},
        "unsupported",
        "request.source.path",
    ),
    "a URL of this host": (
        {"operation": "upload", "purpose": "batch", "source": {"url": "http://127.0.0.1:6379/x"}},
        "invalid_request",
        "request.source.url",
    ),
    "a URL of the cloud's own data": (
        {"operation": "upload", "purpose": "batch", "source": {"url": "http://169.254.169.254/latest/meta-data"}},
        "invalid_request",
        "request.source.url",
    ),
    "storage that is not configured": (
        {"operation": "upload", "purpose": "batch", "source": {"url": "s3://bucket/key"}},
        "unsupported",
        "request.source.url",
    ),
    "a download to nowhere": (
        {"operation": "content", "file_id": "file-0", "to": {"url": "https://x.example/y"}},
        "invalid_request",
        "request.to.url",
    ),
    "a wrong MIME type": (
        {"operation": "upload", "purpose": "batch", "source": {"blob": "small"}, "media_type": "pdf"},
        "invalid_request",
        "request.media_type",
    ),
    "a target of no kind": (
        {"operation": "content", "file_id": "file-0", "to": {"ftp": "x"}},
        "invalid_request",
        "request.to.ftp",
    ),
}


@pytest.mark.parametrize(("request_", "refused"), [(each, rest) for each, *rest in BAD.values()], ids=BAD)
def test_bad_input_is_one_clear_error_and_leaves_nothing(
    site: Any, shelf: Any, settings: Settings, request_: dict[str, Any], refused: list[str | None]
) -> None:
    for name, data in {"empty": b"", "small": b"hello", "large": b"x" * 2000}.items():
        site.redis.rpush(keys.blob(name), data)
    before = set(blobs(site))
    limited = replace(settings, max_file_bytes=1000)
    with site.worker("file", settings=limited), Bus(settings=limited) as bus:
        info = failure(bus, request_)
    assert [info.code, info.param] == refused, info
    assert {"upload", "content"}.isdisjoint(shelf.CALLS)
    assert set(blobs(site)) == before


def test_a_provider_without_files_says_so(site: Any) -> None:
    settings = site.settings(redis_url=site.url)
    with site.worker("file", settings=settings), Bus(settings=settings) as bus:
        info = failure(bus, {"operation": "list"})
    assert (info.code, info.param) == ("unsupported", "provider")
    assert "tried `echo`" in info.message


def test_an_error_shows_no_bytes(bus: Bus) -> None:
    request = {"operation": "upload", "purpose": "batch", "source": {"base64": "c2VjcmV0!"}}
    assert "c2VjcmV0" not in failure(bus, request).message


def test_the_events_of_a_file_task_keep_the_grammar(bus: Bus) -> None:
    task = bus.upload(DATA)
    check_events(list(task.events()))
    assert isinstance(list(task.events())[-1], events.Completed)
