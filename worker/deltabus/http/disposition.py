"""The file name in a Content-Disposition header (RFC 6266)."""

from __future__ import annotations

import re
from urllib.parse import unquote

#: `filename*=UTF-8''na%C3%AFve.txt`, which wins over `filename`.
_EXTENDED = re.compile(r"(?:^|;)\s*filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]+)", re.IGNORECASE)
_PLAIN = re.compile(r'(?:^|;)\s*filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))', re.IGNORECASE)


def filename(header: str) -> str | None:
    """The name without a folder, None where there is none: the server must not choose where a file goes."""
    if (match := _EXTENDED.search(header)) is not None:
        try:
            name = unquote(match[2], encoding=match[1] or "utf-8", errors="strict")
        except (LookupError, UnicodeDecodeError):
            name = ""
    elif (match := _PLAIN.search(header)) is not None:
        name = re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
    else:
        return None
    name = re.split(r"[/\\]", name)[-1].strip()
    name = "".join(char for char in name if char.isprintable())
    return None if name in ("", ".", "..") else name
