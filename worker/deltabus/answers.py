"""What task functions answer, checked before it gets among what others write: JSON, and not too much of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from deltabus.errors import Internal, PayloadTooLarge

log = structlog.get_logger("deltabus.engine")


def check(task: str, answer: Any, limit: int) -> None:
    """Refuse an answer that cannot be logged.

    Args:
        limit: bytes that it may have as JSON (`max_answer_bytes`).

    Raises:
        PayloadTooLarge: it is over the limit.
        Internal: it is no JSON.
    """
    try:
        size = len(msgspec.json.encode(answer))
    except (TypeError, ValueError, RecursionError) as exc:
        log.exception("a task function answered what cannot be written as JSON", task=task)
        raise Internal("the task function's answer cannot be written as JSON") from exc
    if size > limit:
        raise PayloadTooLarge(f"the answer has {size} bytes; {limit} are allowed (`max_answer_bytes`)")


def partial(task: str, accumulated: Callable[[], Any], limit: int) -> Any:
    """What a failed task has accumulated; None where it cannot be logged: the failure is told all the same."""
    try:
        part = accumulated()
        check(task, part, limit)
    except Exception:  # whatever a task function has put there
        log.exception("what a task has accumulated cannot be told", task=task)
        return None
    return part
