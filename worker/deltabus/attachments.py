"""What goes with the messages of a chat task: fetched, and made into parts of a message that the provider takes.

| `as`    | the provider                  | becomes                             |
| ------- | ----------------------------- | ----------------------------------- |
| `image` | shows uploaded images         | uploaded, `file` with its id        |
|         | any other                     | `image_url` with a data URL         |
| `file`  | takes file ids in messages    | uploaded, `file` with its id        |
|         | takes files in messages       | `file` with `file_data`             |
| `audio` | any                           | `input_audio`                       |

What was uploaded is deleted when the attempt is over: see `temporary`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

from deltabus.chat import parts
from deltabus.chat.messages import NO_FILE_PARTS
from deltabus.context import Context
from deltabus.envelope import Attachment
from deltabus.errors import PayloadTooLarge
from deltabus.fields import Field
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
        made = await _parts(context, provider, capabilities)
        yield {**request, "messages": _with_parts(request.get("messages"), made)}
    finally:
        await context.temporary.delete(context.task)


async def _parts(context: Context, provider: str, capabilities: Capabilities) -> list[dict[str, Any]]:
    made = []
    # For all that is inline together: a job of a few bytes can name one large blob a thousand times.
    room = context.settings.max_inline_bytes
    for number, attachment in enumerate(context.envelope.attachments):
        param = f"attachments[{number}]"
        if _goes_by_id(attachment, capabilities):
            async with _opened(attachment, param, context) as content:
                file_id = await _upload(content, attachment, context, provider)
            made.append({"type": "file", "file": {"file_id": file_id}})
            continue
        if attachment.as_ == "file" and not capabilities.file_parts:
            raise Field(param, None).unsupported(NO_FILE_PARTS)
        try:
            async with _opened(attachment, param, context, room) as content:
                room -= content.size
                made.append(await _inline(content, attachment, param))
        except PayloadTooLarge as exc:
            if room >= context.settings.max_file_bytes:
                raise  # says which limit it was
            raise PayloadTooLarge(
                f"`{exc.param}`: what is put into the messages has over {context.settings.max_inline_bytes} bytes "
                "in all (`max_inline_bytes`)",
                param=exc.param,
            ) from exc
    return made


def _opened(
    attachment: Attachment, param: str, context: Context, max_bytes: int | None = None
) -> AbstractAsyncContextManager[Content]:
    return context.depot.open(
        attachment.source,
        param=f"{param}.source",
        name=attachment.filename,
        media_type=attachment.media_type,
        max_bytes=max_bytes,
    )


async def _inline(content: Content, attachment: Attachment, param: str) -> dict[str, Any]:
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
