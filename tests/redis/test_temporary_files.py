"""Files that go with a task: uploaded under a name of their own, noted, and deleted, whatever dies in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
import redis.asyncio

from deltabus import keys, temporary
from deltabus.errors import NotFound, ProviderUnavailable, TaskError, Unsupported
from deltabus.events import Completed
from deltabus.log import Log
from deltabus.provider import Content, FileRequest, Provider, Request, UploadRequest
from deltabus.temporary import TemporaryFiles

TASK = "task-1"


class Text(Content):
    name, media_type, size = "report.pdf", "application/pdf", 3

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        yield b"abc"[start:][:length]


class Shelf(Provider):
    """A provider with files, which also stands for the registry that has it."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.lists = True
        #: What the next call of that name raises, once it has done its work.
        self.fails: dict[str, TaskError | asyncio.CancelledError] = {}
        self.calls: list[str] = []

    def chat(self, request: Any) -> Any:
        raise NotImplementedError

    def resolve(self, name: str, _: None) -> Shelf:
        assert name == "shelf"
        return self

    async def upload(self, request: UploadRequest) -> dict[str, Any]:
        file_id = f"file-{len(self.calls)}"
        self.kept[file_id] = request.content.name
        self._call("upload")
        return {"id": file_id}

    async def files(self, request: Request) -> dict[str, Any]:
        self._call("files")
        if not self.lists:
            raise Unsupported("no lists")
        ids = sorted(self.kept, reverse=True)
        if "after" in request.body:
            ids = ids[ids.index(request.body["after"]) + 1 :]
        page = ids[:2]
        return {"data": [{"id": i, "filename": self.kept[i]} for i in page], "has_more": len(ids) > 2}

    async def delete(self, request: FileRequest) -> dict[str, Any]:
        self._call("delete")
        if self.kept.pop(request.file_id, None) is None:
            raise NotFound("no such file")
        return {"deleted": True}

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if failure := self.fails.pop(name, None):
            raise failure


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def play(site, shelf) -> Callable[[Any], None]:
    """`play(story)`: run it with the temporary files of a worker that begins."""

    def run(story: Any) -> None:
        async def main() -> None:
            async with redis.asyncio.Redis.from_url(site.url) as client:
                files = TemporaryFiles(client, shelf)
                try:
                    await story(files)
                finally:
                    await files.aclose()

        asyncio.run(main())

    return run


def request(task: str = TASK, name: str = Text.name) -> UploadRequest:
    content = Text()
    content.name = name
    return UploadRequest(task=task, body={"purpose": "user_data"}, content=content)


def nothing_is_noted(site) -> bool:
    return not site.redis.keys(f"{keys.PREFIX}:*files")


def test_a_file_is_uploaded_under_a_name_of_its_own_and_deleted_at_the_end(site, shelf, play):
    async def story(files: TemporaryFiles) -> None:
        ids = [await files.upload("shelf", request()), await files.upload("shelf", request())]
        assert list(shelf.kept) == ids
        names = set(shelf.kept.values())
        assert len(names) == 2
        assert all(name.startswith("report-") and name.endswith(".pdf") for name in names)
        assert 0 < site.redis.ttl(keys.files(TASK)) <= keys.FILES_TTL
        assert await files.delete(TASK)

    play(story)
    assert shelf.kept == {}
    assert nothing_is_noted(site)


def test_what_a_dead_worker_has_uploaded_the_next_one_deletes(site, shelf, play):
    async def dies(files: TemporaryFiles) -> None:
        await files.upload("shelf", request())

    async def comes_after(files: TemporaryFiles) -> None:
        assert await files.delete(TASK)

    play(dies)
    play(comes_after)
    assert shelf.kept == {}
    assert nothing_is_noted(site)


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), ProviderUnavailable("the line broke")])
def test_an_upload_of_which_nobody_knows_whether_it_was_carried_out_is_found_by_its_name(site, shelf, play, failure):
    others = {f"file-x{number}": f"report-{number}.pdf" for number in range(5)}

    async def story(files: TemporaryFiles) -> None:
        shelf.kept |= others
        shelf.fails["upload"] = failure
        with pytest.raises(type(failure)):
            await files.upload("shelf", request())
        assert len(shelf.kept) == 6
        assert await files.delete(TASK)

    play(story)
    assert shelf.kept == others
    assert shelf.calls.count("files") > 1  # it was not on the first page
    assert nothing_is_noted(site)


def test_a_name_that_the_provider_has_changed_is_found_all_the_same(site, shelf, play):
    async def story(files: TemporaryFiles) -> None:
        shelf.fails["upload"] = ProviderUnavailable("the line broke")
        with pytest.raises(ProviderUnavailable):
            await files.upload("shelf", request(name='the "report".pdf'))
        shelf.kept = {i: name.replace('"', "%22").replace(" ", "_") for i, name in shelf.kept.items()}
        assert await files.delete(TASK)

    play(story)
    assert shelf.kept == {}


@pytest.mark.parametrize("name", ["x" * 251 + ".pdf", "\u65e5" * 85, "a." + "x" * 253, "report.", ".hidden", "file"])
def test_a_name_becomes_no_longer_than_names_may_be(site, shelf, play, name):
    async def story(files: TemporaryFiles) -> None:
        shelf.kept["file-x"] = name
        shelf.fails["upload"] = ProviderUnavailable("the line broke")
        with pytest.raises(ProviderUnavailable):
            await files.upload("shelf", request(name=name))
        assert all(len(kept.encode()) <= 255 for kept in shelf.kept.values())
        assert await files.delete(TASK)

    play(story)
    assert shelf.kept == {"file-x": name}


def test_a_provider_that_lists_nothing_is_not_asked_for_ever(site, shelf, play):
    async def story(files: TemporaryFiles) -> None:
        shelf.lists = False
        shelf.fails["upload"] = ProviderUnavailable("the line broke")
        with pytest.raises(ProviderUnavailable):
            await files.upload("shelf", request())
        assert await files.delete(TASK)

    play(story)
    assert nothing_is_noted(site)


def test_a_file_that_is_gone_already_is_no_matter(site, shelf, play):
    async def story(files: TemporaryFiles) -> None:
        await files.upload("shelf", request())
        shelf.kept.clear()
        assert await files.delete(TASK)

    play(story)
    assert nothing_is_noted(site)


def test_what_cannot_be_deleted_now_is_swept_up_when_the_task_is_over(site, shelf, play):
    async def story(files: TemporaryFiles) -> None:
        async with redis.asyncio.Redis.from_url(site.url) as client:
            log = Log(client, site.settings())
            attempt = await log.begin(TASK, worker="w", queue="chat", on_interrupt=print)
            await files.upload("shelf", request())
            shelf.fails["delete"] = ProviderUnavailable("later")
            assert not await files.delete(TASK)
            assert len(shelf.kept) == 1
            await files.sweep()  # its task may still go on
            assert len(shelf.kept) == 1
            await attempt.seal(Completed(task=TASK, at=time.time(), result={}))
            await files.sweep()
            await log.aclose()

    play(story)
    assert shelf.kept == {}
    assert nothing_is_noted(site)


def test_one_task_that_cannot_be_cleared_does_not_keep_the_others_from_it(site, shelf, play):
    async def story(files: TemporaryFiles) -> None:
        for task in ("a", "b", "c"):
            await files.upload("shelf", request(task))
        shelf.fails["delete"] = ProviderUnavailable("later")
        await files.sweep()
        assert len(shelf.kept) == 1
        await files.sweep()

    play(story)
    assert shelf.kept == {}
    assert nothing_is_noted(site)


def test_many_tasks_that_cannot_be_cleared_do_not_keep_the_others_from_it(site, shelf, play, monkeypatch):
    monkeypatch.setattr(temporary, "SWEEP", 2)

    async def story(files: TemporaryFiles) -> None:
        for task in "abcdefg":
            await files.upload("shelf", request(task))
        for task in "abcd":
            site.redis.hset(keys.files(task), "tag", b"unreadable")
        for _ in range(4):
            await files.sweep()
        assert site.redis.zrange(keys.FILES, 0, -1) == [b"a", b"b", b"c", b"d"]
        for task in "abcd":
            site.redis.hdel(keys.files(task), "tag")
        for _ in range(4):
            await files.sweep()

    play(story)
    assert shelf.kept == {}
    assert nothing_is_noted(site)


def test_after_a_week_nobody_tries_any_more(site, shelf, play):
    async def story(files: TemporaryFiles) -> None:
        await files.upload("shelf", request())
        site.redis.zadd(keys.FILES, {TASK: time.time() - keys.FILES_TTL - 1})
        await files.sweep()

    play(story)
    assert shelf.calls == ["upload"]
    assert not site.redis.exists(keys.FILES)
