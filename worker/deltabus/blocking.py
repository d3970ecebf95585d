"""The bus for code that blocks: `Bus` and `Task` are `AsyncBus` and `AsyncTask`, run on a private loop.

    with Bus("redis://localhost:6379/0") as bus:
        task = bus.chat(messages="Why is the sky blue?", model="gpt-4o-mini")
        for piece in task.text():
            print(piece, end="")

Any thread may use them, and a forked child too: it gets connections of its own. Signatures, results
and errors are those of the asyncio classes.
"""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import replace
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, Self, TypeVar, cast

import redis.asyncio

from deltabus.bus import AsyncBus, AsyncTask
from deltabus.portal import portal
from deltabus.settings import Settings, load

P = ParamSpec("P")
T = TypeVar("T")

Async_co = TypeVar("Async_co", covariant=True)

_END = object()


class _Blocking(Protocol[Async_co]):
    """What stands for something of the asyncio classes."""

    @property
    def _here(self) -> Callable[[], Async_co]: ...


def _run(work: Awaitable[T]) -> T:
    return portal().run(_await(work))


async def _await(work: Awaitable[T]) -> T:
    return await work


def _sends(method: Callable[Concatenate[AsyncBus, P], Awaitable[AsyncTask]]) -> Callable[Concatenate[Bus, P], Task]:
    @functools.wraps(method)
    def blocking(self: Bus, /, *args: P.args, **kwargs: P.kwargs) -> Task:
        return self.task(_run(method(self._here(), *args, **kwargs)).id)

    return blocking


def _sends_many(
    method: Callable[Concatenate[AsyncBus, P], Awaitable[list[AsyncTask]]],
) -> Callable[Concatenate[Bus, P], list[Task]]:
    @functools.wraps(method)
    def blocking(self: Bus, /, *args: P.args, **kwargs: P.kwargs) -> list[Task]:
        return [self.task(task.id) for task in _run(method(self._here(), *args, **kwargs))]

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

    events = _iterates(AsyncTask.events)
    messages = _iterates(AsyncTask.messages)
    text = _iterates(AsyncTask.text)
    result = _waits(AsyncTask.result)
    cancel = _waits(AsyncTask.cancel)
    status = _waits(AsyncTask.status)


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
        settings = load() if settings is None else settings
        settings = settings if url is None else replace(settings, redis_url=url)
        self._make = functools.partial(AsyncBus, queue=queue, settings=settings, client=client)
        # By process: what a forked child inherits shares the parent's sockets, and must be neither used nor closed.
        self._by_process: dict[int, AsyncBus] = {}

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
            portal().closers.remove(bus.aclose)

    chat = _sends(AsyncBus.chat)
    chat_many = _sends_many(AsyncBus.chat_many)
    enqueue = _sends(AsyncBus.enqueue)
    blob = _waits(AsyncBus.blob)
    read_blob = _iterates(AsyncBus.read_blob)
    delete_blob = _waits(AsyncBus.delete_blob)

    upload = _sends(AsyncBus.upload)
    files = _sends(AsyncBus.files)
    file = _sends(AsyncBus.file)
    download = _sends(AsyncBus.download)
    delete_file = _sends(AsyncBus.delete_file)
    embeddings = _sends(AsyncBus.embeddings)
    models = _sends(AsyncBus.models)
    speech = _sends(AsyncBus.speech)
    transcription = _sends(AsyncBus.transcription)
    images = _sends(AsyncBus.images)

    def task(self, task_id: str, /) -> Task:
        """Any task, whoever enqueued it; see `AsyncBus.task`."""
        self._here().task(task_id)  # Checks the id.
        return Task(task_id, lambda: self._here().task(task_id))

    def _here(self) -> AsyncBus:
        process = os.getpid()
        if process not in self._by_process:
            bus = self._by_process[process] = self._make()
            portal().closers.append(bus.aclose)
        return self._by_process[process]
