"""Uploaded files that messages name by id, for providers that would not find them so: fetched, and put inline.

| part                                 | where the provider                | becomes                          |
| ------------------------------------ | --------------------------------- | -------------------------------- |
| `input_image` with a `file_id`       | does not show uploaded images     | `image_url` with a data URL      |
| `file` or `input_file` with an id    | takes files, but no ids of them   | `file` with `file_data`          |

Only where the provider has files at all: elsewhere the ids lead nowhere, and `chat.prepare` says so.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from deltabus.chat import parts
from deltabus.context import Context
from deltabus.errors import NotFound, PayloadTooLarge, Unsupported
from deltabus.fields import Field
from deltabus.files import check_id
from deltabus.provider import Capabilities, FileRequest, Provider

#: Types of parts that may name a file by its id.
_NAMING: Final = frozenset({"file", "input_file", "input_image"})


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    media_type: str
    name: str


async def inlined(request: Mapping[str, Any], context: Context, provider: Provider) -> Mapping[str, Any]:
    """The request with the files that the provider would not find. What is not of such a shape stays as it is.

    Raises:
        TaskError: a file cannot be fetched, or is no picture; `param` names the part.
    """
    if not is_wanted(request, provider.capabilities):
        return request
    return {**request, "messages": await _Fetcher(context, provider).messages(request["messages"])}


def is_wanted(request: Mapping[str, Any], capabilities: Capabilities) -> bool:
    """Whether there may be something to fetch."""
    if not capabilities.files or (capabilities.file_ids and capabilities.image_ids):
        return False
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else ():
        match message:
            case {"content": [*content]}:
                if any(isinstance(part, dict) and part.get("type") in _NAMING for part in content):
                    return True
    return False


class _Fetcher:
    """Fetches each file once."""

    def __init__(self, context: Context, provider: Provider) -> None:
        self._context = context
        self._provider = provider
        self._room = context.settings.max_inline_bytes
        self._files: dict[str, _File] = {}

    async def messages(self, messages: list[Any]) -> list[Any]:
        """The messages, with such parts replaced."""
        replaced = []
        for index, message in enumerate(messages):
            match message:
                case {"content": [*content]}:
                    where = f"request.messages[{index}].content"
                    said = [await self._part(part, f"{where}[{number}]") for number, part in enumerate(content)]
                    replaced.append({**message, "content": said})
                case _:
                    replaced.append(message)
        return replaced

    async def _part(self, part: Any, param: str) -> Any:
        capabilities = self._provider.capabilities
        inline = capabilities.file_parts and not capabilities.file_ids
        match part:
            case {"type": "input_image", "file_id": str(file_id), **rest} if not (
                capabilities.image_ids or rest.get("image_url")
            ):
                file = await self._file(file_id, f"{param}.file_id")
                return parts.image(
                    file.data, file.media_type, detail=_text(rest.get("detail")), param=f"{param}.file_id"
                )
            case {"type": "file", "file": {"file_id": str(file_id)}} if inline:
                file = await self._file(file_id, f"{param}.file.file_id")
            case {"type": "input_file", "file_id": str(file_id)} if inline:
                file = await self._file(file_id, f"{param}.file_id")
            case _:
                return part
        return parts.file(file.data, file.media_type, file.name)

    async def _file(self, file_id: str, param: str) -> _File:
        if file_id not in self._files:
            self._files[file_id] = await self._fetch(file_id, param)
        file = self._files[file_id]
        # Each time: every mention becomes a copy.
        self._room -= len(file.data)
        self._check_room(self._room < 0, param)
        return file

    async def _fetch(self, file_id: str, param: str) -> _File:
        context = self._context
        check_id(Field(param, file_id), "the id of a file, as the provider tells it")
        request = context.request(FileRequest, file_id=file_id)
        try:
            described = await self._provider.file(request)
            download = await self._provider.content(request)
        except (NotFound, Unsupported) as exc:
            # A server without files and one without this file say the same.
            raise NotFound(
                f"the provider has no file `{file_id}`; where it has no files at all, send the content itself, "
                "as an attachment or as a data URL in `image_url` or `file_data`",
                param=param,
            ) from exc
        data = bytearray()
        async with aclosing(download):
            async for piece in download:
                data += piece
                self._check_room(len(data) > self._room, param)
        name = str(described.get("filename") or download.name or file_id)
        media_type = download.media_type
        if media_type == parts.UNKNOWN:
            media_type = mimetypes.guess_type(name)[0] or media_type
        return _File(bytes(data), media_type, name)

    def _check_room(self, over: bool, param: str) -> None:
        if over:
            limit = self._context.settings.max_inline_bytes
            raise PayloadTooLarge(
                f"the files of the messages have over {limit} bytes (`max_inline_bytes`)", param=param
            )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
