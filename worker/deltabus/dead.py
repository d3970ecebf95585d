"""Dead letters: tasks that have failed, in RQ's failed registries. Look at them, run them again, delete them.

A registry may hold hundreds of thousands: it is walked a page at a time, in short steps between which Redis
serves others. Jobs that are not deltabus' are shown, requeued and purged like any other; nothing is unpickled.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from deltabus import events, failure, keys
from deltabus.attempt import RUNNING_TTL
from deltabus.commit import is_not_now
from deltabus.enqueue import timestamp
from deltabus.errors import BusError, BusUnavailable, InvalidRequest
from deltabus.events import Failed, Retrying
from deltabus.follow import position
from deltabus.records import RQKeys, explain, payload
from deltabus.refusal import advice, is_of_cluster
from deltabus.scripts import FAILED, FORGET, LEAVE, PURGE, REOPEN, REQUEUE

#: Jobs that are handled in one round trip: a few milliseconds of Redis' time.
PAGE: Final = 100

#: Bytes of a description, and of a payload where there is none, that are read to find the function's name.
_DESCRIPTION_BYTES: Final = 200
_PAYLOAD_BYTES: Final = 400

_FUNCTION: Final = re.compile(r"((?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)(?:\(|$)")
_CALL: Final = re.compile(rb'\[\s*"((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)"')

#: Stands for the id in an event until the script knows it; nothing else in one of these looks like it.
_ID: Final = "\x00"
_ID_JSON: Final = msgspec.json.encode(_ID)

#: What became of a dead letter.
Fate = Literal["requeued", "purged", "not failed", "missing", "unreadable"]

_WHAT_IS_WRONG: Final = (
    "there is no job any more, only its entry in the registry",
    "the job's key is no hash: RQ did not write it",
)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failed task as it is listed; never a prompt or an answer."""

    task: str
    queue: str
    #: Unix time, in seconds; None: RQ does not say.
    failed_at: float | None = None
    #: Dotted path of the task function.
    function: str | None = None
    #: See `deltabus.errors`; None: the job was none of deltabus', or is not there any more.
    code: str | None = None
    message: str = ""
    #: HTTP status of the provider's answer, where there was one.
    status: int | None = None
    provider: str | None = None
    param: str | None = None
    #: The provider's own id of the request.
    request_id: str | None = None
    #: Attempts that had begun; None: not known.
    attempts: int | None = None
    #: Size of the partial answer, as JSON.
    partial_bytes: int = 0
    #: Name of the worker that recorded the failure.
    worker: str | None = None
    #: The registry names it, but there is no job that could be run again.
    lost: bool = False
    #: The further channel that the task's events go to.
    reply_to: str | None = None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant; what is left empty means all."""

    codes: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    functions: frozenset[str] = frozenset()
    #: Unix time, in seconds: those that failed before. One whose time is not known did so.
    before: float | None = None

    def takes(self, letter: DeadLetter) -> bool:
        """Whether this one is meant."""
        return (
            (not self.codes or letter.code in self.codes)
            and (not self.providers or letter.provider in self.providers)
            and (not self.functions or letter.function in self.functions)
            and (self.before is None or letter.failed_at is None or letter.failed_at < self.before)
        )


class DeadLetters:
    """The failed registries of some queues.

    All methods raise `BusUnavailable` where Redis cannot be reached, and `BusError` where it refuses.

    Args:
        client: returns bytes (no `decode_responses`).
        prefix: RQ's key prefix (`Settings.rq_key_prefix`).
        queues: names; none: all that RQ knows of.
    """

    def __init__(self, client: Redis, prefix: str, queues: Sequence[str] = ()) -> None:
        self._client = client
        self._prefix = prefix
        self._names = RQKeys(prefix)
        self._only = tuple(queues)
        self._read = client.register_script(FAILED.source)
        self._requeue = client.register_script(REQUEUE.source)
        self._purge = client.register_script(PURGE.source)
        self._leave = client.register_script(LEAVE.source)
        self._reopen = client.register_script(REOPEN.source)
        self._forget = client.register_script(FORGET.source)

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of the queues whose dead letters these are."""
        if self._only:
            return self._only
        with _explained():
            found: Any = self._client.smembers(self._names.queues.decode())
        prefix = len(f"{self._prefix}:queue:")
        return tuple(sorted(key.decode(errors="replace")[prefix:] for key in found))

    def count(self) -> int:
        """How many there are, whatever a filter says; entries that have run out count until RQ clears them away."""
        with _explained(), self._client.pipeline(transaction=False) as pipe:
            for queue in self.queues:
                pipe.zcard(self._registry(queue))
            return sum(pipe.execute())

    def walk(self, wanted: Filter, *, newest_first: bool = False) -> Iterator[list[DeadLetter]]:
        """All that the filter takes, queue by queue, in the order in which they run out, a page at a time.

        What is requeued or purged between two pages shifts nothing, and what fails again meanwhile is not met again.
        """
        now = time.time()
        for queue in self.queues:
            for page in self._pages(queue, newest_first=newest_first):
                # A score below 0 never runs out; one that has is a job that RQ no longer shows.
                live = [task for task, score in page if score < 0 or score > now]
                yield [letter for letter in self._letters([(queue, task) for task in live]) if wanted.takes(letter)]

    def find(self, tasks: Iterable[str]) -> dict[str, DeadLetter]:
        """Those of these tasks that are dead letters."""
        queues, tasks = self.queues, list(tasks)
        with _explained(), self._client.pipeline(transaction=False) as pipe:
            for task in tasks:
                for queue in queues:
                    pipe.zscore(self._registry(queue), task)
            scores = iter(pipe.execute())
        places = [(queue, task) for task in tasks for queue in queues if next(scores) is not None]
        return {letter.task: letter for letter in self._letters(places)}

    def show(self, letter: DeadLetter) -> DeadLetter:
        """The same with what its log says, as long as there is one."""
        tail = self._tail(letter.task)
        if not tail or not isinstance(tail[0], Failed):
            return letter
        attempts = max((event.attempt or 0 for event in tail), default=0)
        error, partial = tail[0].error, tail[0].partial
        return msgspec.structs.replace(
            letter,
            code=error.code,
            message=error.message,
            status=error.status,
            provider=error.provider,
            param=error.param,
            request_id=error.request_id,
            attempts=attempts or letter.attempts,
            partial_bytes=0 if partial is None else len(msgspec.json.encode(partial)),
        )

    def payload(self, task: str) -> tuple[Any, Any]:
        """What the producer asked for, and the part of the answer that there was: both as JSON values.

        The first is None where it is not JSON, the second where there was none or its log has expired.
        """
        with _explained():
            data: Any = self._client.hget(self._names.job(task).decode(), "data")
        tail = self._tail(task)
        partial = tail[0].partial if tail and isinstance(tail[0], Failed) else None
        return payload(data or b""), partial

    def requeue(self, letters: Sequence[DeadLetter]) -> list[Fate]:
        """Put these back on their queues, to be run as a new round with retries, deliveries and attempts of its own.

        Whoever follows such a task from now on waits for the new round. A cancel that was left is forgotten.
        """
        fates: dict[str, Any] = dict.fromkeys((letter.task for letter in letters), b"not failed")
        # RQ's keys and the task's may be on different nodes: hence steps, of which none undoes what has begun since.
        failed = self._still_failed(letters)
        seals = self._each(self._leave, ((_ours(letter), ()) for letter in failed))
        fates |= zip(
            (letter.task for letter in failed),
            self._each(self._requeue, ((self._rq(letter), (letter.task, timestamp())) for letter in failed)),
            strict=True,
        )
        self._each(
            self._reopen,
            (
                (_ours(letter)[:1], (seal, *_requeued(letter), RUNNING_TTL))
                for letter, seal in zip(failed, seals, strict=True)
                if seal and fates[letter.task] in {b"requeued", b"rate limited"}
            ),
        )
        return [
            self._by_rq(letter) if fates[letter.task] == b"rate limited" else fates[letter.task].decode()
            for letter in letters
        ]

    def purge(self, letters: Sequence[DeadLetter]) -> list[Fate]:
        """Delete these: jobs, results and logs."""
        group = f"{self._prefix}:group:"
        fates = self._each(self._purge, ((self._rest(letter), (letter.task, group)) for letter in letters))
        gone = [letter for letter, fate in zip(letters, fates, strict=True) if fate == b"purged"]
        self._each(self._forget, ((_ours(letter), ()) for letter in gone))
        return [fate.decode() for fate in fates]

    def _still_failed(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        with _explained(), self._client.pipeline(transaction=False) as pipe:
            for letter in letters:
                pipe.hget(self._names.job(letter.task).decode(), "status")
            found = pipe.execute(raise_on_error=False)
        # What cannot be read is for the script to say.
        return [
            letter
            for letter, status in zip(letters, found, strict=True)
            if not isinstance(status, bytes) or status in {b"", b"failed"}
        ]

    def _rq(self, letter: DeadLetter) -> tuple[Any, ...]:
        """RQ's keys that a job that is requeued is in."""
        names = self._names
        return self._registry(letter.queue), names.job(letter.task), names.queue(letter.queue), names.queues

    def _rest(self, letter: DeadLetter) -> tuple[Any, ...]:
        """RQ's keys that go with a job; the last with two colons."""
        job, results = self._names.job(letter.task), self._names.results(letter.task)
        dependencies = f"{self._prefix}:job::{letter.task}:dependencies"
        return self._registry(letter.queue), job, results, job + b":dependents", dependencies

    def _each(self, script: Any, calls: Iterable[tuple[Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """Run a script with each of these keys and arguments, in one pipeline."""
        with self._client.pipeline(transaction=False) as pipe, _explained():
            for names, arguments in calls:
                script(keys=names, args=arguments, client=pipe)
            return list(pipe.execute())

    def _registry(self, queue: str) -> str:
        return self._names.registry("failed", queue).decode()

    def _pages(self, queue: str, *, newest_first: bool) -> Iterator[list[tuple[str, float]]]:
        """Ids and scores. The way goes on behind the last one that is still there, wherever that is by then."""
        key, client = self._registry(queue), self._client
        rank = client.zrevrank if newest_first else client.zrank
        left = self._size(key)
        seen: set[bytes] = set()
        anchor: tuple[bytes, float] | None = None
        while left > 0:
            with _explained():
                start = 0
                if anchor is not None:
                    place: Any = rank(key, anchor[0])
                    # Somebody else has taken the anchor away: from the first one of its score on.
                    above = (f"({anchor[1]!r}", "+inf") if newest_first else ("-inf", f"({anchor[1]!r}")
                    start = client.zcount(key, *above) if place is None else place + 1
                page: Any = client.zrange(key, start, start + PAGE - 1, desc=newest_first, withscores=True)
            if not page:
                return
            new = [(task, score) for task, score in page if task not in seen]
            seen.update(task for task, _ in new)
            left -= len(new)
            yield [(task.decode(errors="replace"), score) for task, score in new]
            with _explained(), client.pipeline(transaction=False) as pipe:
                for task, _ in page:
                    pipe.zscore(key, task)
                kept = [entry for entry, score in zip(page, pipe.execute(), strict=True) if score == entry[1]]
            anchor = kept[-1] if kept else anchor

    def _size(self, key: str) -> int:
        with _explained():
            return int(self._client.zcard(key))

    def _letters(self, places: Sequence[tuple[str, str]]) -> list[DeadLetter]:
        if not places:
            return []
        where = [key for _, task in places for key in (self._names.job(task), self._names.results(task))]
        with _explained():
            found: Any = self._read(keys=where, args=(_DESCRIPTION_BYTES, _PAYLOAD_BYTES))
        return [_letter(task, queue, answer) for (queue, task), answer in zip(places, found, strict=True)]

    def _tail(self, task: str) -> list[events.AnyEvent]:
        with _explained():
            entries: Any = self._client.xrevrange(keys.log(task), "+", "-", count=2)
        try:
            found = [events.decode(fields[keys.EVENT_FIELD.encode()]) for _, fields in entries]
            for event in found:
                position(event.id)
        except (KeyError, msgspec.MsgspecError, InvalidRequest) as exc:
            raise BusError(f"the log of task {task} holds what is no event of protocol version 1") from exc
        return found

    def _by_rq(self, letter: DeadLetter) -> Fate:
        """Let RQ requeue a job that has to ask for its place under a limit."""
        from rq.exceptions import InvalidJobOperation, NoSuchJobError
        from rq.registry import FailedJobRegistry

        try:
            with _explained():
                FailedJobRegistry(letter.queue, self._client, serializer="json").requeue(letter.task)
        except (InvalidJobOperation, NoSuchJobError):  # somebody else was faster
            return "not failed"
        return "requeued"


def _ours(letter: DeadLetter) -> tuple[str, str]:
    """The keys of the task."""
    return keys.log(letter.task), keys.cancel(letter.task)


def _requeued(letter: DeadLetter) -> tuple[Any, ...]:
    """The event that says so, around its id, and the channels that carry it."""
    event = events.encode(Retrying(task=letter.task, id=_ID, at=time.time(), reason="requeued"))
    head, _, tail = event.partition(_ID_JSON)
    return head + b'"', b'"' + tail, keys.events(letter.task), letter.reply_to or ""


def _letter(task: str, queue: str, found: Any) -> DeadLetter:
    if isinstance(found, int):
        return DeadLetter(task=task, queue=queue, message=_WHAT_IS_WRONG[found], lost=True)
    _, _, ended_at, worker, note, description, head, newest = found
    entry, pairs = newest or (b"0-0", [])
    result = dict(zip(pairs[::2], pairs[1::2], strict=True))
    worker = result.get(b"worker_name") or worker or b""
    letter = DeadLetter(
        task=task,
        queue=queue,
        failed_at=_unix(ended_at) or int(entry.partition(b"-")[0]) / 1000 or None,
        function=_function(description, head),
        worker=worker.decode(errors="replace") or None,
    )
    noted = failure.decode(note, result.get(b"execution_id"))
    if noted is None:
        code, message = explain(result.get(b"exc_string"))
        return msgspec.structs.replace(letter, code=code, message=message)
    error = noted.error
    return msgspec.structs.replace(
        letter,
        code=error.code,
        message=error.message,
        status=error.status,
        provider=error.provider,
        param=error.param,
        request_id=error.request_id,
        attempts=noted.attempts,
        partial_bytes=noted.partial_bytes,
        reply_to=noted.reply_to,
    )


def _unix(text: bytes | None) -> float | None:
    try:
        return datetime.fromisoformat((text or b"").decode()).timestamp()
    except ValueError:
        return None


def _function(description: bytes, head: bytes) -> str | None:
    """The function that a job calls: as RQ describes it, or as the payload begins."""
    if match := _FUNCTION.match(description.decode(errors="replace")):
        return match[1]
    if head[:1] == b"\x78":
        try:
            head = zlib.decompressobj().decompress(head, _PAYLOAD_BYTES)
        except zlib.error:
            return None
    return called[1].decode() if (called := _CALL.match(head)) else None


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RedisError as exc:
        if isinstance(exc, ResponseError) and (is_of_cluster(exc) or not is_not_now(exc)):
            raise BusError("; ".join(filter(None, (f"Redis refuses: {exc}", advice(exc))))) from exc
        raise BusUnavailable(f"Redis cannot be reached: {exc}") from exc
