"""Putting tasks on a queue: the job hashes that RQ 3.0 would write, in one atomic step for each hundred."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec
from redis.exceptions import ResponseError

from deltabus import envelope, keys
from deltabus.commit import pack, pack_command
from deltabus.errors import BusError, InvalidRequest, PayloadTooLarge, TaskError, TaskExists
from deltabus.fields import Field
from deltabus.records import RQKeys
from deltabus.refusal import advice
from deltabus.scripts import ENQUEUE
from deltabus.settings import Settings

#: A dotted path, as RQ stores the function of a job.
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

#: Jobs that one script call enqueues at the most: it blocks Redis for some 10 us a job.
BATCH: Final = 100

#: Bytes after which a script call takes no further job.
BATCH_BYTES: Final = 256 * 1024

#: Sends commands; returns their replies, in the same order. Raises `ResponseError` and `BusUnavailable`.
Send: TypeAlias = Callable[[Sequence[bytes]], Awaitable[list[Any]]]

_QUEUE: Final = re.compile(r"[^\x00-\x20\x7f]{1,128}")


def timestamp() -> str:
    """Now, as RQ writes it (`rq.utils.utcformat`)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Order:
    """Tasks of one queue that are checked and ready to be sent.

    Args:
        function: dotted path of a registered task function.
        contents: their envelopes.
        task: id of the only one; None: random ones.
        result_ttl: seconds that log and result live; default `settings.result_ttl`.
        job_timeout: seconds that one attempt may take; default: what the envelope says, else `settings.job_timeout`.

    Raises:
        InvalidRequest: something breaks a rule; `param` names it.
        PayloadTooLarge: an envelope is over `settings.max_request_bytes`.
    """

    def __init__(
        self,
        function: str,
        contents: Sequence[Mapping[str, Any]],
        *,
        queue: str,
        task: str | None,
        settings: Settings,
        result_ttl: int | None = None,
        job_timeout: int | None = None,
    ) -> None:
        if not _is(_FUNCTION, function):
            raise InvalidRequest("must be the dotted path of a task function", param="function")
        if not _is(_QUEUE, queue):
            raise InvalidRequest("must be a name of 1 to 128 visible characters", param="queue")
        if task is not None:
            keys.check_id(task, "task_id")
        _check_seconds(result_ttl, 0, "result_ttl")
        _check_seconds(job_timeout, 1, "job_timeout")
        self._calls = []
        try:
            for content in contents:
                self._calls.append(_call(function, content, settings, job_timeout))
        except TaskError as exc:
            raise blame(exc, len(self._calls), len(contents)) from exc
        self._is_named = task is not None
        self.tasks = [settings.id_prefix + uuid.uuid4().hex for _ in contents] if task is None else [task]
        self._queue = queue
        self._now = now = timestamp()
        # What RQ would write besides, the empty ones too.
        fields: dict[str, str | int] = {
            "status": "queued",
            "created_at": now,
            "success_callback_name": "",
            "failure_callback_name": "",
            "stopped_callback_name": "",
            "started_at": "",
            "ended_at": "",
            "last_heartbeat": "",
            "worker_name": "",
            "group_id": "",
            "origin": queue,
            # RQ's own would show the prompt.
            "description": function,
            "enqueued_at": now,
            "result_ttl": settings.result_ttl if result_ttl is None else result_ttl,
            "failure_ttl": settings.failure_ttl,
        }
        self._fields = [word for pair in fields.items() for word in pair]

    async def send(self, send: Send, names: RQKeys) -> None:
        """Enqueue them.

        Raises:
            TaskExists: the id is taken.
            BusUnavailable: Redis cannot be reached. Whether the tasks were accepted is not known.
            BusError: Redis refuses, as when the queue's key is no list.
        """
        try:
            # Nobody else has a random id.
            is_free = not self._is_named or await _make_way(self.tasks[0], send, names)
            taken = any(await send(list(self._pack(names)))) if is_free else True
        except ResponseError as exc:
            hints = [hint for hint in (advice(exc),) if hint]
            raise BusError("; ".join([f"Redis refuses to enqueue on `{self._queue}`: {exc}", *hints])) from exc
        if taken:
            raise TaskExists(f"a task {self.tasks[0]} exists already; nothing was enqueued")

    def _pack(self, names: RQKeys) -> Iterator[bytes]:
        """The script calls: of a hundred jobs, or of as many as are not too large."""
        where = (names.queue(self._queue), names.queues)
        shared = (self._now, len(self._fields), *self._fields)
        jobs: list[bytes] = []
        words: list[bytes | str | int] = []
        size = 0
        for task, (timeout, data) in zip(self.tasks, self._calls, strict=True):
            jobs.append(names.job(task))
            words += (task, timeout, data)
            size += len(data)
            if len(jobs) == BATCH or size > BATCH_BYTES:
                yield pack(ENQUEUE, (*where, *jobs), (*shared, *words))
                jobs, words, size = [], [], 0
        if jobs:
            yield pack(ENQUEUE, (*where, *jobs), (*shared, *words))


def blame(error: TaskError, index: int, count: int) -> TaskError:
    """The error, with the place of the request that is wrong, counted from 0, where there are several."""
    if count == 1:
        return error
    return type(error)(f"request {index} of {count}, counted from 0: {error.message}", param=error.param)


def _call(function: str, content: Mapping[str, Any], settings: Settings, timeout: int | None) -> tuple[int, bytes]:
    """A job's `timeout` and `data`, of an envelope that keeps the rules."""
    checked = envelope.parse(dict(content))
    try:
        data = msgspec.json.encode((function, None, (content,), {}))
        # One null is RQ's own. What is no finite number becomes another: most requests have none, and are not walked.
        if data.count(b"null") > 1:
            for key, value in content.items():
                for field in _not_finite(Field(key, value)):
                    raise field.error(f"is {field.value}, which JSON does not have: give a number, or leave it out")
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequest(f"cannot be written as JSON: {exc}", param="envelope") from exc
    if len(data) > settings.max_request_bytes:
        raise PayloadTooLarge(
            f"the envelope has {len(data)} bytes as JSON; max_request_bytes allows {settings.max_request_bytes}",
            param="envelope",
        )
    if timeout is None:
        timeout = settings.job_timeout if checked.timeout is None else math.ceil(checked.timeout)
    return timeout, data


def _not_finite(field: Field) -> Iterator[Field]:
    """Where there is NaN or an infinity."""
    value = field.value
    if isinstance(value, float):
        if not math.isfinite(value):
            yield field
    elif isinstance(value, dict):
        for key, member in value.items():
            yield from _not_finite(Field(str(key), member, field))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_finite(Field(index, item, field))


def _is(rule: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and rule.fullmatch(value) is not None


def _check_seconds(value: object, least: int, param: str) -> None:
    if value not in (None, -1) and (not isinstance(value, int) or value < least):
        raise InvalidRequest(f"must be a whole number of seconds from {least} on, or -1: without end", param=param)


async def _make_way(task: str, send: Send, names: RQKeys) -> bool:
    """Whether no task that is over has left a log under this id; a cancel that was meant for it is forgotten.

    A step of its own, as the task's keys and RQ's may be on different nodes. Nobody can be given a task twice for
    that: whether there is a job is known to RQ's keys alone, where it is asked and made in one step.
    """
    log, cancel = keys.log(task), keys.cancel(task)
    has_log, has_cancel = await send([pack_command(b"EXISTS", log), pack_command(b"EXISTS", cancel)])
    if has_log:
        return False
    if has_cancel and await send([pack_command(b"EXISTS", names.job(task))]) == [0]:
        await send([pack_command(b"DEL", cancel)])
    return True
