"""The bus for code that blocks: `Bus` and `Task` are `AsyncBus` and `AsyncTask`, run on a private loop.

    with Bus("redis://localhost:6379/0") as bus:
        task = bus.chat(messages="Why is the sky blue?", model="gpt-4o-mini")
        for piece in task.text():
            print(piece, end="")

Any thread may use them, and a forked child too: it gets connections of its own. Signatures, results
and errors are those of the asyncio classes.

Importing this is cheap. The asyncio classes, and with them redis-py and asyncio, take ten times as long: they are
loaded when a bus is made, so that no call waits for that.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast

if TYPE_CHECKING:
    import redis.asyncio

    from deltabus.bus import AsyncBus
    from deltabus.direct import DirectBus
    from deltabus.handle import AsyncTask
    from deltabus.portal import Portal
    from deltabus.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

Async_co = TypeVar("Async_co", covariant=True)

_END = object()


class _Blocking(Protocol[Async_co]):
    """What stands for something of the asyncio classes."""

    @property
    def _here(self) -> Callable[[], Async_co]: ...


class _Twin:
    """A method that is made of that of the asyncio class when it is first looked at."""

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner, self._name = owner, name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        setattr(self._owner, self._name, self._make())
        return getattr(owner if instance is None else instance, self._name)


def _twin(make: Callable[[], F]) -> F:
    return cast("F", _Twin(make))


def _async_bus() -> type[AsyncBus]:
    from deltabus.bus import AsyncBus

    return AsyncBus


def _direct_bus() -> type[DirectBus]:
    from deltabus.direct import DirectBus

    return DirectBus


def _async_task() -> type[AsyncTask]:
    from deltabus.handle import AsyncTask

    return AsyncTask


def _portal() -> Portal:
    from deltabus.portal import portal

    return portal()


def _run(work: Awaitable[T]) -> T:
    return _portal().run(_await(work))


async def _await(work: Awaitable[T]) -> T:
    return await work


def _run_here(work: Coroutine[Any, Any, T]) -> T:
    """Run in this thread what waits only for replies to what it sends: there, a `DirectBus` never suspends."""
    try:
        work.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    work.close()
    raise AssertionError("it waits for something else")


def _sends_at_once(
    method: Callable[Concatenate[AsyncBus, P], Coroutine[Any, Any, AsyncTask]],
) -> Callable[Concatenate[Bus, P], Task]:
    @functools.wraps(method)
    def blocking(self: Bus, /, *args: P.args, **kwargs: P.kwargs) -> Task:
        return self._task(_run_here(method(self._here(), *args, **kwargs)))

    return blocking


def _sends_many(
    method: Callable[Concatenate[AsyncBus, P], Coroutine[Any, Any, list[AsyncTask]]],
) -> Callable[Concatenate[Bus, P], list[Task]]:
    @functools.wraps(method)
    def blocking(self: Bus, /, *args: P.args, **kwargs: P.kwargs) -> list[Task]:
        return [self._task(task) for task in _run_here(method(self._here(), *args, **kwargs))]

    return blocking


def _sends(method: Callable[Concatenate[AsyncBus, P], Awaitable[AsyncTask]]) -> Callable[Concatenate[Bus, P], Task]:
    @functools.wraps(method)
    def blocking(self: Bus, /, *args: P.args, **kwargs: P.kwargs) -> Task:
        return self._task(_run(method(self._here(), *args, **kwargs)))

    return blocking


def _waits(
    method: Callable[Concatenate[Async_co, P], Awaitable[T]],
) -> Callable[Concatenate[_Blocking[Async_co], P], T]:
    @functools.wraps(method)
    def blocking(self: _Blocking[Async_co], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run(method(self._here(), *args, **kwargs))

    return blocking


def _iterates(
    method: Callable[Concatenate[Async_co, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[_Blocking[Async_co], P], Generator[T, None, None]]:
    @functools.wraps(method)
    def blocking(self: _Blocking[Async_co], /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        items = method(self._here(), *args, **kwargs)
        try:
            while (item := _run(anext(items, _END))) is not _END:
                yield cast("T", item)
        finally:
            _run(items.aclose())

    return blocking


class Task:
    """`AsyncTask` for code that blocks. Made by `Bus`."""

    __slots__ = ("_here", "id")

    def __init__(self, id: str, here: Callable[[], AsyncTask]) -> None:
        self.id = id
        self._here = here

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    events = _twin(lambda: _iterates(_async_task().events))
    messages = _twin(lambda: _iterates(_async_task().messages))
    text = _twin(lambda: _iterates(_async_task().text))
    result = _twin(lambda: _waits(_async_task().result))
    cancel = _twin(lambda: _waits(_async_task().cancel))
    status = _twin(lambda: _waits(_async_task().status))


class Bus:
    """`AsyncBus` for code that blocks; the arguments are the same."""

    def __init__(
        self,
        url: str | None = None,
        *,
        queue: str = "chat",
        settings: Settings | None = None,
        client: redis.asyncio.Redis | None = None,
    ) -> None:
        if settings is None:
            from deltabus.settings import load

            settings = load(run_commands=False)
        self._make = functools.partial(_direct_bus(), url, queue=queue, settings=settings, client=client)
        # By process: what a forked child inherits shares the parent's sockets, and must be neither used nor closed.
        self._by_process: dict[int, DirectBus] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Whoever still follows a task gets `BusUnavailable`."""
        bus = self._by_process.pop(os.getpid(), None)
        if bus is not None:
            _run(bus.aclose())
            _portal().closers.remove(bus.aclose)

    chat = _twin(lambda: _sends_at_once(_async_bus().chat))
    chat_many = _twin(lambda: _sends_many(_async_bus().chat_many))
    enqueue = _twin(lambda: _sends_at_once(_async_bus().enqueue))
    blob = _twin(lambda: _waits(_async_bus().blob))
    read_blob = _twin(lambda: _iterates(_async_bus().read_blob))
    delete_blob = _twin(lambda: _waits(_async_bus().delete_blob))

    upload = _twin(lambda: _sends(_async_bus().upload))
    files = _twin(lambda: _sends_at_once(_async_bus().files))
    file = _twin(lambda: _sends_at_once(_async_bus().file))
    download = _twin(lambda: _sends_at_once(_async_bus().download))
    delete_file = _twin(lambda: _sends_at_once(_async_bus().delete_file))
    embeddings = _twin(lambda: _sends_at_once(_async_bus().embeddings))
    models = _twin(lambda: _sends_at_once(_async_bus().models))
    speech = _twin(lambda: _sends_at_once(_async_bus().speech))
    transcription = _twin(lambda: _sends(_async_bus().transcription))
    images = _twin(lambda: _sends_at_once(_async_bus().images))

    def task(self, task_id: str, /) -> Task:
        """Any task, whoever enqueued it; see `AsyncBus.task`."""
        return self._task(self._here().task(task_id))

    def _task(self, task: AsyncTask) -> Task:
        return Task(task.id, lambda: self._here().task(task.id))

    def _here(self) -> DirectBus:
        process = os.getpid()
        if process not in self._by_process:
            made = self._make()
            if self._by_process.setdefault(process, made) is made:  # another thread may have been first
                _portal().closers.append(made.aclose)
        return self._by_process[process]
