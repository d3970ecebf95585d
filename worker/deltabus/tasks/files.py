"""The file task: upload, list, get, content, delete, on any provider that has files."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from deltabus import files as rules
from deltabus.context import Context
from deltabus.errors import NotFound, TaskError
from deltabus.files import Delete, Fetch, Get, Listing, Upload
from deltabus.provider import FileRequest, Provider, Request, UploadRequest
from deltabus.tasks.function import task
from deltabus.tasks.transfers import incoming, outgoing

#: Seconds in which a file that nobody will hear of must be deleted.
TAKE_BACK: Final = 10.0

log = structlog.get_logger("deltabus.tasks")


@task
async def file(context: Context) -> Any:
    """Does one thing with a provider's files, and returns the provider's object; `deltabus.files` has the rules."""
    provider = context.provider(files=True)
    match rules.prepare(context.envelope.request, provider.capabilities):
        case Upload() as wanted:
            return await _upload(context, provider, wanted)
        case Listing(body=body):
            return await provider.files(context.request(Request, body=body))
        case Get(file_id=file_id, body=body):
            return await provider.file(context.request(FileRequest, file_id=file_id, body=body))
        case Fetch(file_id=file_id, body=body, to=to):
            request = context.request(FileRequest, file_id=file_id, body=body)
            return await incoming(context, lambda: provider.content(request), to)
        case Delete(file_id=file_id, body=body):
            return await _delete(context, provider, context.request(FileRequest, file_id=file_id, body=body))


async def _upload(context: Context, provider: Provider, wanted: Upload) -> dict[str, Any]:
    async with outgoing(context, wanted) as (content, meter):
        made = await provider.upload(context.request(UploadRequest, content=content, body=wanted.body))
        try:
            await meter.finish()
        except BaseException:
            # The attempt is over: nobody will hear of this file, and the next attempt makes one of its own.
            await _take_back(context, provider, made)
            raise
    return made


async def _delete(context: Context, provider: Provider, request: FileRequest) -> dict[str, Any]:
    try:
        return await provider.delete(request)
    except NotFound:
        if not context.again:
            raise
        # It was there when the first try began, as far as anybody knows: that one's answer was lost.
        return {"id": request.file_id, "object": "file", "deleted": True}


async def _take_back(context: Context, provider: Provider, made: dict[str, Any]) -> None:
    file_id = made.get("id")
    if not isinstance(file_id, str):
        return
    try:
        async with asyncio.timeout(TAKE_BACK):
            await provider.delete(context.request(FileRequest, file_id=file_id))
    except (TaskError, TimeoutError) as exc:
        log.warning("a file stays at the provider", task=context.task, file=file_id, error=type(exc).__name__)
