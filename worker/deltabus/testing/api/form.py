"""Reads a multipart form, with its files straight into the store."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

from deltabus.testing.api.store import Spool, Store

#: Bytes of a field that is not a file.
_MAX_FIELD = 1 << 20


@dataclass(slots=True)
class FormFile:
    """A part that is a file."""

    spool: Spool
    filename: str | None
    media_type: str | None


@dataclass(slots=True)
class Form:
    """What was sent. `a[b]` is a mapping in `fields`, `a[]` a list."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, FormFile] = field(default_factory=dict)

    def discard(self) -> None:
        """Throw the bytes away."""
        for file in self.files.values():
            file.spool.path.unlink(missing_ok=True)


async def read_form(request: web.Request, store: Store, *, change: int = 0) -> Form:
    """Read all of it.

    Args:
        request: of type multipart/form-data.
        store: where its files go.
        change: bytes by which each file is to be longer or shorter than what was sent.
    """
    form = Form()
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                continue
            if part.filename is None:
                _put(form.fields, part.name, (await part.read())[:_MAX_FIELD].decode())
                continue
            with store.spool() as spool:
                form.files[part.name] = FormFile(spool, part.filename, part.headers.get("Content-Type"))
                while data := await part.read_chunk(256 * 1024):
                    spool.write(data)
                spool.change(change)
    except BaseException:
        form.discard()
        raise
    return form


def _put(fields: dict[str, Any], name: str, value: str) -> None:
    match re.fullmatch(r"([^\[\]]+)\[([^\[\]]*)\]", name):
        case None:
            fields[name] = value
        case found if found[2]:
            fields.setdefault(found[1], {})[found[2]] = value
        case found:
            fields.setdefault(found[1], []).append(value)
