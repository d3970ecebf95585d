"""What RQ itself remembers of a job: its hash and its results, read without importing rq.

Key names, fields and encodings are those of RQ 3.0 (`rq.job.Job.to_dict`, `rq.results.Result`).
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from typing import Any, Final, Literal

import msgspec
from redis.exceptions import ResponseError

from deltabus import failure, keys
from deltabus.commit import GroupCommit, pack_command
from deltabus.errors import BusError, ErrorInfo, TaskNotFound
from deltabus.events import Cancelled, Completed, Failed, Terminal

#: Where a task stands.
State = Literal["queued", "scheduled", "deferred", "started", "completed", "failed", "cancelled"]

#: RQ's words for it (`rq.job.JobStatus`).
_STATES: Final[dict[str, State]] = {
    "created": "deferred",
    "queued": "queued",
    "rate_limited": "queued",
    "ready_to_enqueue": "queued",
    "deferred": "deferred",
    "scheduled": "scheduled",
    "started": "started",
    "finished": "completed",
    "failed": "failed",
    "stopped": "cancelled",
    "canceled": "cancelled",
}

#: `rq.results.Result.Type` of a job that has returned.
_SUCCESSFUL: Final = b"1"

#: Bytes that a compressed field may unfold to. What is larger was not written by deltabus.
_MAX_FIELD: Final = 64 * 1024 * 1024

# A time, or -1; what has more digits is none, and more than Python reads.
_SECONDS = re.compile(rb"-?[0-9]{1,18}")

# How deltabus puts a failure into words for RQ: see `errors.TaskFailed`. The last such line of a traceback counts.
_FAILURE = re.compile(r"task \S+ failed: ([a-z_]+): (.*)")


#: What RQ says of jobs that it ended by force or lost (`rq.worker`, `rq.registry`, `rq.timeouts`), and its meaning.
_RQ_WORDS: Final = {
    "Work-horse terminated unexpectedly": "worker_lost",
    "AbandonedJobError": "worker_lost",
    "JobTimeoutException": "deadline_exceeded",
}


class RQKeys:
    """Names of RQ's keys under its prefix (`RQ_KEY_PREFIX`)."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        #: Set of the keys of all queues.
        self.queues = f"{prefix}:queues".encode()

    def job(self, task: str) -> bytes:
        """Hash of a job."""
        return f"{self._prefix}:job:{task}".encode()

    def results(self, task: str) -> bytes:
        """Stream of a job's results, the newest last."""
        return f"{self._prefix}:results:{task}".encode()

    def queue(self, name: str) -> bytes:
        """List of the ids of the jobs that wait."""
        return f"{self._prefix}:queue:{name}".encode()

    def executions(self, task: str) -> bytes:
        """Sorted set of RQ's ids of the job's runs that go on."""
        return f"{self._prefix}:executions:{task}".encode()

    def registry(self, kind: Literal["canceled", "scheduled", "deferred", "failed"], queue: str) -> bytes:
        """Sorted set of the ids of a queue's jobs in that state."""
        return f"{self._prefix}:{kind}:{queue}".encode()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A job as RQ has it."""

    task: str
    state: State
    queue: str
    #: What `data` holds, as bytes of the job's serializer.
    data: bytes
    #: Seconds that results are kept; None: the worker's default.
    result_ttl: int | None
    #: Fields of the newest result, and Unix time of it in seconds.
    result: dict[bytes, bytes] | None
    result_at: float
    #: What deltabus has noted of a failure: see `deltabus.failure`.
    note: bytes | None = None

    @property
    def reply_to(self) -> str | None:
        """The channel that the job's envelope asks replies on."""
        match payload(self.data):
            case [_, _, [{"reply_to": str(channel)}, *_], _]:
                return channel
            case _:
                return None

    @property
    def function(self) -> str | None:
        """Dotted path of the function that the job calls."""
        match payload(self.data):
            case [str(function), *_]:
                return function
            case _:
                return None

    @property
    def over(self) -> bool:
        """Whether RQ has done with the job."""
        return self.state in {"completed", "failed", "cancelled"}

    def ending(self) -> Terminal:
        """How the task ended, in the words of an event.

        Raises:
            TaskNotFound: the result has expired.
            BusError: the result is not JSON.
        """
        if self.state == "cancelled":
            return Cancelled(task=self.task, id=keys.SEAL, at=self.result_at)
        if self.state == "failed":
            return Failed(task=self.task, id=keys.SEAL, at=self.result_at, error=self._error())
        if self.result is None:
            raise TaskNotFound(f"the result of task {self.task} has expired")
        return Completed(task=self.task, id=keys.SEAL, at=self.result_at, result=self._return_value())

    def _return_value(self) -> Any:
        encoded = (self.result or {}).get(b"return_value")
        if encoded is None:
            return None
        try:
            return msgspec.json.decode(base64.b64decode(encoded))
        except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise BusError(
                f"the result of task {self.task} is not JSON: its job was made with another of RQ's serializers"
            ) from exc

    def _error(self) -> ErrorInfo:
        result = self.result or {}
        noted = failure.decode(self.note, result.get(b"execution_id"))
        if noted is not None:
            return noted.error
        code, message = explain(result.get(b"exc_string"))
        return ErrorInfo(code=code or "internal", message=message)


def explain(exc_string: bytes | None) -> tuple[str | None, str]:
    """Code and message of a failure, from RQ's result of it; no code where the job was none of deltabus'."""
    try:
        text = _unfold(base64.b64decode(exc_string)).decode(errors="replace") if exc_string else ""
    except (binascii.Error, zlib.error):
        text = ""
    if failures := _FAILURE.findall(text):
        code, message = failures[-1]
        return code, message
    # A foreign traceback: its last line says what, the rest is the business of whoever runs the worker.
    lines = text.strip().splitlines()
    last = lines[-1] if lines else "RQ does not say why"
    return next((code for words, code in _RQ_WORDS.items() if words in last), None), last


class Records:
    """Reads what RQ remembers."""

    def __init__(self, commit: GroupCommit, names: RQKeys) -> None:
        self._commit = commit
        self._names = names

    async def read(self, task: str) -> Record | None:
        """RQ's record of a task; None: RQ knows nothing of it.

        Raises:
            BusError: a key of RQ's is of another type.
        """
        names = self._names
        wanted = (b"status", b"origin", b"data", b"result_ttl", failure.FAILURE_FIELD.encode())
        status, origin, data, ttl, note = await self._call(task, b"HMGET", names.job(task), *wanted)
        state = _STATES.get((status or b"").decode(errors="replace"))
        results: list[Any] = []
        if state in {None, "completed", "failed"}:
            results = await self._call(task, b"XREVRANGE", names.results(task), b"+", b"-", b"COUNT", 1)
        fields, at = None, 0.0
        for entry, pairs in results:
            fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
            at = int(entry.partition(b"-")[0]) / 1000
        if state is None:
            # The hash is gone, or was never one; a result may outlive it.
            if fields is None:
                return None
            state = "completed" if fields.get(b"type") == _SUCCESSFUL else "failed"
        return Record(
            task=task,
            state=state,
            queue=(origin or b"").decode(errors="replace"),
            data=data or b"",
            result_ttl=int(ttl) if ttl is not None and _SECONDS.fullmatch(ttl) else None,
            result=fields,
            result_at=at,
            note=note,
        )

    async def _call(self, task: str, *command: bytes | int) -> Any:
        try:
            return await self._commit.call(pack_command(*command))
        except ResponseError as exc:
            raise BusError(f"Redis refuses to read RQ's records of task {task}: {exc}") from exc


def payload(data: bytes) -> Any:
    """A job's payload, where it is JSON: as it is, or compressed as RQ does it."""
    try:
        return msgspec.json.decode(_unfold(data) if data[:1] == b"\x78" else data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zlib.error):
        return None


def _unfold(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _MAX_FIELD)
