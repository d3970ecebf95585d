"""What a file is called and what it is: names without folders, MIME types without guessing from content."""

from __future__ import annotations

import mimetypes
import re
import unicodedata
from typing import Final

from deltabus.files import LONGEST_NAME, MEDIA_TYPE

#: MIME type of bytes of which nothing is known (RFC 2046, 4.5.1).
UNKNOWN: Final = "application/octet-stream"

#: Types that servers give to whatever they know nothing of.
_VAGUE: Final = frozenset({UNKNOWN, "binary/octet-stream", "application/binary", "application/x-download"})

#: Types of what providers take, where Python's own table has none, another in each version, or an old one. Of two
#: suffixes of a type, the first is given to names that have none.
_TYPES: Final = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".flac": "audio/flac",
    ".jsonl": "application/jsonl",
    ".m4a": "audio/mp4",
    ".md": "text/markdown",
    ".mp3": "audio/mpeg",
    ".mpga": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}

#: What a compressed file is, by the name that `mimetypes` has for it.
_COMPRESSED: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}

#: Python's table alone, so that a file is the same on every host.
_TABLE: Final = mimetypes.MimeTypes()


def is_media_type(text: str) -> bool:
    """Whether this is a MIME type, perhaps with parameters."""
    return MEDIA_TYPE.fullmatch(text) is not None


def media_type(name: str, said: str | None = None) -> str:
    """What a file is: what its server said of it, unless that says nothing; else what its suffix says."""
    said = (said or "").strip()
    if is_media_type(said) and said.partition(";")[0].strip().lower() not in _VAGUE:
        return said
    suffix = _suffix(name)
    if suffix in _TYPES:
        return _TYPES[suffix]
    guessed, encoding = _TABLE.guess_type(f"file{suffix}")
    if encoding is not None:
        return _COMPRESSED.get(encoding, UNKNOWN)
    return guessed or UNKNOWN


def file_name(raw: str) -> str:
    """A name that no system reads as a path or a command: the last part of a path; "" where nothing is left."""
    name = raw.replace("\\", "/").rpartition("/")[2]
    # Control and format characters (which can reverse what is shown), and halves of characters.
    name = "".join(char for char in name if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"})
    name = name.strip().strip('"')
    if not name.strip("."):
        return ""
    suffix = _suffix(name)
    room = LONGEST_NAME - len(suffix.encode())
    if len(name.encode()) > LONGEST_NAME:
        name = name.encode()[:room].decode(errors="ignore") + suffix
    return name


def with_suffix(name: str, media_type: str) -> str:
    """The name, which was not given but found, with a suffix: providers go by it."""
    if _suffix(name):
        return name
    essence = media_type.partition(";")[0].strip().lower()
    own = {kind: suffix for suffix, kind in reversed(_TYPES.items())}
    return name + (own.get(essence) or (_TABLE.guess_extension(essence) if essence != UNKNOWN else None) or "")


def _suffix(name: str) -> str:
    match = re.search(r"[^.](\.[A-Za-z0-9]{1,16})$", name)
    return match[1].lower() if match else ""
