"""RQ jobs as strangers wrote them: restored from a job hash within bounds, and vetted before anything runs.

`BusJob` closes every path by which RQ would import or call what a job names; RQ's own maintenance code
(abandoned jobs, callbacks, webhooks) goes through it too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, Final, cast

import msgspec
import structlog
from redis import Redis
from redis.client import Pipeline
from rq.job import Job, JobStatus
from rq.registry import FinishedJobRegistry, StartedJobRegistry

from deltabus.allowlist import AllowList
from deltabus.context import Handler
from deltabus.errors import InvalidRequest, PayloadTooLarge, UnknownTask
from deltabus.fields import Field
from deltabus.settings import Settings

log = structlog.get_logger("deltabus.jobs")

#: Stands in for a payload that there is not.
NO_CALL: Final = b'["", null, [], {}]'

#: Field of a job's hash that is there from the job's start until RQ's records say how it ended; its value is the
#: execution that was the first to start it. An ending on the log is this round's while it is there, and that of a
#: former round afterwards: the job was enqueued again.
OPEN_FIELD: Final = "deltabus_open"

#: Field of a job's hash that counts how often the job lost its worker.
LOST_FIELD: Final = "deltabus_lost"

#: Field of a parked job's hash: attempts that have failed for a passing reason.
FAILURES_FIELD: Final = "deltabus_failures"

#: All that deltabus notes in a job's hash. It goes with the job's end: whoever runs it again begins anew.
NOTES: Final = (OPEN_FIELD, LOST_FIELD, FAILURES_FIELD)

_ENDED: Final = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)

#: Seconds: no time in a job may be longer. It is more than thirty years, and less than what timers can count.
LONGEST: Final = 10**9


#: Digits of a count; Python reads no number of thousands of them.
MOST_DIGITS: Final = 15

#: The times that every waiting job has.
_TIMES: Final = (b"created_at", b"enqueued_at")

#: Registries of queues that are kept at hand: a worker has few queues, but what a job says is its origin may be any.
REGISTRIES: Final = 64


@dataclass(frozen=True, slots=True)
class Start:
    """RQ's record that a job runs: the id of the execution, and the time in UTC."""

    execution: str
    at: datetime


class JSONSerializer:
    """RQ's JSON serializer, faster; the only one that a deltabus worker has."""

    @staticmethod
    def dumps(value: Any) -> bytes:
        """JSON bytes, as `rq.serializers.JSONSerializer` would read them."""
        return msgspec.json.encode(value)

    @staticmethod
    def loads(data: bytes) -> Any:
        """The value; raises `msgspec.DecodeError`."""
        return msgspec.json.decode(data)


class UnreadableJob(InvalidRequest):
    """RQ cannot make a job of the hash; `fields` are why, as Redis has their names."""

    def __init__(self, message: str, fields: Sequence[bytes] = ()) -> None:
        super().__init__(message, param=fields[0].decode(errors="replace") if fields else None)
        self.fields = fields


class BusJob(Job):
    """A job whose function, callbacks and webhooks come from the allow-list or not at all."""

    # Both are set once by the worker, before any job is restored: RQ constructs jobs in many places.
    allow: ClassVar[AllowList] = AllowList()
    #: Largest payload that is unpacked, in bytes.
    max_bytes: ClassVar[int] = Settings().max_request_bytes

    #: The payload was larger than that, and has been left out.
    is_oversize = False

    def __init__(self, id: str | None = None, connection: Redis | None = None, serializer: Any = None) -> None:
        # RQ holds a serializer against a protocol class whenever it is named. On Python 3.11 that takes 10 us, which
        # was a sixth of what a no-op task cost; and this one is known to fit.
        known = serializer is JSONSerializer
        super().__init__(id, connection, None if known else serializer)
        if known:
            self.serializer = JSONSerializer

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """See `Job.restore`. A payload is unpacked once, and a bomb is not."""
        packed = raw_data.get(b"data", b"")
        times = {name: at for name in _TIMES if (at := _time(raw_data.get(name))) is not None}
        super().restore({**raw_data, b"data": b"", **dict.fromkeys(times, b"")})
        for name, at in times.items():
            setattr(self, name.decode(), at)
        plain = _inflate(packed, self.max_bytes)
        self.is_oversize = plain is None
        self.data = NO_CALL if plain is None else plain

    @property
    def func(self) -> Callable[..., Any]:
        """The registered function; raises `UnknownTask`."""
        return self.allow.task(self.func_name or "")

    @property
    def success_callback(self) -> Callable[..., Any] | None:
        """The registered callback, if the job names one; raises `UnknownTask`."""
        return self._callback(self._success_callback_name)

    @property
    def failure_callback(self) -> Callable[..., Any] | None:
        """The registered callback, if the job names one; raises `UnknownTask`."""
        return self._callback(self._failure_callback_name)

    @property
    def stopped_callback(self) -> Callable[..., Any] | None:
        """The registered callback, if the job names one; raises `UnknownTask`."""
        return self._callback(self._stopped_callback_name)

    @property
    def started_job_registry(self) -> StartedJobRegistry:
        """RQ makes it anew for each look; see `__init__` for what that costs."""
        return _started(self.origin, self.connection)

    @property
    def finished_job_registry(self) -> FinishedJobRegistry:
        """As `started_job_registry`."""
        return _finished(self.origin, self.connection)

    def begin(self, worker: str, at: datetime) -> None:
        """Know what Redis has recorded already: that it runs. As `Job.prepare_for_execution`."""
        self.worker_name = worker
        self.started_at = self.last_heartbeat = at
        self._status = JobStatus.STARTED

    def save(self, pipeline: Pipeline | None = None, include_meta: bool = True, include_result: bool = True) -> None:
        """See `Job.save`. Saved with an ending, the job is not open any more."""
        super().save(pipeline, include_meta, include_result)
        if self._status in _ENDED:
            (self.connection if pipeline is None else pipeline).hdel(self.key, OPEN_FIELD)

    def _callback(self, name: str | None) -> Callable[..., Any] | None:
        return self.allow.callback(name) if name else None

    def send_webhooks(self, status: str | JobStatus, *, exc_string: str | None = None) -> None:
        """RQ's webhooks, to allowed hosts only."""
        for webhook in list(self.webhooks):
            try:
                self.allow.check_webhook(webhook.url)
            except UnknownTask as exc:
                log.warning("a webhook was not called", task=self.id, reason=exc.message)
                self.webhooks.remove(webhook)
        super().send_webhooks(status, exc_string=exc_string)

    @property
    def is_plain(self) -> bool:
        """Whether nothing but a result hangs on this job: its bookkeeping can be batched.

        Dependents are not known here; the commit script looks for them.
        """
        return not (
            self._success_callback_name
            or self._failure_callback_name
            or self._stopped_callback_name
            or self.webhooks
            or self.repeats_left
            or self.retries_left
            or self.rate_limit_key
            or self.failure_ttl == 0
        )


@lru_cache(REGISTRIES)
def _started(queue: str, connection: Redis) -> StartedJobRegistry:
    return StartedJobRegistry(queue, connection=connection, job_class=BusJob, serializer=JSONSerializer)


@lru_cache(REGISTRIES)
def _finished(queue: str, connection: Redis) -> FinishedJobRegistry:
    return FinishedJobRegistry(queue, connection=connection, job_class=BusJob, serializer=JSONSerializer)


def time_of(at: datetime) -> str:
    """A time in UTC as RQ writes it (`rq.utils.utcformat`), which takes a quarter of strftime's time."""
    return f"{at.isoformat(timespec='microseconds')[:26]}Z"


def _time(text: bytes | None) -> datetime | None:
    """The time, where it is in RQ's usual form: strptime, with which RQ reads it, takes fifteen times as long."""
    if text is None or len(text) != 27 or text[10:11] != b"T" or text[26:] != b"Z":
        return None
    try:
        return datetime.fromisoformat(text.decode())
    except ValueError:
        return None


def restore(job_id: str, fields: Mapping[bytes, bytes], *, connection: Redis, queue: str) -> BusJob:
    """A job from its hash.

    Args:
        queue: name of the queue that held the job; stands in where the hash has no `origin`.

    Raises:
        UnreadableJob: a field is missing or broken.
    """
    job = bare(job_id, connection=connection, queue=queue)
    if b"data" not in fields:
        raise UnreadableJob("the job hash has no `data` field", [b"data"])
    try:
        job.restore(fields)
        _check_values(job)
    except _UNREADABLE as exc:
        broken = _broken_fields(job_id, fields)
        names = ", ".join(f"`{name.decode(errors='replace')}`" for name in broken)
        reason = f": {str(exc)[:200]}" if str(exc) else ""
        raise UnreadableJob(f"the job hash is not as RQ writes it, in {names or 'its fields'}{reason}", broken) from exc
    job.origin = job.origin or queue
    return job


def bare(job_id: str, *, connection: Redis, queue: str) -> BusJob:
    """A job of which only the id and the queue can be relied on, to record its failure with."""
    job = BusJob(job_id, connection=connection, serializer=JSONSerializer)
    job.origin = queue
    job.data = NO_CALL
    return job


def count(fields: Mapping[bytes, bytes], name: str) -> int:
    """A number that deltabus keeps in a job's hash; 0 where it is not there.

    Raises:
        UnreadableJob: it is not a number.
    """
    value = fields.get(name.encode(), b"0")
    if not value.isdigit() or len(value) > MOST_DIGITS:
        raise UnreadableJob(f"the job hash is not as RQ writes it, in `{name}`: not a number", [name.encode()])
    return int(value)


def argument(job: BusJob) -> Any:
    """The one argument of the job's function.

    Raises:
        PayloadTooLarge: the payload is over `max_request_bytes`.
        InvalidRequest: the payload is not JSON, or not a call with one argument.
        UnknownTask: the function, a callback or a webhook host is not allowed.
    """
    if job.is_oversize:
        raise PayloadTooLarge(f"the job's payload is over {job.max_bytes} bytes (`max_request_bytes`)", param="data")
    try:
        call = msgspec.json.decode(job.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        if (field := _not_a_number(job.data)) is not None:
            rule = f"is {field.value}, which JSON does not have: send null, or leave it out"
            raise field.error(rule) from exc
        kind = "a pickle" if job.data[:1] == b"\x80" else f"not JSON ({exc})"
        raise InvalidRequest(
            f"the job's payload is {kind}; enqueue with RQ's JSON serializer: Queue(…, serializer='json')", param="data"
        ) from exc
    if not (isinstance(call, list) and len(call) == 4 and isinstance(call[0], str)):
        raise InvalidRequest("the job's payload must be `[function, null, [envelope], {}]`", param="data")
    function, instance, args, kwargs = call
    job.allow.task(function)
    for name in (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name):  # noqa: SLF001
        if name:  # RQ has no public name for these; the public properties load the function
            job.allow.callback(name)
    for webhook in job.webhooks:
        job.allow.check_webhook(webhook.url)
    if instance is not None or kwargs or not isinstance(args, list) or len(args) != 1:
        raise InvalidRequest("a task function takes exactly one argument, the envelope", param="data")
    return args[0]


class _Constant(str):
    """A word for a number that JSON does not have."""

    __slots__ = ()


def _not_a_number(data: bytes) -> Field | None:
    """The first NaN or Infinity of a payload that is no JSON for such words: Python's `json`, and RQ's, writes them."""
    try:
        call = json.loads(data, parse_constant=_Constant)
        return next(_constants(Field("data", call)), None)
    except (ValueError, RecursionError):
        return None


def _constants(field: Field) -> Iterator[Field]:
    if isinstance(field.value, _Constant):
        # As in other errors: of the call, its one argument is what its caller knows.
        yield Field(field.path.removeprefix("data[2][0]."), field.value)
    elif isinstance(field.value, dict):
        for _, member in field.members():
            yield from _constants(member)
    elif isinstance(field.value, list):
        for item in field.items():
            yield from _constants(item)


def handler(job: BusJob) -> Handler:
    """What runs the job: the handler of its task function.

    Raises:
        UnknownTask: the function is not registered, or was not made by `deltabus.tasks.task`.
    """
    function = job.func
    found = getattr(function, "handler", None)
    if found is None:
        raise UnknownTask(f"`{job.func_name}` is registered, but not made by `deltabus.tasks.task`", param="function")
    return cast("Handler", found)


def _inflate(data: bytes, limit: int) -> bytes | None:
    """The payload, which RQ compresses and other languages need not; None where it is over the limit."""
    if data[:1] == b"[":  # no zlib stream begins like this (RFC 1950, 2.2)
        return data if len(data) <= limit else None
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, limit + 1)
    except zlib.error:
        plain = data
    else:
        if not inflater.eof and len(plain) <= limit:
            plain = data  # it only begins as if it were compressed
    return plain if len(plain) <= limit else None


def _check_values(job: BusJob) -> None:
    """What RQ restores without a look, and what it, Redis or a timer would stumble over later.

    Raises:
        ValueError, TypeError: a value is not of the kind that RQ writes.
    """
    durations: list[Any] = [job.timeout, job.result_ttl, job.failure_ttl, job.ttl]
    durations += [job.success_callback_timeout, job.failure_callback_timeout, job.stopped_callback_timeout]
    lists: list[Any] = [job.retry_intervals, job.repeat_intervals]
    for intervals in lists:
        if not isinstance(intervals, list | None):
            raise TypeError("intervals must be a list of seconds")
        durations += intervals or ()
    if job.retry_intervals == []:
        raise ValueError("there must be an interval")
    for seconds in durations:
        if seconds is not None and (isinstance(seconds, bool) or abs(seconds) > LONGEST):
            raise ValueError(f"a time must be a number of seconds of at most {LONGEST}")
    if not isinstance(job.meta, dict):
        raise TypeError("meta must be an object")
    dependencies: Any = job._dependency_ids  # noqa: SLF001
    if not isinstance(dependencies, list) or not all(isinstance(job_id, str) for job_id in dependencies):
        raise TypeError("dependencies must be a list of job ids")


def _broken_fields(job_id: str, fields: Mapping[bytes, bytes]) -> list[bytes]:
    """Which fields are why: each is tried alone."""
    broken = []
    for name, value in fields.items():
        probe = BusJob(job_id, serializer=JSONSerializer, connection=_NO_CONNECTION)
        try:
            probe.restore({name: value})
            _check_values(probe)
        except _UNREADABLE:
            broken.append(name)
    return broken


#: What RQ's parsing of a hash raises, depending on the field.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, RecursionError)

#: `Job` wants a connection; restoring from a dict never uses it, and an unconnected client never connects.
_NO_CONNECTION = Redis()
