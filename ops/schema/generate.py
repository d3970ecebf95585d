"""Writes the JSON Schemas of the protocol, from the types with which the worker itself reads and writes.

    python ops/schema/generate.py            write envelope.json, event.json and file.json next to this file
    python ops/schema/generate.py --check    write nothing; exit 1 if one of them is out of date

The types say what a field is. What the worker checks beyond that (`deltabus.envelope.parse`) and what it
guarantees (ids, codes) is added here from the same constants.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from deltabus import envelope, errors, events, files, keys
from deltabus.depot import source

HERE: Final = Path(__file__).resolve().parent
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

#: Id of an event that is not terminal: attempt and number, neither padded.
EVENT_ID: Final = "^[1-9][0-9]{0,15}-(0|[1-9][0-9]{0,15})$"

_COMMENTED_FIELD = re.compile(r"((?:^ +#: .*\n)+) +(\w+):", re.MULTILINE)


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema, by the name of its file."""
    return {"envelope.json": envelope_schema(), "event.json": event_schema(), "file.json": file_schema()}


def render(schema: dict[str, Any]) -> str:
    """The content of a schema's file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def envelope_schema() -> dict[str, Any]:
    """What a job carries."""
    _, components = msgspec.json.schema_components([envelope.Envelope])
    schema = _described(components.pop("Envelope"), envelope.Envelope)
    components["RetryOptions"] = _described(components["RetryOptions"], envelope.RetryOptions)
    fields = schema["properties"]
    fields["v"] = {"const": envelope.VERSION, "default": envelope.VERSION}
    _string_rule(fields["reply_to"], keys.REPLY_CHANNEL.pattern)
    _alternative(fields["timeout"], "number")["exclusiveMinimum"] = 0
    fields["headers"]["propertyNames"] = {
        "pattern": _whole(envelope._HEADER_NAME.pattern),  # noqa: SLF001
        "not": {"pattern": _whole("|".join(_any_case(name) for name in sorted(envelope.FORBIDDEN_HEADERS)))},
    }
    fields["headers"]["additionalProperties"]["pattern"] = _whole(envelope._HEADER_VALUE.pattern)  # noqa: SLF001
    return {"$schema": DIALECT, "$id": "urn:deltabus:v1:envelope", **schema, "$defs": components}


def event_schema() -> dict[str, Any]:
    """What a log entry and a published message are."""
    (union,), components = msgspec.json.schema_components([events.AnyEvent])
    for kind in get_args(events.AnyEvent):
        schema = components[kind.__name__] = _described(components[kind.__name__], kind)
        fields = schema["properties"]
        fields["type"] = {"const": kind.__struct_config__.tag}
        fields["task"]["pattern"] = _whole(keys.TASK_ID.pattern)
        terminal = kind in get_args(events.Terminal)
        fields["id"] = {"const": keys.SEAL} if terminal else {"type": "string", "pattern": EVENT_ID}
        schema["required"] = ["type", "task", "id", *(name for name in schema["required"] if name in _own(kind))]
    error = components["ErrorInfo"] = _described(components["ErrorInfo"], errors.ErrorInfo)
    error["properties"]["code"]["enum"] = sorted({cls.code for cls in errors.TaskError.__subclasses__()})
    return {
        "$schema": DIALECT,
        "$id": "urn:deltabus:v1:event",
        "title": "Event",
        "description": "One fact about a task: an entry of its log, and the message on its channel.",
        "oneOf": union["anyOf"],
        "$defs": components,
    }


def file_schema() -> dict[str, Any]:
    """What the `request` of a file task is, for a provider that keeps to the API's limits."""
    least, most = files.EXPIRY
    first, last = files.PAGE
    text: dict[str, Any] = {"type": ["string", "null"]}
    expires = {
        "type": ["object", "null"],
        "properties": {
            "anchor": {"const": "created_at"},
            "seconds": {"type": "integer", "minimum": least, "maximum": most},
        },
        "required": ["anchor", "seconds"],
    }
    file_id = {"type": "string", "pattern": _whole(files.FILE_ID.pattern)}
    operations = {
        "upload": (
            ("source", "purpose"),
            {
                "source": {"$ref": "#/$defs/Source"},
                "purpose": {"enum": list(files.PURPOSES)},
                "filename": {**text, "pattern": r"^[^/\\\x00-\x1f\x7f]+$"},
                "media_type": {**text, "pattern": _whole(files.MEDIA_TYPE.pattern)},
                "expires_after": expires,
                # The part of the form that holds the bytes.
                "file": {"type": "null"},
            },
        ),
        "list": (
            (),
            {
                "purpose": {"enum": [*files.LISTED_PURPOSES, None]},
                "limit": {"type": ["integer", "null"], "minimum": first, "maximum": last},
                "order": {"enum": ["asc", "desc", None]},
                "after": {"anyOf": [file_id, {"type": "null"}]},
            },
        ),
        "get": (("file_id",), {"file_id": file_id}),
        "content": (
            ("file_id",),
            {"file_id": file_id, "to": {"anyOf": [{"$ref": "#/$defs/Destination"}, {"type": "null"}]}},
        ),
        "delete": (("file_id",), {"file_id": file_id}),
    }
    assert tuple(operations) == files.OPERATIONS
    about: dict[str, Any] = {"filename": text, "media_type": text}
    announced: dict[str, Any] = {
        "size": {"type": ["integer", "null"], "minimum": 0},
        "sha256": {**text, "pattern": "^[0-9a-fA-F]{64}$"},
    }
    place = {"type": "string", "minLength": 1}
    blob = {"type": "string", "pattern": _whole(keys.TASK_ID.pattern)}
    sources = {kind: blob if kind == "blob" else place for kind in source.SOURCES}
    targets = {kind: {"anyOf": [{"const": True}, blob]} if kind == "blob" else place for kind in source.DESTINATIONS}
    return {
        "$schema": DIALECT,
        "$id": "urn:deltabus:v1:file",
        "title": "File request",
        "description": "The `request` of `deltabus.tasks.file`. Other keys are the API's, and forwarded.",
        "oneOf": [
            {
                "type": "object",
                "properties": {"operation": {"const": operation}, **fields},
                "required": ["operation", *required],
            }
            for operation, (required, fields) in operations.items()
        ],
        "$defs": {
            "Source": _one_of("Where bytes come from.", sources, {**about, **announced}),
            "Destination": _one_of("Where bytes go to.", targets, about),
        },
    }


def _one_of(description: str, kinds: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """An object with exactly one of the first keys, and perhaps some of the others."""
    return {
        "type": "object",
        "description": description,
        "properties": {**kinds, **more},
        "additionalProperties": False,
        "oneOf": [{"required": [kind]} for kind in kinds],
    }


def _own(kind: type) -> set[str]:
    return set(kind.__annotations__)


def _described(schema: dict[str, Any], cls: type) -> dict[str, Any]:
    """The schema with the class's docstring and the `#:` comments of its fields as descriptions."""
    schema = {**schema, "description": inspect.getdoc(cls) or ""}
    for base in reversed(cls.__mro__[:-1]):
        if base.__module__.startswith("deltabus"):
            for comment, name in _COMMENTED_FIELD.findall(inspect.getsource(base)):
                text = " ".join(line.strip().removeprefix("#:").strip() for line in comment.splitlines())
                schema["properties"][name]["description"] = text.replace("None", "null")
    return schema


def _string_rule(schema: dict[str, Any], pattern: str) -> None:
    _alternative(schema, "string")["pattern"] = _whole(pattern)


def _alternative(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The branch of an optional field's schema that is not null."""
    return next(branch for branch in schema["anyOf"] if branch["type"] == kind)


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _any_case(name: str) -> str:
    """JSON Schema's patterns have no flag for it."""
    return "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in name)


def main(arguments: list[str]) -> int:
    stale = [
        name
        for name, schema in schemas().items()
        if not (HERE / name).exists() or (HERE / name).read_text(encoding="utf-8") != render(schema)
    ]
    if arguments == ["--check"]:
        for name in stale:
            print(f"{HERE / name} is out of date: run `python {Path(__file__).name}` there")
        return 1 if stale else 0
    for name in stale:
        (HERE / name).write_text(render(schemas()[name]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
