"""Log lines of a process: for people on a terminal, JSON elsewhere; never a secret, never a prompt.

Modules write with `structlog.get_logger()` and bind the task once, for everything below them::

    with structlog.contextvars.bound_contextvars(task=task_id):
        ...

A line that is written for an attempt names its task, attempt, queue and provider without that: see `telemetry.watch`.

The lines of libraries, which use `logging`, come out in the same form. Whatever a line says, the
configured secrets in it are masked last of all; tracebacks come without local variables, and at levels above `debug`
without words that may be a prompt's or an answer's: see `tracebacks`.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Collection
from functools import partial
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from deltabus import telemetry, tracebacks
from deltabus.settings import Settings

#: Libraries that write a line for each request, with its URL, at INFO.
TALKATIVE: Final = ("aiohttp", "asyncio", "httpcore", "httpx")


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Set the process' logging up; a second call replaces the first.

    Args:
        settings: `log_level`, `log_format`, and the secrets to mask.
        stream: where the lines go; None: standard error.
    """
    stream = stream if stream is not None else sys.stderr
    words = settings.log_level == "debug"
    console = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    both: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _of_attempt,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *both,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = _Handler(stream)
    renderers = _console(stream, words=words) if console else _json(words=words)
    handler.setFormatter(_Masking(settings.secrets, both, renderers))
    root = logging.getLogger()
    for former in [former for former in root.handlers if isinstance(former, _Handler)]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def catch_all() -> None:
    """Have what nobody catches come out as lines, too: errors that end the process or a thread, and warnings.

    For programs that are the log's alone; called after `configure`.
    """
    log = structlog.get_logger("deltabus")

    def of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("the process ends with an error", exc_info=(kind, error, trace))

    def of_thread(what: threading.ExceptHookArgs) -> None:
        if what.exc_value is not None:
            log.error("a thread ends with an error", exc_info=what.exc_value, thread=getattr(what.thread, "name", None))

    def of_destructor(what: sys.UnraisableHookArgs) -> None:
        if what.exc_value is not None:
            log.error("an error that nobody could catch", exc_info=what.exc_value)

    sys.excepthook = of_process
    threading.excepthook = of_thread
    sys.unraisablehook = of_destructor
    logging.captureWarnings(capture=True)


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, to be told from handlers that somebody else has put there."""


class _Masking(structlog.stdlib.ProcessorFormatter):
    """Renders a record, then masks what must not be seen, wherever in the line it got."""

    def __init__(self, secrets: Collection[str], foreign: list[Processor], renderers: list[Processor]) -> None:
        super().__init__(
            foreign_pre_chain=foreign,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
        # A message may quote it, and JSON quote the message. The longest first, as one may hold another.
        quoted = {*secrets, *(repr(secret)[1:-1] for secret in secrets)}
        quoted |= {form(text)[1:-1] for text in quoted for form in (json.dumps, _encode)}
        self._secrets = sorted(quoted, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


def _console(stream: TextIO, *, words: bool) -> list[Processor]:
    # structlog's own choice of a traceback shows local variables: prompts, answers and keys.
    def write(out: TextIO, info: Any) -> None:
        out.write("\n" + tracebacks.render(info, words=words))

    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=write)]


def _json(*, words: bool) -> list[Processor]:
    return [
        structlog.processors.ExceptionRenderer(partial(tracebacks.render, words=words)),
        structlog.processors.EventRenamer("message"),
        _ordered,
        structlog.processors.JSONRenderer(serializer=_encode),
    ]


def _of_attempt(_: Any, __: str, line: EventDict) -> EventDict:
    """Say for which attempt the line was written, where it was for one."""
    if (watch := telemetry.watch()) is not None:
        line.setdefault("task", watch.task)
        line.setdefault("attempt", watch.attempt)
        line.setdefault("queue", watch.queue)
        if watch.provider:
            line.setdefault("provider", watch.provider)
    return line


def _ordered(_: Any, __: str, line: EventDict) -> EventDict:
    # What every line has comes first, for those who read a log without a tool.
    first = {name: line.pop(name) for name in ("timestamp", "level", "logger", "message") if name in line}
    return {**first, **line}


def _encode(value: Any, **_: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
