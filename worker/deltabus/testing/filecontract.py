"""The part of the contract that concerns files, and the calls beside chat: what a provider has of them decides."""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import pytest

from deltabus.provider import Download, FileRequest, NotFound, Provider, Request, TaskError, UploadRequest
from deltabus.testing.content import PIECE, Sample
from deltabus.testing.garbage import GARBAGE, is_json
from deltabus.testing.situations import Case, Situations

#: How many requests one provider has under way at once in the tests of concurrency.
CROWD: Final = 100

#: What a stalling endpoint is sent: more than connections hold on their own.
_LARGE: Final = 64 * PIECE

_Call = Callable[[Provider], Coroutine[Any, Any, object]]

_OF_FILES: Final[Mapping[str, _Call]] = {
    "upload": lambda made: made.upload(_upload(Sample(1000))),
    "files": lambda made: made.files(Request(task="kit")),
    "file": lambda made: made.file(_of("file-1")),
    "content": lambda made: made.content(_of("file-1")),
    "delete": lambda made: made.delete(_of("file-1")),
}
_OTHERS: Final[Mapping[str, _Call]] = {
    "embeddings": lambda made: made.embeddings(Request(body={"model": "m", "input": "hello"}, task="kit")),
    "models": lambda made: made.models(Request(task="kit")),
    "speech": lambda made: made.speech(Request(body={"model": "m", "input": "hello", "voice": "alloy"}, task="kit")),
    "transcription": lambda made: made.transcription(
        UploadRequest(body={"model": "m"}, content=Sample(1000, name="a.wav", media_type="audio/wav"), task="kit")
    ),
    "images": lambda made: made.images(Request(body={"model": "m", "prompt": "a dot"}, task="kit")),
}

#: Calls whose answer is bytes or text.
_ANYTHING: Final = ("content", "speech", "transcription")


class FileContract(Situations):
    """What holds where `capabilities.files` is true, and of each optional method that a provider overrides."""

    # ------------------------------------------------------------------ files

    def test_a_file_comes_back_as_it_was_sent(self) -> None:
        """Uploaded, listed, looked at, downloaded and deleted: every byte of it, and nothing is left."""
        self._needs_files()

        async def scenario(case: Case) -> None:
            made = case.provider
            for size in (1, PIECE + 1, 3 * PIECE):
                sample = Sample(size, name="na\u00efve report.pdf", media_type="application/pdf")
                file = await made.upload(_upload(sample))
                assert sample.open == 0, "upload() does not close the iterator of content.read()"
                _check_file(file, sample)
                listed = await made.files(Request(task="kit"))
                assert listed.get("object") == "list", "files() returns no `list`"
                assert isinstance(listed.get("has_more"), bool), "files() does not say whether it `has_more`"
                assert file["id"] in [item["id"] for item in listed["data"]], "an uploaded file is not in the list"
                _check_file(await made.file(_of(file["id"])), sample)
                got = await _fetch(made, file["id"])
                assert hashlib.sha256(got).hexdigest() == sample.sha256, f"other bytes came back: {len(got)} of {size}"
                gone = await made.delete(_of(file["id"]))
                assert (gone.get("id"), gone.get("object"), gone.get("deleted")) == (file["id"], "file", True)
            _check_left(case)

        self._in("keeping", scenario)

    def test_a_file_that_was_deleted_is_not_found(self) -> None:
        """However the endpoint says it."""
        self._needs_files()

        async def scenario(case: Case) -> None:
            file = await case.provider.upload(_upload(Sample(10)))
            await case.provider.delete(_of(file["id"]))
            for name in ("file", "content", "delete"):
                error = await self._failure(name, getattr(case.provider, name)(_of(file["id"])))
                assert type(error) is NotFound, f"{name}() of a file that is not there must raise NotFound, not {error}"

        self._in("keeping", scenario)

    def test_an_upload_does_not_change_its_request(self) -> None:
        """A retry sends the same."""
        self._needs_files()

        async def scenario(case: Case) -> None:
            request = _upload(Sample(10), expires_after={"anchor": "created_at", "seconds": 3600})
            before = copy.deepcopy(dict(request.body))
            await case.provider.delete(_of((await case.provider.upload(request))["id"]))
            assert request.body == before, "upload() changes the body of the request"

        self._in("keeping", scenario)

    def test_many_uploads_at_once_do_not_mix(self) -> None:
        """One instance serves hundreds of requests."""
        self._needs_files()

        async def scenario(case: Case) -> None:
            async def one(number: int) -> None:
                sample = Sample(f"file {number}, ".encode() * 1000, name=f"{number}.txt", media_type="text/plain")
                file = await case.provider.upload(_upload(sample))
                got = await _fetch(case.provider, file["id"])
                assert hashlib.sha256(got).hexdigest() == sample.sha256, f"one of {CROWD} files came back as another"
                await case.provider.delete(_of(file["id"]))

            await asyncio.gather(*map(one, range(CROWD)))
            _check_left(case)

        self._in("keeping", scenario)

    def test_a_download_may_be_closed_before_its_end(self) -> None:
        """As a task does that is cancelled; the provider goes on."""
        self._needs_files()

        async def scenario(case: Case) -> None:
            file = await case.provider.upload(_upload(Sample(3 * PIECE)))
            await (await case.provider.content(_of(file["id"]))).aclose()
            download = await case.provider.content(_of(file["id"]))
            await anext(aiter(download))
            await download.aclose()
            await case.provider.delete(_of(file["id"]))

        self._in("keeping", scenario)

    def test_an_error_of_the_source_gets_out_and_leaves_nothing(self) -> None:
        """What `content.read()` raises is why the task fails, not that the connection was then lost."""
        self._needs_files()

        async def scenario(case: Case) -> None:
            error = NotFound("the source is gone")
            sample = Sample(3 * PIECE, failure=error, after=2 * PIECE)
            raised = await self._failure("upload", case.provider.upload(_upload(sample)))
            assert raised is error, f"upload() raises {raised!r} in place of what content.read() raised"
            assert sample.open == 0, "upload() does not close the iterator of content.read()"
            _check_left(case)

        self._in("keeping", scenario)

    def test_cancelling_an_upload_closes_its_connection_and_leaves_nothing(self) -> None:
        """Also where the endpoint does not read: what is still to be sent is not waited for."""
        self._needs_files()

        async def scenario(case: Case) -> None:
            assert case.arrived is not None, "the case `stalling` needs `arrived`"
            sample = Sample(_LARGE)
            task = asyncio.create_task(case.provider.upload(_upload(sample)))
            await self._cancel(task, case.arrived())
            await self._wait_closed(case)
            assert sample.open == 0, "upload() does not close the iterator of content.read()"
            _check_left(case)

        self._in("stalling", scenario)

    # ------------------------------------------------------------------ errors

    def test_an_error_about_files_is_classified_and_shows_no_credential(self, code: str) -> None:
        """As that of a chat is."""
        self._needs_files()
        self._check_classified(code, _OF_FILES)

    def test_an_error_of_any_other_call_is_classified_and_shows_no_credential(self, code: str) -> None:
        """Of each method that the provider has: embeddings, models, speech, transcription, images."""
        had = _had(self.plugin)
        if not had:
            pytest.skip("the provider has none of " + ", ".join(_OTHERS))
        self._check_classified(code, had)

    def test_garbage_is_an_error_of_any_other_call(self) -> None:
        """Except where the answer may be anything: bytes, text, whatever JSON says that a file was deleted."""
        had = {**_had(self.plugin), **(_OF_FILES if self._make().capabilities.files else {})}
        if not had:
            pytest.skip("the provider has none but chat")

        async def scenario(case: Case, body: bytes) -> None:
            for name, call in had.items():
                found = self._outcome if name in _ANYTHING or is_json(body) else self._failure
                await found(name, call(case.provider))

        self._in_garbage(list(GARBAGE.values()), scenario)

    def _check_classified(self, code: str, calls: Mapping[str, _Call]) -> None:
        async def scenario(case: Case) -> None:
            for name, call in calls.items():
                error = await self._failure(name, call(case.provider))
                assert error.code == code, f"{name}(): expected {code}, not {error}"
                assert error.message.strip(), f"{name}(): the error has no message"
            _check_left(case)

        self._in("failing", scenario, code)

    def _needs_files(self) -> None:
        if not self._make().capabilities.files:
            pytest.skip("the provider has no files (capabilities.files is False)")

    async def _failure(self, name: str, call: Coroutine[Any, Any, object]) -> TaskError:
        error = await self._outcome(name, call)
        if error is None:
            pytest.fail(f"{name}() took the answer for a good one; expected an error")
        return error

    async def _outcome(self, name: str, call: Coroutine[Any, Any, object]) -> TaskError | None:
        """The error of a call; None where it has none."""
        try:
            result = await call
            if isinstance(result, Download):
                await result.aclose()
        except TaskError as exc:
            self._check_error(exc)
            return exc
        except Exception as exc:  # noqa: BLE001  Whatever it is, it is the finding.
            pytest.fail(f"{name}() raised {exc!r}, which is reported as `internal`: map it to a class of the seam")
        return None


def _had(plugin: type[Provider]) -> dict[str, _Call]:
    """The other calls that a provider has."""
    return {name: call for name, call in _OTHERS.items() if getattr(plugin, name) is not getattr(Provider, name)}


def _upload(sample: Sample, **fields: Any) -> UploadRequest:
    return UploadRequest(body={"purpose": "user_data", **fields}, content=sample, task="kit")


def _of(file_id: str) -> FileRequest:
    return FileRequest(file_id=file_id, task="kit")


async def _fetch(made: Provider, file_id: str) -> bytes:
    download = await made.content(_of(file_id))
    try:
        return b"".join([piece async for piece in download])
    finally:
        await download.aclose()


def _check_file(file: Mapping[str, Any], sample: Sample) -> None:
    assert file.get("object") == "file", f"this is no `file` object: {sorted(file)}"
    assert isinstance(file.get("id"), str), "the file has no `id`"
    assert file["id"], "the file's `id` is empty"
    assert file.get("bytes") == sample.size, f"the file has {file.get('bytes')} `bytes`, and {sample.size} were sent"
    assert isinstance(file.get("created_at"), int), f"`created_at` is {file.get('created_at')!r}, not Unix time"
    assert isinstance(file.get("filename"), str), "the file has no `filename`"


def _check_left(case: Case) -> None:
    if case.left is not None and (left := list(case.left())):
        pytest.fail(f"left at the endpoint: {left}")
