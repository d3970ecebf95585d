"""The event grammar: one fact about a task, as JSON.

A task's log is, in order::

    log      := attempt* terminal
    attempt  := (started | snapshot) (delta | progress | snapshot)* retrying?
    terminal := completed | failed | cancelled

Ids are `<attempt>-<n>`: `started` is n = 0, what follows counts up by one; the terminal event has
the id `keys.SEAL`. `started` with an attempt above 1 voids what earlier attempts streamed. A
`snapshot` stands for everything that its attempt streamed before it.

The JSON of an event is written once, by the worker; log and channel carry the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from deltabus import keys
from deltabus.errors import ErrorInfo


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=str.lower):
    """What every event has. `id` is its place in the log and the cursor to resume after."""

    task: str
    id: str = ""

    @property
    def attempt(self) -> int | None:
        """The attempt that this event belongs to; None for a terminal event."""
        return None if self.id == keys.SEAL else int(self.id.partition("-")[0])


class Started(Event, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt has begun. Above the first, it voids what was streamed before."""

    #: Unix time, seconds (so in every event).
    at: float
    worker: str | None = None


class Delta(Event, frozen=True, kw_only=True, omit_defaults=True):
    """One or more provider chunks (`chat.completion.chunk`), as the provider sent them."""

    chunks: tuple[dict[str, Any], ...]


class Snapshot(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Replaces all deltas of its attempt so far: `chunks` accumulate to the same state."""

    chunks: tuple[dict[str, Any], ...]


class Progress(Event, frozen=True, kw_only=True, omit_defaults=True):
    """How far a file task is."""

    at: float
    done: int
    total: int | None = None
    unit: Literal["bytes", "items"] = "bytes"


class Retrying(Event, frozen=True, kw_only=True, omit_defaults=True):
    """The attempt is over; the task will run again. What it streamed is void."""

    at: float
    reason: str
    #: Seconds until the next attempt may begin.
    delay: float = 0.0
    error: ErrorInfo | None = None


class Completed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Terminal. `result` is the provider's own object."""

    at: float
    result: Any
    #: RQ execution that settled the task.
    execution: str | None = None


class Failed(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Terminal. `partial` is what had been accumulated, where that is of use."""

    at: float
    error: ErrorInfo
    partial: Any = None
    execution: str | None = None


class Cancelled(Event, frozen=True, kw_only=True, omit_defaults=True):
    """Terminal. Somebody asked for it; `reason` is their word."""

    at: float
    reason: str | None = None
    execution: str | None = None


Terminal = Completed | Failed | Cancelled
AnyEvent = Started | Delta | Snapshot | Progress | Retrying | Completed | Failed | Cancelled

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: AnyEvent) -> bytes:
    """The event as JSON."""
    return _encoder.encode(event)


def encode_chunks(kind: Literal["delta", "snapshot"], task: str, id: str, chunks: Sequence[bytes]) -> bytes:
    """A `delta` or `snapshot` event around chunks that are JSON already: they are not parsed again."""
    head = f'{{"type":"{kind}","task":"{task}","id":"{id}","chunks":['.encode()
    return head + b",".join(chunks) + b"]}"


def decode(message: bytes | str) -> AnyEvent:
    """The event in a log entry or a published message.

    Raises:
        msgspec.DecodeError, msgspec.ValidationError: it is not an event of this version.
    """
    try:
        return _decoder.decode(message)
    except (UnicodeDecodeError, RecursionError) as exc:  # msgspec's own, where text is no UTF-8 or nested without end
        raise msgspec.DecodeError(str(exc)) from exc


def is_terminal(event: AnyEvent) -> bool:
    """Whether nothing can follow this event."""
    return isinstance(event, Terminal)
