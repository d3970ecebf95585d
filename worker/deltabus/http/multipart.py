"""A form as multipart/form-data (RFC 7578), with one file in it that is streamed. Sizes are exact."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any

from deltabus.http.outgoing import Outgoing
from deltabus.provider import Content, InvalidRequest

#: What would end a name or its line, as browsers escape it (https://html.spec.whatwg.org, "multipart/form-data
#: encoding algorithm"), and the other control characters, at which parsers stop.
_UNSAFE = re.compile(r'[\x00-\x1f"\x7f]')
#: A media type, with parameters (RFC 9110, section 8.3.1).
_MEDIA_TYPE = re.compile(r"[!#$%&'*+\-.^`|~\w]+/[!#$%&'*+\-.^`|~\w]+([ \t]*;[ -~]*)?", re.ASCII)
#: Of a file of which nothing is known.
_ANYTHING = "application/octet-stream"


class Form:
    """A form: its fields in order, then its file.

    Args:
        fields: `None` is left out, an object's fields become `name[key]`, an array's items `name[]`, as
            OpenAI's SDKs write them.
        field: name of the file's part.
        content: the file.
        filename, media_type: in place of the content's own.
        boundary: what stands between the parts, and must not be in them; random by default.

    Raises:
        InvalidRequest: the media type is none.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        field: str,
        content: Content,
        *,
        filename: str | None = None,
        media_type: str | None = None,
        boundary: str | None = None,
    ) -> None:
        self._boundary = boundary or f"deltabus-{secrets.token_hex(16)}"
        media_type = media_type or content.media_type or _ANYTHING
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise InvalidRequest(f"{media_type[:100]!r} is not a media type such as image/png", param="media_type")
        self._content = content
        lines = [
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{escaped(name)}"\r\n\r\n{value}\r\n'
            for key, given in fields.items()
            for name, value in _flat(key, given)
        ]
        lines.append(
            f"--{self._boundary}\r\n"
            f'Content-Disposition: form-data; name="{escaped(field)}"; '
            f'filename="{escaped(filename or content.name or "file")}"\r\n'
            f"Content-Type: {media_type}\r\n\r\n"
        )
        # A lone surrogate, of a file name that is not UTF-8, has no UTF-8 either.
        self._head = "".join(lines).encode("utf-8", "replace")
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()

    @property
    def headers(self) -> dict[str, str]:
        """What the request says of its body."""
        return {"Content-Type": f"multipart/form-data; boundary={self._boundary}"}

    def body(self, start: int = 0, length: int | None = None) -> Outgoing:
        """All of it, to be sent once.

        Args:
            start: first byte of the content that is in it.
            length: bytes of the content that are in it; None, all from there on.
        """
        size = self._content.size - start if length is None else length
        return Outgoing(len(self._head) + size + len(self._tail), self._pieces(start, size))

    async def _pieces(self, start: int, size: int) -> AsyncGenerator[bytes]:
        yield self._head
        left = size
        if size:
            async with aclosing(self._content.read(start, size)) as pieces:
                async for piece in pieces:
                    left -= len(piece)
                    self._check(left < 0, "more", size)
                    yield piece
        # Before the end of the form, with which a server may take it for a whole one.
        self._check(left > 0, "fewer", size)
        yield self._tail

    def _check(self, wrong: bool, which: str, size: int) -> None:
        if wrong:
            raise InvalidRequest(f"the source has {which} bytes than the {size} that it said it had")


def escaped(name: str) -> str:
    """A name as it stands between quotes: UTF-8 as it is, quotes and line ends as `%22`, `%0D`, `%0A`."""
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", name)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    match value:
        case None:
            return
        case Mapping():
            for key, item in value.items():
                yield from _flat(f"{name}[{key}]", item)
        case list() | tuple():
            for item in value:
                yield from _flat(f"{name}[]", item)
        case str():
            yield name, value
        case _:
            yield name, json.dumps(value)
