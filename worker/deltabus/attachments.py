"""What goes with the messages of a chat task: fetched, and made into parts of a message that the provider takes.

| `as`    | the provider                  | becomes                             |
| ------- | ----------------------------- | ----------------------------------- |
| `image` | shows uploaded images         | uploaded, `file` with its id        |
|         | any other                     | `image_url` with a data URL         |
| `file`  | takes file ids in messages    | uploaded, `file` with its id        |
|         | any other                     | `file` with `file_data`             |
| `audio` | any                           | `input_audio`                       |

What was uploaded is deleted when the attempt is over: see `temporary`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from deltabus import parts
from deltabus.context import Context
from deltabus.envelope import Attachment
from deltabus.provider import Capabilities, Content, UploadRequest


@asynccontextmanager
async def fastened(
    request: Mapping[str, Any], context: Context, provider: str, capabilities: Capabilities
) -> AsyncIterator[Mapping[str, Any]]:
    """The request with the task's attachments, for as long as the provider needs them.

    Args:
        provider: name of the provider that gets it.

    Raises:
        TaskError: why one of them cannot be fetched or uploaded; `param` names it.
    """
    if not context.envelope.attachments:
        yield request
        return
    await context.temporary.delete(context.task)  # an earlier attempt may have left some
    try:
        made = [
            await _part(attachment, f"attachments[{number}]", context, provider, capabilities)
            for number, attachment in enumerate(context.envelope.attachments)
        ]
        yield {**request, "messages": _with_parts(request.get("messages"), made)}
    finally:
        await context.temporary.delete(context.task)


async def _part(
    attachment: Attachment, param: str, context: Context, provider: str, capabilities: Capabilities
) -> dict[str, Any]:
    by_id = _goes_by_id(attachment, capabilities)
    async with context.depot.open(
        attachment.source,
        param=f"{param}.source",
        name=attachment.filename,
        media_type=attachment.media_type,
        max_bytes=None if by_id else context.settings.max_inline_bytes,
    ) as content:
        if by_id:
            return {"type": "file", "file": {"file_id": await _upload(content, attachment, context, provider)}}
        async with aclosing(content.read()) as pieces:
            data = b"".join([piece async for piece in pieces])
        if attachment.as_ == "image":
            return parts.image(data, content.media_type, detail=attachment.detail, param=param)
        if attachment.as_ == "audio":
            return parts.audio(data, content.media_type, param=param)
        return parts.file(data, content.media_type, content.name)


def _goes_by_id(attachment: Attachment, capabilities: Capabilities) -> bool:
    if attachment.as_ == "image":
        return capabilities.files and capabilities.image_ids
    return attachment.as_ == "file" and capabilities.files and capabilities.file_ids


async def _upload(content: Content, attachment: Attachment, context: Context, provider: str) -> str:
    request = context.request(UploadRequest, body={"purpose": attachment.purpose}, content=content)
    return await context.temporary.upload(provider, request)


def _with_parts(messages: Any, made: list[dict[str, Any]]) -> Any:
    """The messages with these parts at the head of the last one that the user says: models see them first."""
    if not isinstance(messages, list):
        return messages  # for `chat.prepare` to refuse
    for index in reversed(range(len(messages))):
        match messages[index]:
            case {"role": "user", "content": str(said), **rest}:
                content = [*made, {"type": "text", "text": said}]
            case {"role": "user", "content": [*said], **rest}:
                content = [*made, *said]
            case _:
                continue
        return [*messages[:index], {"role": "user", **rest, "content": content}, *messages[index + 1 :]]
    return [*messages, {"role": "user", "content": made}]
