"""Dates as RQ writes them into job hashes: ISO 8601 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def unix(date: Any) -> float:
    """The date as Unix time in seconds; 0.0 where there is none, or it is none."""
    try:
        when = datetime.fromisoformat(date.decode()) if isinstance(date, bytes) and date else None
    except ValueError:
        when = None
    if when is None:
        return 0.0
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
