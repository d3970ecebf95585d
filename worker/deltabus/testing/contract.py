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
import difflib
import inspect
import reprlib
import socket
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import pytest

from deltabus import provider as seam
from deltabus.provider import (
    ChatRequest,
    Chunk,
    Completion,
    ConfigError,
    Health,
    Provider,
    StreamTruncated,
    TaskError,
)
from deltabus.registry import GROUP, plugins
from deltabus.testing.chunks import completion_violations, stream_text, stream_violations

#: How many requests one provider has under way at once in the tests of concurrency.
CROWD: Final = 100

_ERRORS: Final[Mapping[str, type[TaskError]]] = {
    error.code: error
    for error in (getattr(seam, name) for name in seam.__all__)
    if inspect.isclass(error) and issubclass(error, TaskError) and error is not TaskError
}

#: Hooks of the contract that a subclass may be exempt from.
_SITUATIONS: Final = ("pausing", "silent", "breaking_off", "failing")

#: A `closed` that a Case need not have, where there is no connection.
_CLOSED: Final = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A provider, and an endpoint that will behave in a certain way when it is asked."""

    #: Made for this case; the contract closes it.
    provider: Provider
    #: Body of a request, as the API documents it; the contract sets `stream`.
    request: Mapping[str, Any]
    #: Content of choice 0 that the endpoint says, where it answers in full.
    text: str = ""
    #: Returns when the endpoint has received a request.
    arrived: Callable[[], Awaitable[object]] | None = None
    #: Returns when the endpoint has seen the request's connection close.
    closed: Callable[[], Awaitable[object]] | None = None


class ProviderContract:
    """The contract. A subclass gives what stands before the tests; its name starts with `Test`."""

    #: The plugin's class.
    plugin: ClassVar[type[Provider]]

    #: The credential in `settings`: it must not be in any error, nor in what `check` says.
    secret: ClassVar[str] = ""

    #: Codes of the errors that `failing` can make the endpoint answer with.
    codes: ClassVar[tuple[str, ...]] = ()

    #: Standard tests, situations, or `closed`, that do not apply, each with the reason.
    exempt: ClassVar[Mapping[str, str]] = {}

    #: Seconds after which what should be immediate counts as hanging.
    patience: ClassVar[float] = 10.0

    def settings(self) -> dict[str, Any]:
        """A table `[providers.<name>]` that the plugin likes; nothing connects to what it names."""
        raise NotImplementedError("define settings(): a table that the plugin likes")

    def answering(self) -> AbstractAsyncContextManager[Case]:
        """The endpoint answers every request in full, at once, streamed or not, always with `Case.text`."""
        raise NotImplementedError

    def pausing(self) -> AbstractAsyncContextManager[Case]:
        """The endpoint streams the beginning of an answer, then keeps the connection open and is silent."""
        raise NotImplementedError

    def silent(self) -> AbstractAsyncContextManager[Case]:
        """The endpoint takes the request and says nothing at all."""
        raise NotImplementedError

    def breaking_off(self) -> AbstractAsyncContextManager[Case]:
        """The endpoint streams the beginning of an answer, then ends as if that were all."""
        raise NotImplementedError

    def failing(self, code: str) -> AbstractAsyncContextManager[Case]:
        """The endpoint refuses every request in the way that the plugin is to classify as `code`."""
        raise NotImplementedError

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
            _check("the stream", stream_violations(await _answer(case, stream=True)))

        self._in("answering", scenario)

    def test_a_stream_brings_the_whole_text_in_order(self) -> None:
        """What the endpoint says is what a subscriber reads."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            self._check_text(case, stream_text(await _answer(case, stream=True)))

        self._in("answering", scenario)

    def test_an_answer_that_is_not_streamed_is_one_completion(self) -> None:
        """With the same text as the stream."""

        async def scenario(case: Case) -> None:
            items = await _answer(case, stream=False)
            _check("the answer", completion_violations(items))
            data = cast("Completion", items[0]).data
            self._check_text(case, data["choices"][0]["message"].get("content"))

        self._in("answering", scenario)

    def test_the_request_is_not_changed(self) -> None:
        """A retry sends the same body."""

        async def scenario(case: Case) -> None:
            for stream in (True, False):
                request = _request(case, stream=stream)
                before = copy.deepcopy(request.body)
                async for _ in case.provider.chat(request):
                    pass
                assert request.body == before, "chat() changes the body of the request"

        self._in("answering", scenario)

    def test_many_requests_at_once_do_not_mix(self) -> None:
        """One instance serves hundreds of requests."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            answers = await asyncio.gather(*(_answer(case, stream=True) for _ in range(CROWD)))
            for items in answers:
                _check(f"one of {CROWD} streams", stream_violations(items))
                self._check_text(case, stream_text(items))

        self._in("answering", scenario)

    def test_many_streams_are_open_at_once(self) -> None:
        """No stream waits for another one to end: no pool is too small, and chunks come as they arrive."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            streams = [_open(case) for _ in range(CROWD)]
            await asyncio.gather(*(_first(stream) for stream in streams))
            await asyncio.gather(*(stream.aclose() for stream in streams))

        self._in("pausing", scenario)

    # ------------------------------------------------------------------ cancellation

    def test_cancelling_a_stream_closes_its_connection(self) -> None:
        """Tokens that nobody wants are not generated, and not paid for."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            began = asyncio.Event()

            async def read() -> None:
                async for _ in case.provider.chat(_request(case, stream=True)):
                    began.set()

            await self._cancel(asyncio.create_task(read()), began.wait())
            await self._wait_closed(case)

        self._in("pausing", scenario)

    def test_closing_the_iterator_closes_the_connection(self) -> None:
        """As the engine does where it has seen enough."""

        async def scenario(case: Case) -> None:
            self._needs_streaming(case)
            stream = _open(case)
            await _first(stream)
            await stream.aclose()
            await self._wait_closed(case)

        self._in("pausing", scenario)

    @pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
    def test_cancelling_a_request_that_meets_silence_closes_its_connection(self, stream: bool) -> None:
        """Also before the first byte."""

        async def scenario(case: Case) -> None:
            assert case.arrived is not None, "the case `silent` needs `arrived`"
            task = asyncio.create_task(_answer(case, stream=stream))
            await self._cancel(task, case.arrived())
            await self._wait_closed(case)

        self._in("silent", scenario)

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

    def test_closing_twice_is_harmless(self) -> None:
        """Closed after use, unused, and once more."""

        async def scenario(case: Case) -> None:
            await _answer(case, stream=False)
            await case.provider.aclose()
            await case.provider.aclose()
            unused = self._make()
            await unused.aclose()
            await unused.aclose()

        self._in("answering", scenario)

    # ------------------------------------------------------------------ machinery

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        standard = [name for name in vars(ProviderContract) if name.startswith("test_")]
        known = [*standard, *_SITUATIONS, _CLOSED]
        for name, reason in cls.exempt.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise TypeError(f"{cls.__name__}.exempt names {name!r}, which the contract does not have; {hint}")
            if not reason.strip():
                raise TypeError(f"{cls.__name__}.exempt gives no reason for {name!r}")
        for name in standard:
            if getattr(cls, name) is not getattr(ProviderContract, name) and name not in cls.exempt:
                raise TypeError(
                    f"{cls.__name__} overrides the standard test {name} without saying why: give the reason in `exempt`"
                )

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each of `codes`; where there are none, one that says so."""
        if "code" in metafunc.fixturenames:
            metafunc.parametrize("code", self.codes or ("",), ids=self.codes or ("none",))

    @pytest.fixture(autouse=True)
    def _exemption(self, request: pytest.FixtureRequest) -> None:
        name = request.function.__name__
        if name in self.exempt and getattr(type(self), name) is getattr(ProviderContract, name):
            pytest.skip(self.exempt[name])

    def _make(self) -> Provider:
        return self.plugin("kit", self.settings())

    def _in(self, situation: str, scenario: Callable[[Case], Awaitable[None]], *code: str) -> None:
        """Run a scenario in a situation, and fail rather than hang."""
        if situation in self.exempt:
            pytest.skip(f"{situation}: {self.exempt[situation]}")
        if getattr(type(self), situation) is getattr(ProviderContract, situation):
            pytest.fail(f"define {situation}(), or give in `exempt` the reason why it does not apply")
        if code == ("",):
            pytest.fail("`codes` is empty: name the errors that failing() can bring about")
        manager: AbstractAsyncContextManager[Case] = getattr(self, situation)(*code)

        async def main() -> None:
            async with manager as case:
                try:
                    await scenario(case)
                finally:
                    await case.provider.aclose()

        _run(main(), self.patience)

    def _needs_streaming(self, case: Case) -> None:
        if not case.provider.capabilities.streaming:
            pytest.skip("the provider does not stream (capabilities.streaming is False)")

    async def _cancel(self, task: asyncio.Task[Any], ready: Awaitable[object]) -> None:
        waiting = asyncio.ensure_future(ready)
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            pytest.fail(f"chat() ended before it was cancelled: {task.exception()!r}")
        task.cancel()
        await asyncio.wait({task}, timeout=self.patience)
        assert task.done(), "chat() goes on after it was cancelled"
        assert task.cancelled(), "chat() swallows its cancellation: asyncio.CancelledError must get out"

    async def _wait_closed(self, case: Case) -> None:
        if _CLOSED in self.exempt:
            return
        assert case.closed is not None, "the case needs `closed`; where there is no connection, exempt it"
        try:
            await asyncio.wait_for(case.closed(), self.patience / 2)
        except TimeoutError:
            pytest.fail(f"the connection was still open {self.patience / 2:g} s later")

    async def _error(self, case: Case, *, stream: bool) -> TaskError:
        try:
            await _answer(case, stream=stream)
        except TaskError as exc:
            self._check_hidden("the error", f"{exc} {exc.info} {exc!r}")
            self._check_hidden("the error's traceback", "".join(traceback.format_exception(exc)))
            return exc
        except Exception as exc:  # noqa: BLE001  Whatever it is, it is the finding.
            pytest.fail(f"raised {exc!r}, which is reported as `internal`: map it to a class of deltabus.provider")
        pytest.fail("the answer passed for a good one; expected an error")

    def _check_text(self, case: Case, text: object) -> None:
        assert text == case.text, f"the provider says {reprlib.repr(text)}, the endpoint {reprlib.repr(case.text)}"

    def _check_hidden(self, what: str, text: str) -> None:
        assert not self.secret or self.secret not in text, f"{what} shows the credential"


def _request(case: Case, *, stream: bool) -> ChatRequest:
    return ChatRequest(body={**copy.deepcopy(dict(case.request)), "stream": stream}, task="kit")


async def _answer(case: Case, *, stream: bool) -> list[Chunk | Completion]:
    return [item async for item in case.provider.chat(_request(case, stream=stream))]


def _open(case: Case) -> AsyncGenerator[Chunk | Completion, None]:
    stream = case.provider.chat(_request(case, stream=True))
    assert hasattr(stream, "aclose"), "chat() must be an async generator: its iterator needs aclose()"
    return cast("AsyncGenerator[Chunk | Completion, None]", stream)


async def _first(stream: AsyncGenerator[Chunk | Completion, None]) -> None:
    try:
        await anext(stream)
    except StopAsyncIteration:
        pytest.fail("the stream ended where the endpoint had only paused")


def _check(what: str, violations: list[str]) -> None:
    if violations:
        pytest.fail(f"{what} breaks the rules:\n" + "\n".join(violations))


def _run(main: Coroutine[Any, Any, None], patience: float) -> None:
    """`asyncio.run` that neither hangs in code that swallows its cancellation, nor waits for ever."""
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(main)
        loop.run_until_complete(asyncio.wait({task}, timeout=patience))
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.wait({task}, timeout=patience / 10))
            pytest.fail(f"nothing happened for {patience:g} s (`patience`)")
        task.result()
    finally:
        for left in (left_tasks := asyncio.all_tasks(loop)):
            left.cancel()
        if left_tasks:
            loop.run_until_complete(asyncio.wait(left_tasks, timeout=patience / 10))
        loop.run_until_complete(asyncio.wait({loop.create_task(loop.shutdown_asyncgens())}, timeout=patience / 10))
        loop.close()
