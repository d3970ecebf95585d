"""Rules of a file task: what is checked before a provider is called or a byte is read. Pure.

The rules are those of the OpenAI API's `/files` (github.com/openai/openai-openapi), applied as those of a
chat are (`deltabus.chat.request`): a key that is not listed here is forwarded untouched, null means "not set", and
with `Capabilities.strict_ranges` off the API's limits and closed sets are left to the provider. What leads
somewhere (a file id becomes part of a URL, a name part of a form) is checked whatever the provider allows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deltabus.fields import Field
from deltabus.provider import Capabilities

#: Words for `operation`.
OPERATIONS: Final = ("upload", "list", "get", "content", "delete")

#: What an uploaded file can be for (`CreateFileRequest.purpose`).
PURPOSES: Final = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")

#: What a listed file can be for: the above, and what the provider itself makes (`OpenAIFile.purpose`).
LISTED_PURPOSES: Final = (*PURPOSES, "assistants_output", "batch_output", "fine-tune-results")

#: Seconds after which a file may be told to expire.
EXPIRY: Final = (3600, 2_592_000)

#: Files that a page of the list may have.
PAGE: Final = (1, 10_000)

#: Bytes of a file's name, in UTF-8: what every common file system takes.
LONGEST_NAME: Final = 255

#: An id becomes a segment of the provider's URL: nothing that divides one, escapes, or climbs (`..`).
FILE_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:=~@+-]{0,511}")
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")
#: RFC 6838, 4.2, perhaps with parameters (RFC 9110, 8.3.1) and never with what would end a header.
MEDIA_TYPE: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}([ \t]*;[\x20-\x7e]{1,200})?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Bytes from `source` go to the provider; `body` has the form's other fields."""

    source: Mapping[str, Any]
    body: Mapping[str, Any]
    name: str | None = None
    media_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of the files that there are."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Get:
    """What the provider says of a file."""

    file_id: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """The bytes of a file go to `to`: see `deltabus.depot`."""

    file_id: str
    body: Mapping[str, Any]
    to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete:
    """The file is deleted."""

    file_id: str
    body: Mapping[str, Any]


#: What a file task wants.
Operation = Upload | Listing | Get | Fetch | Delete


def prepare(request: Mapping[str, Any], capabilities: Capabilities) -> Operation:
    """Check the request of a file task.

    Raises:
        InvalidRequest: a rule is broken; `param` is the JSON path of the field.
        Unsupported: the provider has no files.
    """
    root = Field("request", dict(request))
    root.check_encodable()
    operation = root.child("operation").one_of(OPERATIONS)
    if not capabilities.files:
        raise root.child("operation").unsupported("this provider has no files; name one that has in `provider`")
    strict = capabilities.strict_ranges
    match operation:
        case "upload":
            return _upload(root, strict)
        case "list":
            return _listing(root, strict)
        case "get":
            return Get(file_id=_file_id(root), body=_rest(root, "file_id"))
        case "content":
            to = root.child("to")
            return Fetch(
                file_id=_file_id(root), body=_rest(root, "file_id", "to"), to=None if to.unset else check_target(to)
            )
        case _:
            return Delete(file_id=_file_id(root), body=_rest(root, "file_id"))


def check_source(field: Field) -> dict[str, Any]:
    """Where bytes come from, as far as this is the request's business; the depot knows the rest."""
    return field.object('where the bytes are: {"url": …}, {"path": …}, {"base64": …} or {"blob": …}')


def check_target(field: Field) -> dict[str, Any]:
    """Where bytes go to, as far as this is the request's business; the depot knows the rest."""
    return field.object('where the bytes go: {"blob": true}, {"url": "s3://…"} or {"path": …}')


def check_form(root: Field) -> None:
    """Refuse a field that the form has already: two of one name, and the provider may take the wrong one."""
    if not root.child("file").unset:
        raise root.child("file").error("is the part of the form that holds the bytes: say in `source` where they are")


def check_name(field: Field) -> str:
    """The name of a file: one, not a path; fit for a form's header."""
    name = field.string("the name of a file")
    if not name.strip() or name in {".", ".."}:
        raise field.error("must be the name of a file, such as report.pdf; leave it out to keep the source's own")
    if _NO_NAME.search(name):
        raise field.error("must be a name without a folder and without control characters, such as report.pdf")
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        raise field.error(f"must be at most {LONGEST_NAME} bytes long")
    return name


def check_media_type(field: Field) -> str:
    """A MIME type, fit for a header."""
    media_type = field.string("a MIME type such as application/pdf")
    if not MEDIA_TYPE.fullmatch(media_type):
        raise field.error(
            "must be a MIME type such as application/pdf or image/png; leave it out to go by the file's name"
        )
    return media_type


def _upload(root: Field, strict: bool) -> Upload:
    source, name, media_type = root.child("source"), root.child("filename"), root.child("media_type")
    check_source(source)
    check_form(root)
    _purpose(root.child("purpose"), PURPOSES, strict)
    expires = root.child("expires_after")
    if not expires.unset:
        _expires_after(expires, strict)
    return Upload(
        source=source.object(),
        name=None if name.unset else check_name(name),
        media_type=None if media_type.unset else check_media_type(media_type),
        body=_rest(root, "source", "filename", "media_type"),
    )


def _expires_after(field: Field, strict: bool) -> None:
    field.object('an object such as {"anchor": "created_at", "seconds": 86400}')
    field.child("anchor").one_of(("created_at",))
    seconds, (least, most) = field.child("seconds"), EXPIRY
    if strict and not least <= seconds.integer() <= most:
        raise seconds.error(f"must be from {least} (an hour) to {most} (30 days) seconds")
    if seconds.integer() < 1:
        raise seconds.error("must be a number of seconds above 0")


def _listing(root: Field, strict: bool) -> Listing:
    purpose, limit, order, after = (root.child(name) for name in ("purpose", "limit", "order", "after"))
    if not purpose.unset:
        _purpose(purpose, LISTED_PURPOSES, strict)
    if not limit.unset:
        least, most = PAGE
        if limit.integer() < least or (strict and limit.integer() > most):
            raise limit.error(
                f"must be from {least} to {most} files a page; the next page is `after` the last file's id"
            )
    if not order.unset:
        order.one_of(("asc", "desc"))
    if not after.unset:
        check_id(after, "the id of the last file of the page before")
    return Listing(body=_rest(root))


def _purpose(field: Field, known: Collection[str], strict: bool) -> None:
    if strict:
        field.one_of(known)
    elif not field.string(f"what the file is for, such as {', '.join(PURPOSES)}"):
        raise field.error(f"must not be empty: it is what the file is for, such as {', '.join(PURPOSES)}")


def _file_id(root: Field) -> str:
    return check_id(root.child("file_id"), "the id of a file, as `upload` and `list` tell it")


def check_id(field: Field, what: str) -> str:
    """The id of a file, which becomes a part of the provider's URL."""
    value = field.string(what)
    if not FILE_ID.fullmatch(value):
        raise field.error(f"must be {what}: 1 to 512 letters, digits and `_ . : = ~ @ + -`, not starting with a dot")
    return value


def _rest(root: Field, *taken: str) -> dict[str, Any]:
    """The parameters of the API call itself: without what is deltabus' own, and what is not set."""
    return {
        key: value
        for key, value in root.object().items()
        if key != "operation" and key not in taken and value is not None
    }
