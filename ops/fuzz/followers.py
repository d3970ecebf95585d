"""What subscribers meet on channels, in logs and in RQ's records that were forged: an end, or one clear error."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import traceback
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Any, ClassVar, Final

import redis.asyncio

from deltabus import events, keys
from deltabus.bus import AsyncBus, AsyncTask
from deltabus.embedded import EmbeddedRedis
from deltabus.errors import DeltabusError, TaskCancelled, TaskFailed
from deltabus.events import Completed, Started, Terminal
from deltabus.settings import Settings
from fuzz import corpus
from fuzz.mutation import Mutator
from fuzz.subject import Begin, Subject, refusal, shown
from fuzz.tally import SHOWN, Tally

#: Tasks that are followed at once.
AT_ONCE: Final = 50

#: Seconds that a subscriber may take to see an end that is in the log. One who has missed it on the channel reads
#: the log after `feed.SILENCE`.
PATIENCE: Final = 25.0

#: Seconds for which a result is waited for that need not come.
WAIT: Final = 0.2

#: Ends of following.
_ENDS: Final = (TaskFailed, TaskCancelled)


class Followers(Subject):
    """Tasks with something forged, each followed by one subscriber."""

    kind = "published"
    share = 6
    limit: ClassVar[float] = 2 * PATIENCE

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self._server = EmbeddedRedis()
        self._server.start()
        self._runner = asyncio.Runner()
        self._client = redis.asyncio.Redis.from_url(self._server.url)
        self._bus = AsyncBus(settings=Settings(redis_url=self._server.url))

    def close(self) -> None:
        """See `Subject`."""
        self._runner.run(self._leave())
        self._runner.close()
        self._server.stop()

    async def _leave(self) -> None:
        await self._bus.aclose()
        await self._client.aclose()

    def make(self, index: int) -> tuple[str, Any]:
        """What is forged, and how."""
        mutator = self.mutator(index)
        what = mutator.random.choice(("channel", "channel", "log", "log", "log", "records", "records", "types"))
        if what in ("channel", "log"):
            return what, [self._message(mutator, index) for _ in range(mutator.random.randint(1, 4))]
        if what == "records":
            return what, self._forged(mutator)
        where = mutator.random.choice(("log", "cancel", "job", "results", "executions"))
        return what, (where, mutator.text().encode(errors="surrogatepass"))

    def run(self, indices: Iterable[int], tally: Tally, begin: Begin) -> None:
        """See `Subject`."""
        indices = list(indices)
        for start in range(0, len(indices), AT_ONCE):
            part = indices[start : start + AT_ONCE]
            begin(part[0])
            self._runner.run(self._batch(part, tally))

    async def _batch(self, indices: list[int], tally: Tally) -> None:
        await asyncio.gather(*[self._one(index, tally) for index in indices])

    async def _one(self, index: int, tally: Tally) -> None:
        what, made = self.make(index)
        task = self._bus.task(f"{self.seed}-{index}")
        start = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                outcome = await getattr(self, f"_{what}")(task, made)
        except DeltabusError as exc:
            outcome = refusal(exc)
        except TimeoutError:
            outcome = "hang"
            tally.violate(index, "hang", f"no end after {PATIENCE:g} s: {shown((what, made))}")
        except Exception:  # noqa: BLE001 # this is what the run looks for
            outcome = "crash"
            tally.violate(index, "crash", f"{shown((what, made))}\n{traceback.format_exc()[-SHOWN + 500 :]}")
        tally.note(index, f"{what}: {outcome}", time.perf_counter() - start)
        await self._forget(task.id)

    async def _channel(self, task: AsyncTask, messages: list[bytes]) -> str:
        """Noise among what is published, then the true end: it is seen, or one that was forged whole."""
        await self._put(task, {**corpus.HASH, "status": "started"})
        first = Started(task=task.id, id=corpus.FIRST, at=1.0)
        await self._client.xadd(keys.log(task.id), {"event": events.encode(first)}, id=first.id)
        reading = asyncio.create_task(self._read(task))
        channel = keys.events(task.id)
        while not dict(await self._client.pubsub_numsub(channel))[channel.encode()] and not reading.done():  # noqa: ASYNC110 # Redis does not tell
            await asyncio.sleep(0.005)
        for message in messages:
            await self._client.publish(channel, message)
        await self._seal(task)
        end = await reading
        return "true end" if end == "completed: true" else "forged end"

    async def _log(self, task: AsyncTask, messages: list[bytes]) -> str:
        """Entries of a log that are no events, or not such as follow each other, below a true end or without one."""
        await self._put(task, corpus.HASH)
        for number, message in enumerate(messages):
            field = b"event" if message[:1] != b"[" else b"evnt"
            entry: dict[Any, Any] = {field: message, b"x": b"y"} if len(message) % 7 == 0 else {field: message}
            await self._client.xadd(keys.log(task.id), entry, id=f"1-{number}" if number else "1-0")
        await self._seal(task)
        told = []
        for read in (self._read, self._text, self._result, self._status):
            try:
                told.append(await read(task))
            except DeltabusError as exc:
                told.append(refusal(exc))
        return told[0]

    async def _records(self, task: AsyncTask, records: tuple[Mapping[Any, Any], Mapping[Any, Any]]) -> str:
        """RQ's hash and result of a task that has no log."""
        fields, result = records
        await self._put(task, fields)
        with suppress(redis.ResponseError):
            await self._client.xadd(f"rq:results:{task.id}", dict(result))
        told = []
        for ask in (self._status, self._result_soon, self._cancel, self._status):
            try:
                told.append(await ask(task))
            except DeltabusError as exc:
                told.append(refusal(exc))
        return told[1]

    async def _types(self, task: AsyncTask, made: tuple[str, bytes]) -> str:
        """A key of another type."""
        where, value = made
        names = {"log": keys.log(task.id), "cancel": keys.cancel(task.id)}
        await self._put(task, corpus.HASH)
        key = names.get(where, f"rq:{where}:{task.id}")
        await self._client.delete(key)
        await (self._client.set(key, value) if len(value) % 2 else self._client.rpush(key, value))
        told = []
        for ask in (self._status, self._result_soon, self._text_soon, self._cancel):
            try:
                told.append(await ask(task))
            except DeltabusError as exc:
                told.append(refusal(exc))
        return f"{where}: {told[0]}, {told[-1]}"

    async def _read(self, task: AsyncTask) -> str:
        last = None
        async with aclosing(task.events()) as seen:
            async for event in seen:
                last = event
        assert isinstance(last, Terminal), f"following ends with {last!r}"
        return (
            "completed: true" if isinstance(last, Completed) and last.result == "true" else type(last).__name__.lower()
        )

    async def _text(self, task: AsyncTask) -> str:
        try:
            async with aclosing(task.text()) as pieces:
                async for piece in pieces:
                    assert isinstance(piece, str)
        except _ENDS as exc:
            return type(exc).__name__
        return "text"

    async def _text_soon(self, task: AsyncTask) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT):
                return await self._text(task)
        return "waits"

    async def _result(self, task: AsyncTask) -> str:
        try:
            await task.result()
        except _ENDS as exc:
            return type(exc).__name__
        return "result"

    async def _result_soon(self, task: AsyncTask) -> str:
        try:
            await task.result(timeout=WAIT)
        except _ENDS as exc:
            return type(exc).__name__
        except TimeoutError:
            return "waits"
        return "result"

    async def _status(self, task: AsyncTask) -> str:
        return (await task.status()).state

    async def _cancel(self, task: AsyncTask) -> str:
        return "cancelled" if await task.cancel() else "had ended"

    async def _put(self, task: AsyncTask, fields: Mapping[Any, Any]) -> None:
        if fields:
            await self._client.hset(f"rq:job:{task.id}", mapping=dict(fields))

    async def _seal(self, task: AsyncTask) -> None:
        """The true end, on log and channel, as a worker writes it."""
        end = events.encode(Completed(task=task.id, id=keys.SEAL, at=2.0, result="true"))
        with suppress(redis.ResponseError):
            await self._client.xadd(keys.log(task.id), {"event": end}, id=keys.SEAL)
        await self._client.publish(keys.events(task.id), end)

    async def _forget(self, task: str) -> None:
        rq = [f"rq:{kind}:{task}" for kind in ("job", "results", "executions")]
        await self._client.delete(keys.log(task), keys.cancel(task), *rq)

    def _message(self, mutator: Mutator, index: int) -> bytes:
        if mutator.random.random() < 0.1:
            return mutator.noise()
        event = dict(mutator.random.choice(corpus.events()))
        if mutator.random.random() < 0.8:
            event["task"] = f"{self.seed}-{index}"
        made = mutator.encode(mutator.document(event) if mutator.random.random() < 0.9 else event)
        return mutator.data(made) if mutator.random.random() < 0.15 else made

    def _forged(self, mutator: Mutator) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """A job's hash, and a result of RQ's."""
        random = mutator.random
        fields = {name.encode(): value.encode() for name, value in corpus.HASH.items()}
        states = ("finished", "failed", "canceled", "queued", "started", "scheduled", "deferred", "stopped", "created")
        fields[b"status"] = random.choice(states).encode()
        fields[b"deltabus_failure"] = corpus.HASH_OPTIONS["deltabus_failure"].encode()
        function, request = random.choice(corpus.CALLS)
        fields[b"data"] = mutator.packed(
            json.dumps([function, None, [{"request": request, "reply_to": "r"}], {}]).encode()
        )
        returned = base64.b64encode(mutator.encode(mutator.scrap()))
        result = {
            b"type": b"1",
            b"return_value": returned,
            b"execution_id": b"e",
            b"exc_string": base64.b64encode(mutator.packed(b"x")),
        }
        for where in (fields, result):
            for _ in range(random.randrange(3)):
                name = random.choice(list(where))
                value = where[name]
                where[name] = random.choice(
                    (mutator.data(value), mutator.noise(80), mutator.text().encode(errors="surrogatepass"))
                )
            if random.random() < 0.2:
                where.pop(random.choice(list(where)))
        return fields, result
