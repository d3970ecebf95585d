"""A log line for each task that ends, as far as there is room; sums beyond that.

A worker can end two thousand tasks a second, and a line for each would cost it more than the task, and bury what
matters. So so many lines a second are written in full, and what is beyond them is counted and said together.
Nothing in a line is a prompt, an answer or a provider's words.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from time import perf_counter
from typing import Any, Final

import structlog

from deltabus import telemetry
from deltabus.errors import TaskError
from deltabus.events import Completed, Failed, Terminal
from deltabus.telemetry import Observer, Watch

#: Seconds between two sums.
SUM_INTERVAL: Final = 10.0

#: Seconds' worth of lines that may come at once after a quiet time.
BURST: Final = 5

#: Characters that are shown of a producer's model or tenant.
LABEL_LIMIT: Final = 100

log = structlog.get_logger("deltabus.task")


class TaskLog(Observer):
    """Writes them. Used on one loop.

    Args:
        lines: a second; see `Settings.task_lines`.
    """

    def __init__(self, lines: int) -> None:
        self._lines = lines
        # What is below the level takes structlog as long as a small task's start takes in all.
        self._says_starts = logging.getLogger("deltabus.task").isEnabledFor(logging.DEBUG)
        self._room = float(lines * BURST)
        self._at = perf_counter()
        self._unsaid: Counter[str] = Counter()
        self._unsaid_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begun(self, watch: Watch) -> None:
        if self._says_starts:
            log.debug("attempt started", **_facts(watch))

    def failed(self, watch: Watch, error: TaskError, retry_in: float | None) -> None:
        if not self._has_room():
            self._count(f"attempts failed, {error.code}")
            return
        more = {
            "status": error.status,
            "request_id": error.request_id,
            "retry_in": None if retry_in is None else round(retry_in, 3),
        }
        log.info(
            "attempt failed",
            **_facts(watch),
            code=error.code,
            seconds=_since(watch.called),
            **{name: value for name, value in more.items() if value is not None},
        )

    def settled(self, watch: Watch, event: Terminal) -> None:
        outcome = type(event).__name__.lower()
        code = event.error.code if isinstance(event, Failed) else None
        if not self._has_room():
            self._count(outcome if code is None else f"{outcome}, {code}")
            return
        line: dict[str, Any] = {"outcome": outcome}
        if code is not None:
            line["code"] = code
        if watch.attempt:
            line["seconds"] = round(watch.seconds, 4)
        if watch.deltas:
            line |= {"first_delta": round(watch.first_delta - watch.called, 4), "deltas": watch.deltas}
        if isinstance(event, Completed) and (tokens := _tokens(event.result)):
            line["tokens"] = tokens
        log.info("task finished", **_facts(watch), **line)

    def sum_up(self) -> None:
        """Say what has not been said."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._unsaid:
            log.info("tasks without a line each", seconds=_since(self._unsaid_since), tasks=dict(self._unsaid))
            self._unsaid.clear()

    def _has_room(self) -> bool:
        now = perf_counter()
        self._room = min(self._lines * BURST, self._room + (now - self._at) * self._lines)
        self._at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def _count(self, what: str) -> None:
        if self._timer is None:
            self._unsaid_since = perf_counter()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(SUM_INTERVAL, self.sum_up, context=telemetry.aside())
        self._unsaid[what] += 1


def _facts(watch: Watch) -> dict[str, Any]:
    facts = {
        "task": watch.task,
        "attempt": watch.attempt,
        "queue": watch.queue,
        "provider": watch.provider,
        "model": watch.model[:LABEL_LIMIT],
        "tenant": watch.tenant[:LABEL_LIMIT],
    }
    return {name: value for name, value in facts.items() if value != ""}


def _since(then: float) -> float:
    return round(perf_counter() - then, 4)


def _tokens(result: Any) -> dict[str, int]:
    """The tokens that an answer says it took, where it says so in OpenAI's words."""
    usage = result.get("usage") if isinstance(result, dict) else None
    if not isinstance(usage, dict):
        return {}
    counts = {"prompt": usage.get("prompt_tokens"), "completion": usage.get("completion_tokens")}
    return {kind: count for kind, count in counts.items() if type(count) is int}
