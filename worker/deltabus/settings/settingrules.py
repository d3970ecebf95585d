"""What a setting may be: the rules for the values of single fields, wherever they come from."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from deltabus.settings.configvalue import kind
from deltabus.topology.redisurl import RedisURL

#: The words that a field may have.
CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "after_delta": ("restart", "fail"),
    "log_level": ("debug", "info", "warning", "error", "critical"),
    "log_format": ("auto", "console", "json"),
    "traces": ("off", "on"),
}

#: Numbers that are neither seconds nor bytes, and what they count.
_COUNTED: Final[Mapping[str, str]] = {
    "concurrency": "attempts at once",
    "max_deliveries": "deliveries",
    "max_retries": "retries",
    "metrics_port": "a TCP port",
    "task_lines": "log lines a second",
}

#: Fields of which 0 makes sense; every other number must be above it.
_MAY_BE_ZERO: Final = frozenset(
    {"drain_timeout", "max_retries", "metrics_port", "park_after", "retry_delay", "stall_after", "task_lines"}
)

#: Fields of which -1 means for ever, as it does to RQ.
_MAY_BE_FOREVER: Final = frozenset({"result_ttl", "failure_ttl"})

#: Leaves room for 32 digits in an id.
_ID_PREFIX: Final = re.compile(r"[A-Za-z0-9_-]{0,64}")

#: Scheme and bucket, and perhaps a folder.
_STORAGE_ROOT: Final = re.compile(r"[a-z0-9]+://[^/\s]+(/\S*)?")

#: No number may be larger: other languages' JSON has none, and timers count in doubles.
_LARGEST: Final = 2**53 - 1

#: The highest TCP port.
MAX_PORT: Final = 65535


def problem(name: str, value: Any, default: Any) -> str | None:
    """What is wrong with the value of a field, as the rest of a sentence; never the value of a secret.

    Args:
        default: the field's default, which says of what kind it is; None: it has none, and is a string.
    """
    match default:
        case tuple():
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                return f"must be a list of names, not {kind(value)}"
            if not all(map(str.strip, value)):
                return "must be a list of names: one of these is empty"
            if len(set(value)) < len(value):
                return "names the same thing twice"
            if name == "queues" and not value:
                return "must name at least one queue"
            if name == "url_hosts" and any(set("/@?#\\ ") & set(host) for host in value):
                return "must be a list of hosts such as files.internal or files.internal:8080"
            if name == "storage_roots" and not all(_STORAGE_ROOT.fullmatch(root) for root in value):
                return "must be a list of URLs such as s3://bucket/folder"
            if name == "file_roots" and not all(map(os.path.isabs, value)):
                return "must be a list of absolute paths"
        case int() | float():
            return _number_problem(name, value, whole=isinstance(default, int))
        case str() | None:
            if not isinstance(value, str):
                ways = ', or one of {env = "…"}, {file = "…"}, {command = ["…"]}' if isinstance(value, dict) else ""
                return f"must be a string{ways}, not {kind(value)}"
            if name in CHOICES and value not in CHOICES[name]:
                return f"must be one of {', '.join(CHOICES[name])}, not {value!r}"
            if name == "id_prefix" and not _ID_PREFIX.fullmatch(value):
                return "must be at most 64 letters, digits, `_` and `-`"
            if name == "redis_url":
                return _redis_url_problem(value)
            if name == "metrics_host" and not value.strip():
                return "must be an address such as 127.0.0.1, or 0.0.0.0 for all"
    return None


def _number_problem(name: str, value: Any, *, whole: bool) -> str | None:
    unit = "bytes" if name.endswith("_bytes") else _COUNTED.get(name, "seconds")
    wanted = f"must be a {'whole ' if whole else ''}number ({unit})"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return f"{wanted}, not {kind(value)}"
    if (value == 0 and name in _MAY_BE_ZERO) or (value == -1 and name in _MAY_BE_FOREVER):
        return None
    if value > _LARGEST and value != math.inf:
        return f"{wanted} of at most {_LARGEST}"
    if not math.isfinite(value) or value <= 0:
        least = "of at least 0" if name in _MAY_BE_ZERO else "above 0"
        return f"{wanted} {least}{' (or -1: for ever)' if name in _MAY_BE_FOREVER else ''}, not {value}"
    if name == "metrics_port" and value > MAX_PORT:
        return f"{wanted} of at most {MAX_PORT}, not {value}"
    return None


def _redis_url_problem(value: str) -> str | None:
    try:
        RedisURL.parse(value)
    except ValueError as exc:
        return str(exc)
    return None
