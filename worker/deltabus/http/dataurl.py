"""Data URLs (RFC 2397), in which chat requests carry pictures and files."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from deltabus.provider import InvalidRequest

_HEAD = re.compile(r"data:(?P<type>[^;,]*)(?:;(?!base64,)[^;,]*)*(?P<base64>;base64)?,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DataURL:
    """What a data URL holds."""

    media_type: str
    #: Base64, as it came.
    base64: str

    @classmethod
    def parse(cls, url: str, *, param: str) -> DataURL | None:
        """Read a URL; None where it is none of this scheme.

        Raises:
            InvalidRequest: it is one, but not well-formed; `param` is the field that it came in.
        """
        if url[:5].lower() != "data:":
            return None
        head = _HEAD.match(url)
        if head is None:
            raise InvalidRequest("is not a data URL such as data:image/png;base64,…", param=param)
        data = url[head.end() :]
        if head["base64"] is None:
            data = base64.b64encode(unquote_to_bytes(data)).decode()
        return cls(head["type"].lower() or "text/plain", data)

    def decode(self, *, param: str) -> bytes:
        """The bytes.

        Raises:
            InvalidRequest: it is not base64.
        """
        try:
            return base64.b64decode(self.base64, validate=True)
        except ValueError as exc:  # binascii.Error is one, and what is not ASCII is another
            raise InvalidRequest("is not base64", param=param) from exc
