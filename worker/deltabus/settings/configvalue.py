"""How messages and screens speak of a configured value without giving a secret away."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit


def kind(value: Any) -> str:
    """What a value is, where a message says that it should be something else."""
    match value:
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return "a list" if all(isinstance(item, str) for item in value) else "a list of other things"
        case dict():
            return "a table"
    return f"a {type(value).__name__}"


def public_url(url: str) -> str:
    """The URL without user, password, query and fragment: what a message may show."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(not a URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
