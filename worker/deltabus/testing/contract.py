"""What every provider plugin passes, ours and anybody's.

Subclass `ProviderContract` in a test file, say how to bring about each situation, and run pytest::

    class TestAcme(ProviderContract):
        plugin = AcmeProvider
        secret = "acme-key-0123456789"
        codes = ("authentication", "rate_limited")

        def settings(self):
            return {"base_url": "http://127.0.0.1:1", "api_key": self.secret}

        @asynccontextmanager
        async def answering(self): ...

A situation is an async context manager that yields a `Case`: an endpoint on loopback that behaves
in a certain way, and a provider that talks to it. What cannot be brought about, or does not apply,
is named in `exempt` with the reason, and skipped with it; nothing is skipped silently, and a
standard test cannot be overridden in silence either.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import reprlib
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Final, cast

import pytest

from deltabus import provider as seam
from deltabus.provider import Chunk, Completion, ConfigError, Health, Provider, StreamTruncated, TaskError
from deltabus.registry import GROUP, plugins
from deltabus.testing.chunks import completion_violations, stream_text, stream_violations
from deltabus.testing.filecontract import CROWD, FileContract
from deltabus.testing.garbage import GARBAGE, events, garbled
from deltabus.testing.situations import Case

__all__ = ["CROWD", "Case", "ProviderContract"]

_ERRORS: Final[Mapping[str, type[TaskError]]] = {
    error.code: error
    for error in (getattr(seam, name) for name in seam.__all__)
    if inspect.isclass(error) and issubclass(error, TaskError) and error is not TaskError
}


class ProviderContract(FileContract):
    """The contract. A subclass, whose name starts with `Test`, gives what `Situations` lists."""

    # ------------------------------------------------------------------ the class and its settings

    def test_is_a_class_that_can_be_made(self) -> None:
        """Everything abstract of `Provider` is there."""
        assert issubclass(self.plugin, Provider), f"{self.plugin} is not a subclass of deltabus.provider.Provider"
        missing = ", ".join(sorted(self.plugin.__abstractmethods__))
        assert not missing, f"{self.plugin.__name__} does not define {missing}"

    def test_is_registered_by_entry_point(self) -> None:
        """Installed, it can be named in deltabus.toml."""
        package = self.plugin.__module__.partition(".")[0]
        ours = [entry for entry in plugins().values() if entry.module.partition(".")[0] == package]
        assert any(entry.load() is self.plugin for entry in ours), (
            f"no entry point of the group {GROUP!r} leads to {self.plugin.__name__}: is the package installed?"
        )

    def test_is_made_without_a_loop_and_without_connecting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`__init__` runs before there is a loop, in every worker, whether or not the endpoint is up."""

        def connects(*_: object, **__: object) -> None:
            pytest.fail("__init__ connects or looks a name up; it must not block")

        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, connects)
        monkeypatch.setattr(socket, "getaddrinfo", connects)
        self._make()

    def test_does_not_change_its_settings(self) -> None:
        """The table is the bus'."""
        settings = self.settings()
        before = copy.deepcopy(settings)
        self.plugin("kit", settings)
        assert settings == before, "__init__ changes the mapping that it is given"

    def test_an_unknown_setting_is_refused_by_name_and_told_the_nearest(self) -> None:
        """A slip of the pen in deltabus.toml is found when the provider is made, not when it is missed."""
        settings = self.settings()
        # A key without its last letter; longer keys are less likely to become another one's name.
        right = max(settings, key=len, default="")
        wrong = right[:-1] or "xyzzy"
        with pytest.raises(ConfigError) as caught:
            self.plugin("kit", {**settings, wrong: settings.get(right, 1)})
        told = str(caught.value)
        assert wrong in told, f"the ConfigError does not name the unknown key {wrong!r}"
        assert right in told.replace(wrong, "", 1), f"for {wrong!r}, the ConfigError does not suggest {right!r}"
        self._check_hidden("the ConfigError", told)

    # ------------------------------------------------------------------ answers

    def test_a_stream_keeps_the_grammar_of_chunks(self) -> None:
        """One JSON object each, one finish_reason for each choice, nothing after it, and not empty."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            _check("the stream", stream_violations(await case.answer(stream=True)))

        self._in("answering", scenario)

    def test_a_stream_brings_the_whole_text_in_order(self) -> None:
        """What the endpoint says is what a subscriber reads."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            _check_text(case, stream_text(await case.answer(stream=True)))

        self._in("answering", scenario)

    def test_an_answer_that_is_not_streamed_is_one_completion(self) -> None:
        """With the same text as the stream."""

        async def scenario(case: Case) -> None:
            items = await case.answer(stream=False)
            _check("the answer", completion_violations(items))
            data = cast("Completion", items[0]).data
            _check_text(case, data["choices"][0]["message"].get("content"))

        self._in("answering", scenario)

    def test_the_request_is_not_changed(self) -> None:
        """A retry sends the same body."""

        async def scenario(case: Case) -> None:
            for stream in (True, False):
                request = case.ask(stream=stream)
                before = copy.deepcopy(request.body)
                async for _ in case.provider.chat(request):
                    pass
                assert request.body == before, "chat() changes the body of the request"

        self._in("answering", scenario)

    def test_many_requests_at_once_do_not_mix(self) -> None:
        """One instance serves hundreds of requests."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            answers = await asyncio.gather(*(case.answer(stream=True) for _ in range(CROWD)))
            for items in answers:
                _check(f"one of {CROWD} streams", stream_violations(items))
                _check_text(case, stream_text(items))

        self._in("answering", scenario)

    def test_many_streams_are_open_at_once(self) -> None:
        """No stream waits for another one to end: no pool is too small, and chunks come as they arrive."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            streams = [case.open() for _ in range(CROWD)]
            await asyncio.gather(*(_first(stream) for stream in streams))
            await asyncio.gather(*(stream.aclose() for stream in streams))

        self._in("pausing", scenario)

    # ------------------------------------------------------------------ cancellation

    def test_cancelling_a_stream_closes_its_connection(self) -> None:
        """At once: tokens that nobody wants are not generated, and not paid for."""

        async def scenario(case: Case) -> float:
            self._needs_streaming(case)
            began = asyncio.Event()

            async def read() -> None:
                async for _ in case.provider.chat(case.ask(stream=True)):
                    began.set()

            cancelled = await self._cancel(asyncio.create_task(read()), began.wait())
            return await self._wait_closed(case, cancelled)

        self._promptly("pausing", scenario)

    def test_closing_the_iterator_closes_the_connection(self) -> None:
        """As the engine does where it has seen enough."""

        async def scenario(case: Case) -> float:
            self._needs_streaming(case)
            stream = case.open()
            await _first(stream)
            closing = time.monotonic()
            await stream.aclose()
            return await self._wait_closed(case, closing)

        self._promptly("pausing", scenario)

    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
    def test_cancelling_a_request_that_meets_silence_closes_its_connection(self, stream: bool) -> None:
        """Also before the first byte."""

        async def scenario(case: Case) -> float:
            assert case.arrived is not None, "the case `silent` needs `arrived`"
            task = asyncio.create_task(case.answer(stream=stream))
            cancelled = await self._cancel(task, case.arrived())
            return await self._wait_closed(case, cancelled)

        self._promptly("silent", scenario)

    # ------------------------------------------------------------------ errors

    def test_a_stream_that_breaks_off_is_an_error(self) -> None:
        """Half an answer never passes for a whole one."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            error = await self._error(case, stream=True)
            assert isinstance(error, StreamTruncated), f"expected StreamTruncated, not {type(error).__name__}: {error}"

        self._in("breaking_off", scenario)

    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
    def test_an_error_is_classified_and_shows_no_credential(self, code: str, stream: bool) -> None:
        """The code decides on retries; the message goes to whoever sent the task."""

        async def scenario(case: Case) -> None:
            error = await self._error(case, stream=stream)
            assert error.code == code, f"expected {code}, not {error}"
            assert type(error) is _ERRORS[code], f"a {code} must be raised as {_ERRORS[code].__name__}"
            assert error.message.strip(), "the error has no message"

        self._in("failing", scenario, code)

    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
    def test_garbage_is_an_error(self, stream: bool) -> None:
        """A proxy's page, half a document, a value of the wrong type: never an exception of whatever reads it."""

        async def nonsense(case: Case, _: bytes) -> None:
            error = await self._error(case, stream=stream)
            assert error.message.strip(), "the error has no message"

        async def perhaps(case: Case, _: bytes) -> None:
            await self._read(case, stream=stream)

        self._in_garbage([said for body in GARBAGE.values() for said in (body, events(body))], nonsense)
        self._in_garbage([said for answer in self.answers for said in garbled(answer)], perhaps)

    def test_check_does_not_raise_at_garbage(self) -> None:
        """It may say that all is well: what it asks for may have been there."""

        async def scenario(case: Case, _: bytes) -> None:
            try:
                health = await case.provider.check()
            except Exception as exc:  # noqa: BLE001  Whatever it is, it is the finding.
                pytest.fail(f"check() raised {exc!r}; it says what is wrong in the Health that it returns")
            assert health.detail.strip(), "check() gives no detail"

        self._in_garbage(list(GARBAGE.values()), scenario)

    def test_check_tells_of_the_endpoint_without_raising(self, code: str) -> None:
        """What `deltabus check` prints: one line, whether all is well or not, and no credential."""

        async def scenario(case: Case) -> None:
            health = await case.provider.check()
            assert isinstance(health, Health), f"check() returns {type(health).__name__}, not Health"
            assert health.detail.strip(), "check() gives no detail"
            assert "\n" not in health.detail, "check() gives more than one line of detail"
            self._check_hidden("what check() says", f"{health.detail} {health.models}")

        self._in("answering", scenario)
        self._in("failing", scenario, code)

    # ------------------------------------------------------------------ the end

    def test_closing_closes_idle_connections(self) -> None:
        """What was kept for the next request is not left to the garbage collector."""

        async def scenario(case: Case) -> None:
            await case.answer(stream=False)
            await case.provider.aclose()
            await self._wait_closed(case)

        self._in("answering", scenario)

    def test_closing_twice_is_harmless(self) -> None:
        """Closed after use, unused, and once more."""

        async def scenario(case: Case) -> None:
            await case.answer(stream=False)
            await case.provider.aclose()
            await case.provider.aclose()
            unused = self._make()
            await unused.aclose()
            await unused.aclose()

        self._in("answering", scenario)


async def _first(stream: AsyncGenerator[Chunk | Completion, None]) -> None:
    try:
        await anext(stream)
    except StopAsyncIteration:
        pytest.fail("the stream ended where the endpoint had only paused")


def _check(what: str, violations: list[str]) -> None:
    if violations:
        pytest.fail(f"{what} breaks the rules:\n" + "\n".join(violations))


def _check_text(case: Case, text: object) -> None:
    assert text == case.text, f"the provider says {reprlib.repr(text)}, the endpoint {reprlib.repr(case.text)}"
