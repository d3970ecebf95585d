"""Asking the provider for files, in the tests against a server that keeps them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deltabus.provider import (
    FileRequest,
    TaskError,
    UploadRequest,
)
from deltabus.testing import ApiServer, Sample, ScriptedServer
from deltabus_openai import OpenAIProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]


KEY = "key-0123456789abcdef"


MIB = 1024 * 1024


@asynccontextmanager
async def provider(server: ApiServer | ScriptedServer, **settings: Any) -> AsyncGenerator[OpenAIProvider, None]:
    made = OpenAIProvider("kit", {"base_url": server.url, "api_key": KEY, **settings})
    try:
        yield made
    finally:
        await made.aclose()


def upload(content: Sample, **fields: Any) -> UploadRequest:
    rest = {name: fields.pop(name) for name in ("deadline", "headers") if name in fields}
    return UploadRequest(body={"purpose": "user_data", **fields}, content=content, **rest)


def of(file_id: str) -> FileRequest:
    return FileRequest(file_id=file_id)


async def fetch(made: OpenAIProvider, file_id: str) -> bytes:
    download = await made.content(of(file_id))
    try:
        return b"".join([piece async for piece in download])
    finally:
        await download.aclose()


async def refused(call: Coroutine[Any, Any, Any], kind: type[TaskError]) -> TaskError:
    with pytest.raises(kind) as caught:
        await call
    assert type(caught.value) is kind
    assert KEY not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    return caught.value
