"""File objects, lists of them and deletions: what servers send, as OpenAI documents it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from deltabus.provider import ProviderProtocol, UploadRequest

#: `ID`, `CreatedAt`, `FirstID`: the words in a key that Go's encoder has written.
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
#: A number that is written as a string.
_INTEGER = re.compile(r"[0-9]{1,19}")
#: Go writes nanoseconds, Python reads microseconds.
_FRACTION = re.compile(r"(\.\d{1,6})\d*")


def uploaded(answer: Any, request: UploadRequest) -> dict[str, Any]:
    """The file object of an upload.

    Raises:
        ProviderProtocol: it is none. Without an id, nobody could find or delete it.
    """
    known = {
        "filename": request.content.name,
        "purpose": request.body.get("purpose"),
        "bytes": request.content.size,
    }
    return {**known, **{key: value for key, value in of(answer).items() if value is not None or key not in known}}


def of(answer: Any, *, id: str | None = None) -> dict[str, Any]:
    """A file object.

    Args:
        answer: what came, decoded.
        id: where it says nothing of it.

    Raises:
        ProviderProtocol: it is none.
    """
    if not isinstance(answer, dict):
        raise ProviderProtocol("the provider answered with JSON that is not a file: base_url is probably wrong")
    file = _plain(answer)
    found = file.get("id") or id
    if not isinstance(found, str | int):
        raise ProviderProtocol("the provider answered with JSON that is not a file: it has no id")
    file["id"] = str(found)
    for key in ("created_at", "expires_at"):
        if key in file:
            file[key] = _unix(file[key])
    # Some servers write large numbers as strings, as protobuf's JSON does.
    if isinstance(size := file.get("bytes"), str) and _INTEGER.fullmatch(size):
        file["bytes"] = int(size)
    # Deprecated, and required in OpenAI's own schema.
    file.setdefault("status", "processed")
    file["object"] = "file"
    return file


def page(answer: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A page of a list of files.

    A server that does not say whether there is more has sent everything it has: what was asked for is then
    picked out here.

    Args:
        answer: what came, decoded.
        asked: `purpose`, `limit`, `order`, `after`.

    Raises:
        ProviderProtocol: it is no list.
    """
    if isinstance(answer, list):
        answer = {"data": answer}
    listed = _plain(answer) if isinstance(answer, dict) else {}
    # Go writes an empty list as null.
    data = listed.get("data", listed.get("files"))
    if data is None and ("data" in listed or listed.get("object") == "list"):
        data = []
    if not isinstance(data, list):
        raise ProviderProtocol("the provider answered with JSON that is not a list of files")
    files = [of(item) for item in data]
    more = listed.get("has_more")
    if not isinstance(more, bool):
        files, more = _pick(files, asked)
    ends = {"first_id": files[0]["id"] if files else None, "last_id": files[-1]["id"] if files else None}
    for key, value in ends.items():
        if listed.get(key) is None:
            listed[key] = value
    listed.pop("files", None)
    return {**listed, "object": "list", "data": files, "has_more": more}


def deletion(answer: Any, id: str) -> dict[str, Any]:
    """What is said of a deletion; a server that says nothing with its 2xx has deleted the file."""
    said = _plain(answer) if isinstance(answer, dict) else {}
    deleted = said.get("deleted")
    return {**said, "id": str(said.get("id") or id), "object": "file", "deleted": deleted is None or bool(deleted)}


def _plain(answer: Mapping[str, Any]) -> dict[str, Any]:
    """With keys as OpenAI writes them; one that is there twice stands as it is."""
    plain: dict[str, Any] = {}
    for key, value in answer.items():
        name = _WORDS.sub("_", key).lower() if key[:1].isupper() else key
        plain[key if name in answer and name != key else name] = value
    return plain


def _unix(moment: Any) -> Any:
    """Seconds since 1970, of RFC 3339 text, too; what is neither stays as it is."""
    if isinstance(moment, bool):
        return moment
    if isinstance(moment, float):
        return int(moment)
    if isinstance(moment, str):
        if _INTEGER.fullmatch(moment.strip()):
            return int(moment)
        try:
            return int(datetime.fromisoformat(_FRACTION.sub(r"\1", moment.strip())).timestamp())
        except (ValueError, OverflowError):
            return moment
    return moment


def _pick(files: list[dict[str, Any]], asked: Mapping[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    if purpose := asked.get("purpose"):
        files = [file for file in files if file.get("purpose") in (purpose, None)]
    if order := asked.get("order"):
        files = sorted(files, key=_age, reverse=order == "desc")
    if after := asked.get("after"):
        places = [place for place, file in enumerate(files) if file["id"] == after]
        files = files[places[0] + 1 :] if places else []
    limit = asked.get("limit")
    if isinstance(limit, int) and limit > 0:
        return files[:limit], len(files) > limit
    return files, False


def _age(file: Mapping[str, Any]) -> float:
    created = file.get("created_at")
    return created if isinstance(created, int | float) else 0
