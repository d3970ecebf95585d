"""What a task says of where bytes come from, or go to; checked, but not looked at yet."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from deltabus import keys
from deltabus.depot import naming
from deltabus.fields import Field

Kind = Literal["url", "path", "base64", "blob"]

#: The keys of a source, of which it has exactly one.
SOURCES: Final[tuple[Kind, ...]] = ("url", "path", "base64", "blob")
#: The same of a destination.
DESTINATIONS: Final[tuple[Kind, ...]] = ("blob", "url", "path")

_ABOUT: Final = ("filename", "media_type", "size", "sha256")

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where bytes come from.

    Raises:
        InvalidRequest: it breaks a rule; `param` names the field.
    """

    kind: Kind
    #: The field that says where: its value is a string.
    field: Field
    #: The whole, for errors about the bytes.
    whole: Field
    #: What the task says that they are; None: nothing.
    filename: str | None
    media_type: str | None
    size: int | None
    sha256: str | None

    @classmethod
    def read(cls, value: object, param: str, *, filename: str | None, media_type: str | None) -> Source:
        """Check a source.

        Args:
            filename, media_type: over those of the source.
        """
        whole = Field(param, value)
        kind = _only_one(whole, SOURCES, (*SOURCES, *_ABOUT))
        field = whole.child(kind)
        if not field.string():
            raise field.error("must not be empty")
        if kind == "blob":
            _check_id(field)
        return cls(
            kind=kind,
            field=field,
            whole=whole,
            filename=_filename(whole.child("filename") if filename is None else Field(f"{param}.filename", filename)),
            media_type=_media_type(
                whole.child("media_type") if media_type is None else Field(f"{param}.media_type", media_type)
            ),
            size=_size(whole.child("size")),
            sha256=_sha256(whole.child("sha256")),
        )


@dataclass(frozen=True, slots=True)
class Destination:
    """Where bytes go to.

    Raises:
        InvalidRequest: it breaks a rule; `param` names the field.
    """

    kind: Kind
    #: The field that says where: its value is a string, or true for a blob with an id of its own.
    field: Field
    filename: str | None
    media_type: str | None

    @classmethod
    def read(cls, value: object, param: str) -> Destination:
        """Check a destination; None: a blob."""
        whole = Field(param, {"blob": True} if value is None else value)
        kind = _only_one(whole, DESTINATIONS, (*DESTINATIONS, "filename", "media_type"))
        field = whole.child(kind)
        if kind != "blob":
            if not field.string():
                raise field.error("must not be empty")
        elif field.value is not True:
            field.string("true, or an id of your choice")
            _check_id(field)
        return cls(kind, field, _filename(whole.child("filename")), _media_type(whole.child("media_type")))


def _only_one(whole: Field, kinds: Sequence[Kind], known: Sequence[str]) -> Kind:
    table: dict[str, Any] = whole.object(f"an object with one of {', '.join(kinds)}")
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key)[:64], known, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise whole.child(str(key)).error(f"is not known here: there are {', '.join(known)}{hint}")
    found = [kind for kind in kinds if not whole.child(kind).unset]
    if len(found) != 1:
        raise whole.error(f"must have one of {', '.join(kinds)}" + (f", not {len(found)} of them" if found else ""))
    return found[0]


def _check_id(field: Field) -> None:
    if not keys.TASK_ID.fullmatch(field.string()):
        raise field.error("must be the id of a blob: 1 to 128 letters, digits, `_` and `-`")


def _filename(field: Field) -> str | None:
    if field.unset:
        return None
    name = naming.file_name(field.string())
    if not name:
        raise field.error("must be the name of a file")
    return name


def _media_type(field: Field) -> str | None:
    if field.unset:
        return None
    if not naming.is_media_type(field.string()):
        raise field.error("must be a MIME type such as application/pdf")
    return field.string()


def _size(field: Field) -> int | None:
    if field.unset:
        return None
    if field.integer() < 0:
        raise field.error("must be a number of bytes")
    return field.integer()


def _sha256(field: Field) -> str | None:
    if field.unset:
        return None
    if not _SHA256.fullmatch(field.string()):
        raise field.error("must be a SHA-256 digest: 64 hexadecimal digits")
    return field.string().lower()
