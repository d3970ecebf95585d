"""Putting a task on a queue: the job hash that RQ 3.0 would write, in one atomic step."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from deltabus import envelope, keys
from deltabus.commit import GroupCommit, pack
from deltabus.errors import BusError, InvalidRequest, PayloadTooLarge, TaskExists
from deltabus.records import RQKeys
from deltabus.scripts import ENQUEUE
from deltabus.settings import Settings

#: A dotted path, as RQ stores the function of a job.
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

_QUEUE: Final = re.compile(r"[^\x00-\x20\x7f]{1,128}")


def timestamp() -> str:
    """Now, as RQ writes it (`rq.utils.utcformat`)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Order:
    """A task that is checked and ready to be sent.

    Args:
        function: dotted path of a registered task function.
        content: the envelope.
        task: the id, or None for a random one.
        result_ttl: seconds that log and result live; default `settings.result_ttl`.
        job_timeout: seconds that one attempt may take; default: what the envelope says, else `settings.job_timeout`.

    Raises:
        InvalidRequest: something breaks a rule; `param` names it.
        PayloadTooLarge: the envelope is over `settings.max_request_bytes`.
    """

    def __init__(
        self,
        function: str,
        content: Mapping[str, Any],
        *,
        queue: str,
        task: str | None,
        settings: Settings,
        result_ttl: int | None = None,
        job_timeout: int | None = None,
    ) -> None:
        if not _FUNCTION.fullmatch(function):
            raise InvalidRequest("must be the dotted path of a task function", param="function")
        if not _QUEUE.fullmatch(queue):
            raise InvalidRequest("must be a name of 1 to 128 visible characters", param="queue")
        if task is not None and not keys.TASK_ID.fullmatch(task):
            raise InvalidRequest("must be 1 to 128 letters, digits, `_` and `-`", param="task_id")
        checked = envelope.parse(dict(content))
        try:
            data = msgspec.json.encode((function, None, (content,), {}))
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidRequest(f"cannot be written as JSON: {exc}", param="envelope") from exc
        if len(data) > settings.max_request_bytes:
            raise PayloadTooLarge(
                f"the envelope has {len(data)} bytes as JSON; max_request_bytes allows {settings.max_request_bytes}",
                param="envelope",
            )
        if job_timeout is None:
            job_timeout = settings.job_timeout if checked.timeout is None else math.ceil(checked.timeout)
        self.task = uuid.uuid4().hex if task is None else task
        self._queue = queue
        self._now = now = timestamp()
        # In the order in which RQ writes them, the empty ones too.
        self._fields: dict[str, str | int | bytes] = {
            "status": "queued",
            "created_at": now,
            "data": data,
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
            "timeout": job_timeout,
            "result_ttl": settings.result_ttl if result_ttl is None else result_ttl,
            "failure_ttl": settings.failure_ttl,
        }

    async def send(self, commit: GroupCommit, names: RQKeys) -> None:
        """Enqueue it.

        Raises:
            TaskExists: the id is taken.
            BusUnavailable: Redis cannot be reached. Whether the task was accepted is not known.
            BusError: Redis refuses, as when the queue's key is no list.
        """
        task = self.task
        fields = [word for pair in self._fields.items() for word in pair]
        where = (names.job(task), names.queue(self._queue), names.queues)
        ours = (keys.log(task).encode(), keys.cancel(task).encode())
        try:
            accepted = await commit.call(pack(ENQUEUE, (*where, *ours), (task, self._now, *fields)))
        except ResponseError as exc:
            raise BusError(f"Redis refuses to enqueue on `{self._queue}`: {exc}") from exc
        if not accepted:
            raise TaskExists(f"a task {task} exists already; nothing was enqueued")
