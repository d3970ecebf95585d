"""What is kept of a task's failure in its job's hash, for as long as RQ keeps the failed job.

The log, with the whole ending, is gone sooner than that; RQ's own record is one line of text.
"""

from __future__ import annotations

from typing import Final

import msgspec

from deltabus.errors import ErrorInfo

#: Field of a failed job's hash: a `Failure`, as JSON. It counts where RQ's newest result is of its execution.
FAILURE_FIELD: Final = "deltabus_failure"


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a task failed; never a prompt or an answer."""

    error: ErrorInfo
    #: RQ execution that ended so.
    execution: str
    #: Attempts that had begun; None: not known, as none began in that run.
    attempts: int | None = None
    #: Size of the partial answer in the `failed` event, as JSON.
    partial_bytes: int = 0
    #: The further channel that the task's events go to.
    reply_to: str | None = None


def encode(failure: Failure) -> bytes:
    """The failure as JSON."""
    return msgspec.json.encode(failure)


def decode(note: bytes | None, execution: bytes | None) -> Failure | None:
    """The failure of that execution; None where the note is not there, of another execution, or broken."""
    failure = read(note)
    return failure if failure is not None and failure.execution.encode() == execution else None


def read(note: bytes | None) -> Failure | None:
    """The failure of whichever execution; None where the note is not there, or broken."""
    try:
        return msgspec.json.decode(note or b"", type=Failure)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
