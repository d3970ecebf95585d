"""Where log lines go while a worker runs inside somebody's program: into `logging`, as a library's.

A program that has set structlog up keeps what it has. Where none has, structlog would print them to standard output,
which is the program's.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import structlog

_PROCESSORS: Final[list[Any]] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.format_exc_info,
    structlog.processors.KeyValueRenderer(key_order=["event"]),
]

_lock = threading.Lock()
#: How many want it; more than one where blocks lie within each other.
_wanted = 0


def lead() -> None:
    """Lead the lines there, until as many have called `leave`."""
    global _wanted  # noqa: PLW0603 # as is structlog's configuration
    with _lock:
        if not structlog.is_configured():
            structlog.configure(
                processors=_PROCESSORS,
                wrapper_class=structlog.stdlib.BoundLogger,
                logger_factory=structlog.stdlib.LoggerFactory(),
            )
        _wanted += 1


def leave() -> None:
    """Do not, any more."""
    global _wanted  # noqa: PLW0603 # as is structlog's configuration
    with _lock:
        _wanted -= 1
        # Whoever has set it up in the meantime keeps that.
        if not _wanted and structlog.get_config()["processors"] is _PROCESSORS:
            structlog.reset_defaults()
