"""Keeps credentials of OTEL_* variables out of what OpenTelemetry's SDK and its HTTP client log.

What they are known to print is refused beforehand: see `variables`. This is for what they print next year.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Collection
from typing import Final

#: Packages whose loggers are looked after.
_PACKAGES: Final = ("opentelemetry", "requests", "urllib3", "grpc")


class Discretion(logging.Filter):
    """Masks secrets in records; none is left out."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        # The longest first, as one may hold another; each as it is, and as an exception quotes it.
        quoted = {*secrets, *(repr(secret)[1:-1] for secret in secrets)}
        self._secrets = sorted(quoted, key=len, reverse=True)

    def mask(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def filter(self, record: logging.LogRecord) -> bool:
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
