"""HTTP headers of a request: whose win, and which are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deltabus.provider import InvalidRequest

#: Headers that frame the message or belong to one connection: nobody but the HTTP client sets them
#: (RFC 9110, sections 7.6.1 and 8.6).
_FRAMING = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
#: A field name: a token (RFC 9110, section 5.6.2).
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: A field value without what could begin another line.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_CREDENTIAL = re.compile(r"(?i)auth|key|token|secret|cookie|password|credential")


def problem(name: str, value: str) -> str | None:
    """What is wrong with a header, without its value; None if nothing is."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is not the name of a header"
    if name.lower() in _FRAMING:
        return f"{name} is set by the HTTP client alone"
    if not _VALUE.fullmatch(value):
        return "the value has a line end, a control character, or one outside Latin-1"
    return None


def is_credential(name: str) -> bool:
    """Whether a header of this name is likely to hold a secret."""
    return bool(_CREDENTIAL.search(name))


def overlay(under: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Both; where both have a header, in whatever case, the one of `over`."""
    taken = {name.lower() for name in over}
    return {**{name: value for name, value in under.items() if name.lower() not in taken}, **over}


def merge(producer: Mapping[str, str], configured: Mapping[str, str]) -> dict[str, str]:
    """A producer's headers, checked, under the configured ones.

    Raises:
        InvalidRequest: a producer's header is malformed, frames the message, or holds credentials; `param`
            names it.
    """
    for name, value in producer.items():
        if wrong := problem(name, value):
            raise InvalidRequest(wrong, param=f"headers.{name[:100]}")
        if name.lower() in ("authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"):
            raise InvalidRequest("credentials are configured in the worker, not sent in a job", param=f"headers.{name}")
    return overlay(producer, configured)
