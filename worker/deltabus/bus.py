"""The bus, for producers and subscribers: put tasks on it and follow them.

    async with AsyncBus("redis://localhost:6379/0") as bus:
        task = await bus.chat(messages="Why is the sky blue?", model="gpt-4o-mini")
        async for piece in task.text():
            print(piece, end="")

`deltabus.blocking` has the same without `await`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import redis.asyncio

from deltabus import blobs, keys
from deltabus.blobs import Data
from deltabus.enqueue import Order, blame
from deltabus.errors import InvalidRequest
from deltabus.functions import Functions
from deltabus.handle import AsyncTask, TaskStatus
from deltabus.records import RQKeys
from deltabus.session import Session
from deltabus.settings import Settings, load

__all__ = ["AsyncBus", "AsyncTask", "TaskStatus"]

#: The function that runs chat tasks.
CHAT: Final = "deltabus.tasks.chat"


class AsyncBus(Functions):
    """A way to the bus, for one asyncio loop. Nothing is connected before it is needed.

    Args:
        url: of Redis; by default what the settings say (`deltabus.toml`, `REDIS_URL`).
        queue: where tasks are put, but for those with files: they go to `file`.
        settings: by default those of `deltabus.toml` and the environment.
        client: a Redis client to take address and credentials from, in place of `url`.

    Raises:
        ConfigError: the settings cannot be read.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        queue: str = "chat",
        settings: Settings | None = None,
        client: redis.asyncio.Redis | None = None,
    ) -> None:
        settings = load(run_commands=False) if settings is None else settings
        self._settings = settings if url is None else replace(settings, redis_url=url)
        self._names = RQKeys(self._settings.rq_key_prefix)
        self._queue = queue
        self._client = client
        self._session: Session | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Whoever still follows a task gets `BusUnavailable`."""
        session, self._session = self._session, None
        if session is not None:
            await session.aclose()

    async def chat(
        self,
        request: Mapping[str, Any] | None = None,
        /,
        *,
        messages: str | Iterable[Mapping[str, Any]] | None = None,
        model: str | None = None,
        stream: bool | None = None,
        provider: str | None = None,
        queue: str | None = None,
        task_id: str | None = None,
        deadline: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  Not of this call: of an attempt at the task.
        retry: Mapping[str, Any] | None = None,
        reply_to: str | None = None,
        tenant: str | None = None,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        trace: str | None = None,
        tracestate: str | None = None,
        attachments: Iterable[Mapping[str, Any]] | None = None,
        **request_fields: Any,
    ) -> AsyncTask:
        """Put a chat task on the queue.

        Args:
            request: body of the API call (`POST /chat/completions`); what follows is added to it.
            messages: a conversation, or the one thing that the user says.
            model: without it, the worker chooses.
            stream: whether the answer streams; by default it does.
            request_fields: further parameters of the API: `temperature=0.2, tools=[…]`.
            provider: name of a provider configured at the worker; by default the model's route decides.
            queue: by default the bus' own.
            task_id: by default a random one.
            deadline: Unix time, in seconds, after which nobody wants the answer.
            timeout: seconds that one attempt may take.
            retry: what to do about failures that pass, as `{"max": 2, "after_delta": "fail"}`.
            reply_to: a further channel that gets every event.
            tenant: whom to account the task to.
            headers: extra HTTP headers for the provider; never credentials.
            metadata: notes of your own; not sent to the provider.
            trace: W3C `traceparent`; by default, with the setting `traces` on, that of a span of this call.
            tracestate: W3C `tracestate` that goes with it.
            attachments: what goes with the messages, as `{"source": {"url": "https://…"}, "as": "image"}`; the worker
                fetches it. See `blob` for bytes of your own.

        Raises:
            InvalidRequest: something breaks a rule; `param` names it. The worker checks the rest of the request.
            PayloadTooLarge: the envelope is over `max_request_bytes`.
            TaskExists: `task_id` is taken.
            BusUnavailable: Redis was away for `redis_timeout` seconds. The task may have been accepted all the
                same: with a `task_id` of your own it is safe to try again, and `TaskExists` says that it was.
        """
        body = {**(request or {}), **request_fields}
        if messages is not None:
            body["messages"] = [{"role": "user", "content": messages}] if isinstance(messages, str) else _list(messages)
        if model is not None:
            body["model"] = model
        if stream is not None:
            body["stream"] = stream
        options = {
            "provider": provider,
            "deadline": deadline,
            "timeout": timeout,
            "retry": retry,
            "reply_to": reply_to,
            "tenant": tenant,
            "headers": headers,
            "metadata": metadata,
            "trace": trace,
            "tracestate": tracestate,
            "attachments": None if attachments is None else list(attachments),
        }
        return (await self._send_chats([body], options, queue, task_id))[0]

    async def chat_many(
        self, requests: Iterable[Mapping[str, Any]], /, *, queue: str | None = None, **options: Any
    ) -> list[AsyncTask]:
        """Put many chat tasks on the queue, in one pipeline, in this order.

        Args:
            requests: bodies of API calls. All are checked before any is sent.
            options: for all of them: `provider`, `deadline`, `timeout`, `retry`, `reply_to`, `tenant`, `headers`,
                `metadata`, `trace`, `tracestate`, `attachments`, as for `chat`.

        Raises:
            InvalidRequest, PayloadTooLarge: as `chat`; nothing was enqueued.
            BusUnavailable: Redis cannot be reached; some tasks may have been accepted.
        """
        bodies = list(requests)
        for index, body in enumerate(bodies):
            if not isinstance(body, Mapping):
                wrong = InvalidRequest(f"must be a mapping, not a {type(body).__name__}", param="requests")
                raise blame(wrong, index, len(bodies))
        return await self._send_chats([dict(body) for body in bodies], options, queue, None)

    async def enqueue(
        self,
        function: str,
        envelope: Mapping[str, Any],
        *,
        queue: str | None = None,
        task_id: str | None = None,
        result_ttl: int | None = None,
        job_timeout: int | None = None,
    ) -> AsyncTask:
        """Put any task on a queue.

        Args:
            function: dotted path of a task function that is registered at the worker.
            envelope: its one argument; see `deltabus.envelope`.
            queue: by default the bus' own.
            result_ttl: seconds that log and result are kept, -1 for ever; by default what the settings say.
            job_timeout: seconds that one attempt may take; by default what envelope or settings say.

        Raises:
            as `chat`.
        """
        limits = {"result_ttl": result_ttl, "job_timeout": job_timeout}
        if not isinstance(envelope, Mapping):
            raise InvalidRequest("must be a mapping, with `request` in it", param="envelope")
        return (await self._send(function, [envelope], self._queue if queue is None else queue, task_id, limits))[0]

    def task(self, task_id: str, /) -> AsyncTask:
        """Any task, whoever enqueued it. Whether there is one is found out when it is used.

        Raises:
            InvalidRequest: this cannot be the id of a task.
        """
        return AsyncTask(task_id, self._open)

    async def blob(self, data: Data, /, *, ttl: int | None = None) -> str:
        """Put bytes into Redis, for a task to take as `{"blob": id}`; returns the id.

        Args:
            data: bytes, the path of a file, or what yields bytes, such as an open file. It is sent in chunks: a file
                may be larger than memory.
            ttl: seconds that they live; by default `blob_ttl`. Long enough for the task to wait in its queue.

        Raises:
            InvalidRequest: `ttl` is not above 0.
            PayloadTooLarge: there are more than `max_file_bytes`. Here and below, nothing is left of the blob.
            OSError: the file cannot be read.
            BlobNotFound: the TTL was over before all was written.
            BusUnavailable: Redis cannot be reached.
        """
        settings = self._settings
        lives: object = settings.blob_ttl if ttl is None else ttl
        if not isinstance(lives, int) or lives < 1:
            raise InvalidRequest("must be a whole number of seconds above 0", param="ttl")
        return await blobs.write(
            self._open().blobs, data, ttl=lives, limit=settings.max_file_bytes, prefix=settings.id_prefix
        )

    async def read_blob(self, blob_id: str, /) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob, in pieces: what a task left there, or a producer.

        Raises:
            BlobNotFound: there is none, or no longer.
            InvalidRequest: this cannot be the id of a blob.
            BusUnavailable: Redis cannot be reached.
        """
        blob_id, there = keys.check_id(blob_id, "blob_id"), self._open().blobs
        async with aclosing(there.read(blob_id, await there.look(blob_id))) as pieces:
            async for piece in pieces:
                yield piece

    async def delete_blob(self, blob_id: str, /) -> bool:
        """Delete a blob before its time. False: there was none.

        Raises:
            InvalidRequest: this cannot be the id of a blob.
            BusUnavailable: Redis cannot be reached.
        """
        return await self._open().blobs.delete(keys.check_id(blob_id, "blob_id"))

    async def _send_chats(
        self, bodies: Sequence[dict[str, Any]], options: Mapping[str, Any], queue: str | None, task: str | None
    ) -> list[AsyncTask]:
        given = {key: value for key, value in options.items() if value is not None}
        for index, body in enumerate(bodies):
            if not body.get("messages"):
                wrong = "is required: what is said, as a string or a list of messages"
                raise blame(InvalidRequest(wrong, param="messages"), index, len(bodies))
            body.setdefault("stream", True)
        contents = [{"request": body, **given} for body in bodies]
        return await self._send(CHAT, contents, self._queue if queue is None else queue, task, {})

    async def _send(
        self,
        function: str,
        contents: Sequence[Mapping[str, Any]],
        queue: str,
        task: str | None,
        limits: Mapping[str, int | None],
    ) -> list[AsyncTask]:
        if self._settings.traces == "off":
            order = Order(function, contents, queue=queue, task=task, settings=self._settings, **limits)
            await order.send(self._exchange, self._names)
        else:
            from deltabus.tracing.sending import sending

            with sending(queue, contents) as traced:
                order = Order(function, traced.contents, queue=queue, task=task, settings=self._settings, **limits)
                traced.are(order.tasks)
                await order.send(self._exchange, self._names)
        return [self.task(task) for task in order.tasks]

    async def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        """Send commands in one pipeline; see `enqueue.Send`."""
        commit = self._open().commit
        if len(packed) == 1:
            return [await commit.call(packed[0])]  # gathering takes as long as the call
        return await asyncio.gather(*map(commit.call, packed))

    def _open(self) -> Session:
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._session, self._loop = Session(self._settings, self._client), loop
        elif self._loop is not loop:
            raise RuntimeError("an AsyncBus stays on the asyncio loop on which it was first used; make one a loop")
        return self._session


def _list(messages: object) -> list[Any]:
    if not isinstance(messages, Iterable) or isinstance(messages, bytes | Mapping):
        raise InvalidRequest("must be a string, or a list of messages", param="messages")
    return list(messages)
