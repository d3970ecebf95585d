"""What a contract is tested in: cases, the hooks that bring them about, and a runner that fails rather than hangs."""

from __future__ import annotations

import asyncio
import copy
import difflib
import math
import reprlib
import time
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn, cast

import pytest

from deltabus.provider import ChatRequest, Chunk, Completion, Provider, TaskError
from deltabus.testing.patience import UTMOST, PatientLoop

#: Hooks of the contract that a subclass may be exempt from.
_SITUATIONS: Final = ("pausing", "silent", "breaking_off", "failing", "garbage", "keeping", "stalling")

#: Seconds within which the connection of an answer that nobody wants any more is closed.
PROMPT: Final = 0.1
#: How often that may fail: a slow plugin is slow each time, a slow machine is not.
_TRIES: Final = 20

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
    #: What the endpoint keeps now: files, uploads that were begun.
    left: Callable[[], Sequence[object]] | None = None

    async def answer(self, *, stream: bool) -> list[Chunk | Completion]:
        """Ask, and collect what comes until the end."""
        return [item async for item in self.provider.chat(self.ask(stream=stream))]

    def open(self) -> AsyncGenerator[Chunk | Completion, None]:
        """Ask for a stream, to be read and closed by hand."""
        stream = self.provider.chat(self.ask(stream=True))
        assert hasattr(stream, "aclose"), "chat() must be an async generator: its iterator needs aclose()"
        return cast("AsyncGenerator[Chunk | Completion, None]", stream)

    def ask(self, *, stream: bool) -> ChatRequest:
        """The request; its body is a copy."""
        return ChatRequest(body={**copy.deepcopy(dict(self.request)), "stream": stream}, task="kit")


class Situations:
    """What a subclass of a contract gives. The class that derives from this one directly is the contract."""

    #: The plugin's class.
    plugin: ClassVar[type[Provider]]

    #: The credential in `settings`: it must not be in any error, nor in what `check` says.
    secret: ClassVar[str] = ""

    #: Codes of the errors that `failing` can make the endpoint answer with.
    codes: ClassVar[tuple[str, ...]] = ()

    #: Bodies of good answers to a chat, streamed and not, for the kit to garble; those of the API's own shapes.
    answers: ClassVar[Sequence[bytes]] = ()

    #: Standard tests, situations, or `closed`, that do not apply, each with the reason.
    exempt: ClassVar[Mapping[str, str]] = {}

    #: Seconds of silence after which what should be immediate counts as hanging. Time in which anything happens, and
    #: time in which a busy machine gives the test no turn, do not count.
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

    def garbage(self, body: Callable[[], bytes]) -> AbstractAsyncContextManager[Case]:
        """The endpoint answers every request with a 200 and what `body()` is by then, as if that had been asked for."""
        raise NotImplementedError

    def keeping(self) -> AbstractAsyncContextManager[Case]:
        """The endpoint keeps files, gives them back and deletes them. Wanted where `capabilities.files` is true."""
        raise NotImplementedError

    def stalling(self) -> AbstractAsyncContextManager[Case]:
        """The endpoint reads the beginning of an upload, and no more. Wanted where `capabilities.files` is true."""
        raise NotImplementedError

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        standard = cls._standard()
        known = [*standard, *_SITUATIONS, _CLOSED]
        for name, reason in cls.exempt.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                raise TypeError(f"{cls.__name__}.exempt names {name!r}, which the contract does not have; {hint}")
            if not reason.strip():
                raise TypeError(f"{cls.__name__}.exempt gives no reason for {name!r}")
        for name in standard:
            if getattr(cls, name) is not standard[name] and name not in cls.exempt:
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
        if name in self.exempt and getattr(type(self), name) is self._standard().get(name):
            pytest.skip(self.exempt[name])

    @classmethod
    def _standard(cls) -> dict[str, Callable[..., None]]:
        """The tests of the contract: of this class and those above it that are the kit's own."""
        kit = __name__.rpartition(".")[0]
        own = [base for base in cls.__mro__ if base.__module__.rpartition(".")[0] == kit]
        return {name: test for base in own for name, test in vars(base).items() if name.startswith("test_")}

    def _make(self) -> Provider:
        return self.plugin("kit", self.settings())

    def _in(
        self,
        situation: str,
        scenario: Callable[[Case], Awaitable[None]],
        *how: str | Callable[[], bytes],
        rounds: int = 1,
    ) -> None:
        """Run a scenario in a situation, and fail rather than hang; `rounds` is how often it may take `patience`."""
        if situation in self.exempt:
            pytest.skip(f"{situation}: {self.exempt[situation]}")
        if getattr(type(self), situation) is getattr(Situations, situation):
            pytest.fail(f"define {situation}(), or give in `exempt` the reason why it does not apply")
        if how == ("",):
            pytest.fail("`codes` is empty: name the errors that failing() can bring about")
        manager: AbstractAsyncContextManager[Case] = getattr(self, situation)(*how)

        async def main() -> None:
            async with manager as case:
                try:
                    await scenario(case)
                finally:
                    await case.provider.aclose()

        _run(main(), self.patience * rounds)

    def _promptly(self, situation: str, scenario: Callable[[Case], Awaitable[float]]) -> None:
        """Run a scenario that tells within how many seconds a connection was closed, until one was in time."""
        took: list[float] = []

        async def timed(case: Case) -> None:
            took.append(await scenario(case))

        while not took or min(took) > PROMPT:
            if len(took) == _TRIES:
                pytest.fail(f"the connection was closed {min(took):.2g} s later at best, not within {PROMPT:g} s")
            self._in(situation, timed)

    def _in_garbage(
        self, bodies: Sequence[bytes], scenario: Callable[[Case, bytes], Coroutine[Any, Any, None]]
    ) -> None:
        """Run a scenario with each body, all with one provider: it must come out of each of them fit for the next."""
        body = b""

        async def each(case: Case) -> None:
            nonlocal body
            for body in bodies:
                task = asyncio.create_task(scenario(case, body))
                try:
                    if not await _loop().wait({task}, self.patience):
                        task.cancel()
                        _hangs(self.patience)
                    task.result()
                except BaseException as exc:
                    exc.add_note(f"The endpoint has said {reprlib.repr(body)}.")
                    raise

        self._in("garbage", each, lambda: body, rounds=len(bodies) + 1)

    def _needs_streaming(self, case: Case) -> None:
        if not case.provider.capabilities.streaming:
            pytest.skip("the provider does not stream (capabilities.streaming is False)")

    async def _cancel(self, task: asyncio.Task[Any], ready: Awaitable[object]) -> float:
        """Cancel a task when it is ready for that; returns when that was, by the monotonic clock."""
        waiting = asyncio.ensure_future(ready)
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            pytest.fail(f"it ended before it was cancelled: {task.exception()!r}")
        cancelled = time.monotonic()
        task.cancel()
        assert await _loop().wait({task}, self.patience / 2), "it goes on after it was cancelled"
        assert task.cancelled(), "it swallows its cancellation: asyncio.CancelledError must get out"
        return cancelled

    async def _wait_closed(self, case: Case, since: float = math.inf) -> float:
        """Wait until the answer's connection is closed; returns how many seconds after a moment that was."""
        if _CLOSED in self.exempt:
            return 0.0
        assert case.closed is not None, "the case needs `closed`; where there is no connection, exempt it"
        closed = asyncio.ensure_future(case.closed())
        if not await _loop().wait({closed}, self.patience / 2):
            closed.cancel()
            pytest.fail(f"the connection was still open {self.patience / 2:g} s later")
        closed.result()
        return time.monotonic() - since

    async def _error(self, case: Case, *, stream: bool) -> TaskError:
        error = await self._read(case, stream=stream)
        if error is None:
            pytest.fail("the answer passed for a good one; expected an error")
        return error

    async def _read(self, case: Case, *, stream: bool) -> TaskError | None:
        """The error of an answer; None where it has none."""
        try:
            await case.answer(stream=stream)
        except TaskError as exc:
            self._check_error(exc)
            return exc
        except Exception as exc:  # noqa: BLE001  Whatever it is, it is the finding.
            pytest.fail(f"raised {exc!r}, which is reported as `internal`: map it to a class of deltabus.provider")
        return None

    def _check_error(self, error: TaskError) -> None:
        self._check_hidden("the error", f"{error} {error.info} {error!r}")
        self._check_hidden("the error's traceback", "".join(traceback.format_exception(error)))

    def _check_hidden(self, what: str, text: str) -> None:
        assert not self.secret or self.secret not in text, f"{what} shows the credential"


def _hangs(patience: float) -> NoReturn:
    pytest.fail(f"nothing happened for {patience:g} s (`patience`), or it went on for {patience * UTMOST:g} s")


def _loop() -> PatientLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PatientLoop)
    return loop


def _run(main: Coroutine[Any, Any, None], patience: float) -> None:
    """`asyncio.run` that neither hangs in code that swallows its cancellation, nor waits for ever."""
    loop = PatientLoop()
    try:
        task = loop.create_task(main)
        if not loop.run_until_complete(loop.wait({task}, patience)):
            task.cancel()
            loop.run_until_complete(loop.wait({task}, patience / 10))
            _hangs(patience)
        task.result()
    finally:
        for left in (left_tasks := asyncio.all_tasks(loop)):
            left.cancel()
        for left in left_tasks:
            loop.run_until_complete(loop.wait({left}, patience / 10))
        loop.run_until_complete(loop.wait({loop.create_task(loop.shutdown_asyncgens())}, patience / 10))
        loop.close()
