"""Every error that deltabus raises, and the closed set of codes that a task can fail with.

    DeltabusError
    ├── ConfigError              settings, routes, plugins: fix the configuration
    ├── BusError                 what a producer or a subscriber meets
    │   ├── BusUnavailable       Redis is away
    │   ├── TaskNotFound         neither RQ nor a log knows the task id
    │   ├── TaskExists           the task id is taken
    │   ├── BlobNotFound         there is no blob of this id, or no longer
    │   ├── TaskFailed           the task ended as `failed`; carries the ErrorInfo
    │   ├── TaskCancelled        the task ended as `cancelled`
    │   └── TaskRestarted        text that was already shown is void
    ├── CancelRequested          somebody asked to cancel the task
    ├── Fenced                   a newer attempt owns the log: drop the task, record nothing
    ├── Sealed                   the log already holds its terminal event
    └── TaskError                why an attempt failed; one class a code
        ├── InvalidRequest       invalid_request
        ├── Authentication       authentication
        ├── Permission           permission
        ├── NotFound             not_found
        ├── RateLimited          rate_limited            retryable
        ├── QuotaExhausted       quota_exhausted
        ├── ProviderUnavailable  provider_unavailable    retryable
        ├── ProviderTimeout      provider_timeout        retryable
        ├── ProviderProtocol     provider_protocol       retryable
        ├── StreamTruncated      stream_truncated        retryable
        ├── PayloadTooLarge      payload_too_large
        ├── Unsupported          unsupported
        ├── UnknownProvider      unknown_provider
        ├── UnknownTask          unknown_task
        ├── DeadlineExceeded     deadline_exceeded
        ├── WorkerLost           worker_lost
        └── Internal             internal

Whether an error is worth a retry is a fact of its class, never of a message. Foreign exceptions
are mapped to this tree once, at the boundary where they appear, with ``raise … from exc``.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A task's error as subscribers see it, inside `failed` and `retrying` events.

    It never holds a credential, a prompt or an answer.
    """

    code: str
    message: str
    retryable: bool = False
    #: HTTP status of the provider's answer, where there was one.
    status: int | None = None
    #: Name of the configured provider, not of its vendor.
    provider: str | None = None
    #: JSON path of the offending field, such as ``request.messages[2].role``.
    param: str | None = None
    #: The provider's own id of the request (``x-request-id``).
    request_id: str | None = None


class DeltabusError(Exception):
    """Root of every error raised on purpose by deltabus."""


class ConfigError(DeltabusError):
    """The configuration cannot work as written; the message names the key and the fix."""


class BusError(DeltabusError):
    """What a producer or a subscriber can meet."""


class BusUnavailable(BusError):
    """Redis is away: it cannot be reached, does not answer, loads its data, is a replica, or is out of memory.

    The message names the address (never a password) and the cause.
    """


class TaskNotFound(BusError):
    """Neither RQ nor a log knows this task id: it never existed, or its retention has passed."""


class TaskExists(BusError):
    """A task with this id was already accepted; nothing was enqueued."""


class BlobNotFound(BusError):
    """There is no blob of this id: it never existed, was deleted, or its TTL has passed."""


class TaskFailed(BusError):
    """The task ended as `failed`; `info` says why."""

    def __init__(self, task: str, info: ErrorInfo) -> None:
        super().__init__(f"task {task} failed: {info.code}: {info.message}")
        self.task = task
        self.info = info


class TaskCancelled(BusError):
    """The task ended as `cancelled`."""

    def __init__(self, task: str, reason: str | None = None) -> None:
        super().__init__(f"task {task} was cancelled" + (f": {reason}" if reason else ""))
        self.task = task
        self.reason = reason


class TaskRestarted(BusError):
    """The task runs again and says something else than what `text()` has already yielded of an earlier attempt.

    That cannot be unsaid: discard it, and ask for `text()` again, which begins with the newest attempt.
    """

    def __init__(self, task: str) -> None:
        super().__init__(f"task {task} runs again: discard what text() has yielded, and call it again")
        self.task = task


class CancelRequested(DeltabusError):
    """Somebody asked to cancel the task; whoever runs it stops and seals it as `cancelled`."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "cancelled on request")
        self.reason = reason or None


class Fenced(DeltabusError):
    """A newer attempt owns the task's log; whoever gets this drops the task and records nothing."""


class Sealed(DeltabusError):
    """The task's log already holds its terminal event; `message` is that event's JSON."""

    def __init__(self, task: str, message: bytes) -> None:
        super().__init__(f"task {task} is already settled")
        self.task = task
        self.message = message


class TaskError(DeltabusError):
    """Why an attempt failed. Subclasses fix `code` and `retryable`.

    Args:
        message: for a person: what is wrong and what to do about it.
        status, provider, param, request_id: see `ErrorInfo`.
        retry_after: seconds the provider asked to wait, where it said so.
        should_retry: the provider's explicit word (``x-should-retry``); overrides the class.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        provider: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.provider = provider
        self.param = param
        self.request_id = request_id
        self.retry_after = retry_after
        self.should_retry = should_retry

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def may_pass(self) -> bool:
        """Whether another try may succeed: the provider's word on it, else a fact of the class."""
        return self.retryable if self.should_retry is None else self.should_retry

    @property
    def info(self) -> ErrorInfo:
        """This error as subscribers see it."""
        return ErrorInfo(
            code=self.code,
            message=self.message,
            retryable=self.may_pass,
            status=self.status,
            provider=self.provider,
            param=self.param,
            request_id=self.request_id,
        )


class InvalidRequest(TaskError):
    """The request breaks a rule; `param` names the field."""

    code = "invalid_request"


class Authentication(TaskError):
    """The provider does not accept the credentials (HTTP 401), or none are configured."""

    code = "authentication"


class Permission(TaskError):
    """The credentials are good but may not do this (HTTP 403)."""

    code = "permission"


class NotFound(TaskError):
    """The model, file or URL does not exist at the provider (HTTP 404)."""

    code = "not_found"


class RateLimited(TaskError):
    """The provider asks to slow down (HTTP 429)."""

    code = "rate_limited"
    retryable = True


class QuotaExhausted(TaskError):
    """The account has no credit left (HTTP 402, or 429 with ``insufficient_quota``); waiting does not help."""

    code = "quota_exhausted"
    #: Whatever the provider says of retries: they would only be refused, each at once.
    may_pass = False


class ProviderUnavailable(TaskError):
    """The provider cannot be reached or answered with a 5xx."""

    code = "provider_unavailable"
    retryable = True


class ProviderTimeout(TaskError):
    """The provider took too long: to connect, to the first byte, between bytes, or in all."""

    code = "provider_timeout"
    retryable = True


class ProviderProtocol(TaskError):
    """The provider answered with something that is not the API it claims to speak."""

    code = "provider_protocol"
    retryable = True


class StreamTruncated(TaskError):
    """The stream ended without saying that it was complete."""

    code = "stream_truncated"
    retryable = True


class PayloadTooLarge(TaskError):
    """A request, an answer or a file is over its size limit (or HTTP 413)."""

    code = "payload_too_large"


class Unsupported(TaskError):
    """The provider or this deployment cannot do what is asked."""

    code = "unsupported"


class UnknownProvider(TaskError):
    """No provider of that name, or no route for that model, is configured."""

    code = "unknown_provider"


class UnknownTask(TaskError):
    """The job names a function, callback or webhook host that is not allowed."""

    code = "unknown_task"


class DeadlineExceeded(TaskError):
    """The task's deadline or timeout passed."""

    code = "deadline_exceeded"


class WorkerLost(TaskError):
    """The task's workers died again and again."""

    code = "worker_lost"


class Internal(TaskError):
    """A bug in deltabus or in a plugin; the worker's log has the traceback."""

    code = "internal"
