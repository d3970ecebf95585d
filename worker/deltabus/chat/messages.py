"""Rules of the messages in a chat request: roles, content parts, tool calls and their ids. Pure.

Content parts of the Responses API, which some clients send to Chat Completions, are translated:

| part                          | becomes                                                            |
| ----------------------------- | ------------------------------------------------------------------ |
| `input_text`, `output_text`   | `text`                                                             |
| `input_image` with a URL      | `image_url`, `detail` with it                                      |
| `input_image` with a file id  | `file`, where the provider takes file ids                          |
| `input_file`                  | `file`; a file id only where the provider takes file ids           |

An `image_url` that is a plain string becomes the documented object.

Which parts a role may have is left to the provider: some take images in tool results, some do not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any, Final

from deltabus.fields import Field
from deltabus.provider import Capabilities

#: Every role that a message can have.
ROLES: Final = ("developer", "system", "user", "assistant", "tool", "function")

#: What an assistant's message may have in place of content. Reasoning is there when a length limit
#: ended an answer before its content began.
_FOR_CONTENT: Final = (
    "tool_calls",
    "function_call",
    "audio",
    "refusal",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
)

#: Tool-call ids that are made here have the length that Mistral asks for, in characters.
_ID_LENGTH: Final = 9
_ID_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_TOOL_CALL_TYPES: Final = ("function", "custom")

#: What a provider without the capability `file_parts` says of a file.
NO_FILE_PARTS: Final = (
    "this provider takes no files in messages (`file_parts` of its capabilities is false); put what the file says into "
    "a text part, send a picture as an image, or name another provider in `provider`"
)


def prepare(field: Field, capabilities: Capabilities) -> list[dict[str, Any]]:
    """The messages as the provider gets them: checked and translated. The originals are not changed.

    Raises:
        InvalidRequest, Unsupported: see `chat.prepare`.
    """
    if not field.array('an array of messages such as {"role": "user", "content": "…"}'):
        raise field.error('must have at least one message, such as {"role": "user", "content": "…"}')
    messages = [_message(item, capabilities) for item in field.items()]
    if capabilities.tool_call_id_pattern is None:
        return messages
    ids = _Ids(messages, capabilities.tool_call_id_pattern)
    return [ids.replace(item, message) for item, message in zip(field.items(), messages, strict=True)]


def _message(field: Field, capabilities: Capabilities) -> dict[str, Any]:
    message = field.object('a message such as {"role": "user", "content": "…"}')
    role = field.child("role").one_of(ROLES)
    name = field.child("name")
    if role == "function" or not name.unset:
        name.string()
    if role != "function" and not name.unset and not capabilities.message_names:
        raise name.unsupported("this provider takes no names of participants; leave it out")
    if role == "tool":
        field.child("tool_call_id").string("the id of the tool call that this message answers")
    if role == "assistant":
        _check_assistant(field)
    content = field.child("content")
    if content.unset and (role == "function" or (role == "assistant" and any(map(message.get, _FOR_CONTENT)))):
        return message
    if content.value is None and role == "assistant":
        raise content.error("may be null only together with `tool_calls` or what else stands for an answer")
    translated = _content(content, capabilities)
    return message if translated is content.value else {**message, "content": translated}


def _check_assistant(field: Field) -> None:
    for key in ("refusal", "reasoning_content", "reasoning"):
        text = field.child(key)
        if not text.unset:
            text.string()
    audio, call, calls = field.child("audio"), field.child("function_call"), field.child("tool_calls")
    if not audio.unset:
        audio.object()
        audio.child("id").string()
    if not call.unset:
        _check_function(call)
    if not calls.unset:
        for each in calls.items():
            _check_tool_call(each)


def _check_tool_call(field: Field) -> None:
    field.object('a tool call such as {"id": …, "type": "function", "function": {…}}')
    field.child("id").string("the id of the tool call")
    # Answers of some servers lack the type, and come back as they were.
    kind = "function" if field.child("type").unset else field.child("type").word(_TOOL_CALL_TYPES)
    if kind == "function":
        _check_function(field.child("function"))
    elif kind == "custom":
        custom = field.child("custom")
        custom.object()
        custom.child("name").string()
        custom.child("input").string()


def _check_function(field: Field) -> None:
    field.object('an object such as {"name": …, "arguments": "{}"}')
    field.child("name").string("the name of the function")
    field.child("arguments").string("the arguments as a string of JSON")


def _content(field: Field, capabilities: Capabilities) -> str | list[Any]:
    if isinstance(field.value, str):
        return field.value
    parts = field.array("a string or an array of parts")
    if not parts:
        raise field.error("must have at least one part; use a string where there is only text")
    translated = [_part(item, capabilities) for item in field.items()]
    return parts if all(map(_same, parts, translated)) else translated


def _same(one: object, other: object) -> bool:
    return one is other


def _part(field: Field, capabilities: Capabilities) -> dict[str, Any]:
    part = field.object('a part such as {"type": "text", "text": "…"}')
    rule = _PARTS.get(field.child("type").word(_PARTS))
    return part if rule is None else rule(field, part, capabilities)


# One function a type of part: it checks the part and returns it, or what it becomes.
_Part = Callable[[Field, dict[str, Any], Capabilities], dict[str, Any]]


def _text(field: Field, part: dict[str, Any], _: Capabilities) -> dict[str, Any]:
    field.child("text").string()
    return part if part["type"] == "text" else {**part, "type": "text"}


def _refusal(field: Field, part: dict[str, Any], _: Capabilities) -> dict[str, Any]:
    field.child("refusal").string()
    return part


def _image_url(field: Field, part: dict[str, Any], _: Capabilities) -> dict[str, Any]:
    image = field.child("image_url")
    if isinstance(image.value, str):
        return {**part, "image_url": {"url": _url(image)}}
    image.object('an object such as {"url": "https://…"}')
    _url(image.child("url"))
    if not image.child("detail").unset:
        image.child("detail").string()
    return part


def _input_audio(field: Field, part: dict[str, Any], _: Capabilities) -> dict[str, Any]:
    audio = field.child("input_audio")
    audio.object('an object such as {"data": "<base64>", "format": "wav"}')
    audio.child("data").string("base64 data")
    audio.child("format").string("the format of the data, such as wav or mp3")
    return part


def _file(field: Field, part: dict[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    file = field.child("file")
    file.object('an object such as {"file_id": "file-…"}')
    _check_file(file, capabilities)
    return part


def _input_image(field: Field, part: dict[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    image, file_id, detail = field.child("image_url"), field.child("file_id"), field.child("detail")
    if not detail.unset:
        detail.string()
    rest = {key: value for key, value in part.items() if key not in ("type", "image_url", "file_id", "detail")}
    if not image.unset:
        if isinstance(image.value, dict):
            translated = dict(image.value)
            _url(image.child("url"))
        else:
            translated = {"url": _url(image)}
        if not detail.unset:
            translated.setdefault("detail", detail.value)
        return {"type": "image_url", "image_url": translated, **rest}
    if file_id.unset:
        raise field.error("must have `image_url` (a URL or a data URL) or `file_id`")
    _check_file_id(file_id, capabilities)
    # `file` has no `detail`: the provider decides how closely it looks.
    return {"type": "file", "file": {"file_id": file_id.value}, **rest}


def _input_file(field: Field, part: dict[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    if not field.child("file_url").unset and field.child("file_id").unset and field.child("file_data").unset:
        raise field.child("file_url").unsupported(
            "Chat Completions fetches no files; send the content as `file_data` (a data URL), or upload it first"
        )
    _check_file(field, capabilities)
    members = ("file_id", "file_data", "filename")
    file = {key: part[key] for key in members if part.get(key) is not None}
    rest = {key: value for key, value in part.items() if key not in ("type", "file_url", *members)}
    return {"type": "file", "file": file, **rest}


def _check_file(file: Field, capabilities: Capabilities) -> None:
    """`file_id`, `file_data` and `filename` of the object `file`."""
    file_id, data, name = file.child("file_id"), file.child("file_data"), file.child("filename")
    if file_id.unset and data.unset:
        raise file.error("must have `file_id` or `file_data` (a data URL)")
    if not file_id.unset:
        _check_file_id(file_id, capabilities)
    for text in (data, name):
        if not text.unset:
            text.string()
    if not data.unset and not capabilities.file_parts:
        raise data.unsupported(NO_FILE_PARTS)


def _check_file_id(file_id: Field, capabilities: Capabilities) -> None:
    if not file_id.string("the id of an uploaded file"):
        raise file_id.error("must not be empty")
    if capabilities.file_ids:
        return
    if not capabilities.file_parts:
        raise file_id.unsupported(NO_FILE_PARTS)
    raise file_id.unsupported(
        "this provider takes no uploaded files in messages; "
        "send the content itself, as an attachment or as a data URL in `image_url` or `file_data`"
    )


def _url(field: Field) -> str:
    if not field.string("a URL or a data URL"):
        raise field.error("must not be empty: a URL or a data URL")
    return str(field.value)


_PARTS: Final[dict[str, _Part]] = {
    "text": _text,
    "image_url": _image_url,
    "input_audio": _input_audio,
    "file": _file,
    "refusal": _refusal,
    "input_text": _text,
    "input_image": _input_image,
    "input_file": _input_file,
    "output_text": _text,
}


class _Ids:
    """Tool-call ids that the provider takes, for those that it would not.

    An id that matches the provider's pattern stays. Any other becomes nine letters and digits of its
    hash, which Mistral asks for and every other known provider takes: the same id gets the same
    replacement in every message, every attempt and every later request of a conversation, and no two
    ids of a request get the same one. A provider whose pattern refuses those as well gets ids that
    fit from its callers, or the request is refused.
    """

    def __init__(self, messages: list[dict[str, Any]], pattern: str) -> None:
        self._pattern = re.compile(pattern)
        self._replacements: dict[str, str] = {}
        self._taken = {each for message in messages for each in _tool_call_ids(message) if self._fits(each)}

    def replace(self, field: Field, message: dict[str, Any]) -> dict[str, Any]:
        """The message, or a copy of it in which the ids fit."""
        if all(map(self._fits, _tool_call_ids(message))):
            return message
        if message["role"] == "tool":
            return {**message, "tool_call_id": self._replacement(field.child("tool_call_id"))}
        calls = [
            {**call.object(), "id": self._replacement(call.child("id"))} for call in field.child("tool_calls").items()
        ]
        return {**message, "tool_calls": calls}

    def _fits(self, id: str) -> bool:
        return self._pattern.fullmatch(id) is not None

    def _replacement(self, field: Field) -> str:
        original = field.string()
        if self._fits(original):
            return original
        if original not in self._replacements:
            replacement = next(each for each in map(partial(_digest, original), count()) if each not in self._taken)
            if not self._fits(replacement):
                raise field.unsupported(
                    f"this provider takes only ids of the form {self._pattern.pattern}; use such ids"
                )
            self._taken.add(replacement)
            self._replacements[original] = replacement
        return self._replacements[original]


def _tool_call_ids(message: dict[str, Any]) -> list[str]:
    if message["role"] == "tool":
        return [message["tool_call_id"]]
    if message["role"] == "assistant":
        return [call["id"] for call in message.get("tool_calls") or ()]
    return []


def _digest(id: str, salt: int) -> str:
    number = int.from_bytes(hashlib.sha256(f"{salt}:{id}".encode()).digest())
    return "".join(_ID_ALPHABET[number // 62**place % 62] for place in range(_ID_LENGTH))
