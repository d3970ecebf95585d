"""The contract of files finds each of the faults that it is there for, and none in a provider without any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from deltabus.provider import (
    Capabilities,
    Chunk,
    Download,
    NotFound,
    Provider,
    ProviderProtocol,
    ProviderUnavailable,
    RateLimited,
)
from deltabus.testing import Case
from deltabus.testing.filecontract import FileContract

SECRET = "key-0123456789"
ERRORS = {"rate_limited": RateLimited, "provider_unavailable": ProviderUnavailable}


class Endpoint:
    """What a server would be: it keeps files, refuses, or stalls."""

    def __init__(self, behaviour: str | Callable[[], bytes]) -> None:
        self.behaviour = behaviour
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.made = 0
        self.arrived = asyncio.Event()
        self.closed = asyncio.Event()

    def ask(self) -> None:
        if callable(self.behaviour):
            raise ProviderProtocol("this is no answer")
        if self.behaviour in ERRORS:
            raise ERRORS[self.behaviour](f"the endpoint says {self.behaviour}")


class Good(Provider):
    """Keeps every promise. The faulty ones below break one each."""

    capabilities = Capabilities(files=True)

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.endpoint: Endpoint = settings["endpoint"]

    async def chat(self, request):
        yield Chunk.of({})

    async def upload(self, request):
        self.endpoint.ask()
        data = b""
        pieces = request.content.read()
        try:
            async for piece in pieces:
                data += piece
                self.endpoint.arrived.set()
                if self.endpoint.behaviour == "stalling":
                    await asyncio.Event().wait()
        finally:
            await pieces.aclose()
            self.endpoint.closed.set()
        return self.keep(data, request.content.name)

    def keep(self, data, name):
        self.endpoint.made += 1
        file_id = f"file-{self.endpoint.made}"
        self.endpoint.files[file_id], self.endpoint.names[file_id] = data, name
        return self.document(file_id)

    def document(self, file_id):
        data = self.endpoint.files.get(file_id)
        if data is None:
            raise NotFound("no such file")
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(data),
            "created_at": 1,
            "filename": self.endpoint.names[file_id],
        }

    async def files(self, request):
        self.endpoint.ask()
        return {
            "object": "list",
            "data": [self.document(file_id) for file_id in self.endpoint.files],
            "has_more": False,
        }

    async def file(self, request):
        self.endpoint.ask()
        return self.document(request.file_id)

    async def content(self, request):
        self.endpoint.ask()
        self.document(request.file_id)
        data = self.endpoint.files[request.file_id]

        async def pieces():
            for place in range(0, len(data), 1000000):
                yield data[place : place + 1000000]

        return Download(pieces())

    async def delete(self, request):
        self.endpoint.ask()
        self.document(request.file_id)
        del self.endpoint.files[request.file_id]
        return {"id": request.file_id, "object": "file", "deleted": True}

    async def embeddings(self, request):
        self.endpoint.ask()
        return {}


class Kit(FileContract):
    plugin = Good
    secret = SECRET
    codes = tuple(ERRORS)
    exempt: ClassVar[Mapping[str, str]] = {}
    patience = 0.6  # Silence, however busy the machine is.

    def settings(self):
        return {"endpoint": Endpoint("keeping")}

    @asynccontextmanager
    async def case(self, behaviour):
        endpoint = Endpoint(behaviour)
        yield Case(
            provider=self.plugin("kit", {"endpoint": endpoint}),
            request={},
            arrived=endpoint.arrived.wait,
            closed=endpoint.closed.wait,
            left=lambda: list(endpoint.files),
        )

    def keeping(self):
        return self.case("keeping")

    def stalling(self):
        return self.case("stalling")

    def failing(self, code):
        return self.case(code)

    def garbage(self, body):
        return self.case(body)


class TestGood(Kit):
    pass


class AddsBytes(Good):
    def keep(self, data, name):
        return super().keep(data + b"\r\n", name)


class SaysRightKeepsWrong(Good):
    def keep(self, data, name):
        document = super().keep(data, name)
        self.endpoint.files[document["id"]] = data[::-1]
        return document


class TextDates(Good):
    def document(self, file_id):
        return {**super().document(file_id), "created_at": "2023-11-14T22:13:20Z"}


class NoHasMore(Good):
    async def files(self, request):
        return {"object": "list", "data": []}


class Forgets(Good):
    async def files(self, request):
        return {"object": "list", "data": [], "has_more": False}


class DeletesNothing(Good):
    async def delete(self, request):
        return {"id": request.file_id, "object": "file", "deleted": True}


class MissingIsServerError(Good):
    def document(self, file_id):
        if file_id not in self.endpoint.files:
            raise ProviderUnavailable("unable to find file")
        return super().document(file_id)


class LeavesHalf(Good):
    async def upload(self, request):
        document = self.keep(b"", "half")
        made = await super().upload(request)
        del self.endpoint.files[document["id"]]
        return made


class HidesTheSource(Good):
    async def upload(self, request):
        try:
            return await super().upload(request)
        except NotFound as exc:
            raise ProviderUnavailable("the connection was lost") from exc


class LeavesReadersOpen(Good):
    async def upload(self, request):
        self.endpoint.ask()
        self.pieces = request.content.read()
        first = await anext(self.pieces)
        return self.keep(first, request.content.name)


class ChangesBody(Good):
    async def upload(self, request):
        request.body.pop("expires_after", None)
        return await super().upload(request)


class Mixes(Good):
    async def upload(self, request):
        document = await super().upload(request)
        await asyncio.sleep(0)
        self.endpoint.files[document["id"]] = self.endpoint.files[f"file-{self.endpoint.made}"]
        return document


class KeepsConnection(Good):
    async def upload(self, request):
        closed, self.endpoint.closed = self.endpoint.closed, asyncio.Event()
        try:
            return await super().upload(request)
        finally:
            self.endpoint.closed = closed


class RaisesForeign(Good):
    async def delete(self, request):
        raise OSError("connection refused")


class SwallowsErrors(Good):
    async def content(self, request):
        async def nothing():
            yield b"x"

        return Download(nothing())


class EmbedsRegardless(Good):
    async def embeddings(self, request):
        return {"data": []}


class ShowsKey(Good):
    async def file(self, request):
        raise RateLimited(f"{SECRET} is too fast")


FAULTS = [
    (AddsBytes, "test_a_file_comes_back_as_it_was_sent", "the file has 3 `bytes`, and 1 were sent"),
    (SaysRightKeepsWrong, "test_a_file_comes_back_as_it_was_sent", "other bytes came back"),
    (TextDates, "test_a_file_comes_back_as_it_was_sent", "not Unix time"),
    (NoHasMore, "test_a_file_comes_back_as_it_was_sent", "does not say whether it `has_more`"),
    (Forgets, "test_a_file_comes_back_as_it_was_sent", "is not in the list"),
    (DeletesNothing, "test_a_file_comes_back_as_it_was_sent", "left at the endpoint"),
    (LeavesReadersOpen, "test_a_file_comes_back_as_it_was_sent", "does not close the iterator"),
    (MissingIsServerError, "test_a_file_that_was_deleted_is_not_found", "must raise NotFound"),
    (DeletesNothing, "test_a_file_that_was_deleted_is_not_found", "took the answer for a good one"),
    (ChangesBody, "test_an_upload_does_not_change_its_request", "changes the body"),
    (Mixes, "test_many_uploads_at_once_do_not_mix", "came back as another"),
    (LeavesHalf, "test_an_error_of_the_source_gets_out_and_leaves_nothing", "left at the endpoint"),
    (HidesTheSource, "test_an_error_of_the_source_gets_out_and_leaves_nothing", "in place of what content.read()"),
    (KeepsConnection, "test_cancelling_an_upload_closes_its_connection_and_leaves_nothing", "was still open"),
    (LeavesHalf, "test_cancelling_an_upload_closes_its_connection_and_leaves_nothing", "left at the endpoint"),
    (RaisesForeign, "test_an_error_about_files_is_classified_and_shows_no_credential", "delete() raised OSError"),
    (SwallowsErrors, "test_an_error_about_files_is_classified_and_shows_no_credential", "content() took the answer"),
    (ShowsKey, "test_an_error_about_files_is_classified_and_shows_no_credential", "shows the credential"),
    (EmbedsRegardless, "test_garbage_is_an_error_of_any_other_call", "embeddings() took the answer for a good one"),
    (RaisesForeign, "test_garbage_is_an_error_of_any_other_call", "delete() raised OSError"),
    (
        EmbedsRegardless,
        "test_an_error_of_any_other_call_is_classified_and_shows_no_credential",
        "embeddings() took the answer for a good one",
    ),
]


@pytest.mark.parametrize(("faulty", "test", "told"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_found(faulty: type[Provider], test: str, told: str) -> None:
    kit = type("Faulty", (Kit,), {"plugin": faulty})()
    code = ["rate_limited"] if "classified" in test else []
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(kit, test)(*code)
    assert told in str(caught.value)


def test_a_provider_with_files_must_say_how_they_are_brought_about() -> None:
    kit = type("Bare", (Kit,), {"keeping": FileContract.keeping})()
    with pytest.raises(pytest.fail.Exception, match=r"define keeping\(\)"):
        kit.test_a_file_that_was_deleted_is_not_found()
