"""Keeps credentials of OTEL_* variables out of what OpenTelemetry's SDK and its HTTP client log, and says it once.

What they are known to print is refused beforehand: see `variables`. This is for what they print next year. And for a
collector that is away for a night: the exporter of spans has several lines for each batch that it cannot send.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection
from typing import Final

#: Packages whose loggers are looked after.
_PACKAGES: Final = ("opentelemetry", "requests", "urllib3", "grpc")

#: What the loggers of exporters of spans are called by.
_EXPORTER: Final = "trace_exporter"

#: Seconds for which one of them does not say the same again.
PAUSE: Final = 60.0

#: Kinds of lines that are kept in mind.
KINDS: Final = 100


class Discretion(logging.Filter):
    """Masks secrets in records, and leaves out what an exporter repeats.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, secrets: Collection[str], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        #: When each kind of line was said last, by its logger and its form.
        self._said: dict[tuple[str, str], float] = {}
        # The longest first, as one may hold another; each as it is, and as an exception quotes it.
        quoted = {*secrets, *(repr(secret)[1:-1] for secret in secrets)}
        self._secrets = sorted(quoted, key=len, reverse=True)

    def mask(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        if _EXPORTER in record.name and self._is_repeated(record.name, str(record.msg)):
            return False
        message = record.getMessage()
        if (masked := self.mask(message)) != message:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[1] is not None:
            shown = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
            if (masked := self.mask(shown)) != shown:
                # The error itself would be rendered anew by whoever writes the line.
                record.msg, record.args = f"{record.getMessage()}\n{masked}", ()
                record.exc_info = record.exc_text = None
        return True

    def _is_repeated(self, logger: str, form: str) -> bool:
        now = self._clock()
        if now - self._said.get((logger, form), -PAUSE) < PAUSE:
            return True
        if len(self._said) >= KINDS:
            self._said.clear()  # whoever made them writes values into the form
        self._said[logger, form] = now
        return False


def keep(secrets: Collection[str]) -> Discretion:
    """Have the loggers that there are keep these secrets, too; those of modules not yet imported need another call."""
    discretion = Discretion(secrets)
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _PACKAGES:
            logger = logging.getLogger(name)
            for former in [former for former in logger.filters if isinstance(former, Discretion)]:
                logger.removeFilter(former)
            logger.addFilter(discretion)
    return discretion
