"""The tasks that are one call of a provider each: embeddings, models, speech, transcription, images.

Binary answers are not results: they go to the depot, and the result says where they are.
"""

from __future__ import annotations

import binascii
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, Final

from deltabus import calls as rules
from deltabus.context import Context
from deltabus.errors import ProviderProtocol
from deltabus.provider import Download, Request, UploadRequest
from deltabus.tasks.function import task
from deltabus.tasks.transfers import incoming, outgoing

#: Characters of base64 that are decoded at a time, 768 KiB of bytes.
_SLICE: Final = 1024 * 1024

#: How files of these types begin.
_MAGIC: Final = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))


@task
async def embeddings(context: Context) -> Any:
    """Vectors of texts: the provider's list of `embedding` objects."""
    provider = context.provider()
    body = rules.embeddings(context.envelope.request, provider.capabilities)
    return await provider.embeddings(context.request(Request, body=body))


@task
async def models(context: Context) -> Any:
    """The models that a provider has: its list of `model` objects."""
    provider = context.provider()
    body = rules.models(context.envelope.request, provider.capabilities)
    return await provider.models(context.request(Request, body=body))


@task
async def speech(context: Context) -> Any:
    """A text, spoken: what the depot says of the bytes."""
    provider = context.provider()
    wanted = rules.speech(context.envelope.request, provider.capabilities)
    request = context.request(Request, body=wanted.body)
    return await incoming(context, lambda: provider.speech(request), wanted.to)


@task
async def transcription(context: Context) -> Any:
    """Speech, as text: the provider's `transcription` object."""
    provider = context.provider()
    wanted = rules.transcription(context.envelope.request, provider.capabilities)
    async with outgoing(context, wanted) as (content, meter):
        rules.check_heard(content)
        text = await provider.transcription(context.request(UploadRequest, content=content, body=wanted.body))
        await meter.finish()
    return text


@task
async def images(context: Context) -> Any:
    """Pictures after a description: the provider's object, with a `blob` in place of each `b64_json`."""
    provider = context.provider()
    body = rules.images(context.envelope.request, provider.capabilities)
    answer = await provider.images(context.request(Request, body=body))
    pictures = answer.get("data")
    if not isinstance(pictures, list):
        return answer
    async with AsyncExitStack() as undo:
        kept = [await _without_base64(context, picture, undo) for picture in pictures]
        undo.pop_all()
    return {**answer, "data": kept}


async def _without_base64(context: Context, picture: Any, undo: AsyncExitStack) -> Any:
    text = picture.get("b64_json") if isinstance(picture, dict) else None
    if not isinstance(text, str):
        return picture
    text = text.partition(",")[2] if text.startswith("data:") else text
    blob = await context.depot.keep(Download(_decoded(text), media_type=_type_of(text)), None, param="request")
    undo.push_async_callback(context.depot.forget, blob)
    return {**{key: value for key, value in picture.items() if key != "b64_json"}, "blob": blob}


async def _decoded(text: str) -> AsyncGenerator[bytes]:
    for start in range(0, len(text), _SLICE):
        yield _decode(text[start : start + _SLICE])


def _decode(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as exc:
        raise ProviderProtocol("the provider's picture is not base64") from exc


def _type_of(text: str) -> str:
    head = _decode(text[:16])
    return next((media_type for magic, media_type in _MAGIC if head.startswith(magic)), "application/octet-stream")
