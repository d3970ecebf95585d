"""deltabus: a message bus for language-model work.

Producers put tasks on RQ queues and follow them::

    from deltabus import Bus

    with Bus() as bus:
        for piece in bus.chat(messages="Why is the sky blue?").text():
            print(piece, end="", flush=True)

`AsyncBus` is the same for asyncio. What stands here is the whole public API for producers and
subscribers; plugins import `deltabus.provider`. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltabus.blocking import Bus, Task
    from deltabus.bus import AsyncBus
    from deltabus.errors import (
        BlobNotFound,
        BusError,
        BusUnavailable,
        ConfigError,
        DeltabusError,
        ErrorInfo,
        InvalidRequest,
        PayloadTooLarge,
        TaskCancelled,
        TaskExists,
        TaskFailed,
        TaskNotFound,
        TaskRestarted,
    )
    from deltabus.events import (
        AnyEvent,
        Cancelled,
        Completed,
        Delta,
        Failed,
        Progress,
        Retrying,
        Snapshot,
        Started,
    )
    from deltabus.handle import AsyncTask, TaskStatus

_HOMES = {
    "deltabus.blocking": ("Bus", "Task"),
    "deltabus.bus": ("AsyncBus",),
    "deltabus.errors": (
        "BlobNotFound",
        "BusError",
        "BusUnavailable",
        "ConfigError",
        "DeltabusError",
        "ErrorInfo",
        "InvalidRequest",
        "PayloadTooLarge",
        "TaskCancelled",
        "TaskExists",
        "TaskFailed",
        "TaskNotFound",
        "TaskRestarted",
    ),
    "deltabus.events": (
        "AnyEvent",
        "Cancelled",
        "Completed",
        "Delta",
        "Failed",
        "Progress",
        "Retrying",
        "Snapshot",
        "Started",
    ),
    "deltabus.handle": ("AsyncTask", "TaskStatus"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnyEvent",
    "AsyncBus",
    "AsyncTask",
    "BlobNotFound",
    "Bus",
    "BusError",
    "BusUnavailable",
    "Cancelled",
    "Completed",
    "ConfigError",
    "Delta",
    "DeltabusError",
    "ErrorInfo",
    "Failed",
    "InvalidRequest",
    "PayloadTooLarge",
    "Progress",
    "Retrying",
    "Snapshot",
    "Started",
    "Task",
    "TaskCancelled",
    "TaskExists",
    "TaskFailed",
    "TaskNotFound",
    "TaskRestarted",
    "TaskStatus",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
