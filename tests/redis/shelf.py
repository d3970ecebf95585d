"""A provider that keeps files on a shelf in this process: what the tests of file tasks upload to.

What a request's body has beyond the API is a script: `fail_after` and `stall_after` bytes, `fails` attempts.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from deltabus.provider import (
    Capabilities,
    ChatRequest,
    Chunk,
    Completion,
    Download,
    FileRequest,
    NotFound,
    Provider,
    ProviderUnavailable,
    Request,
    UploadRequest,
)

#: What is on the shelf, by file id.
FILES: dict[str, dict[str, Any]] = {}
DATA: dict[str, bytes] = {}
#: What was asked, in order.
CALLS: list[str] = []
#: Bytes that were read of the file of each upload.
READ: list[int] = []
#: Uploads whose end was reached, one way or the other.
ENDED: list[str] = []

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10


class Shelf(Provider):
    """OpenAI's answers, made here."""

    capabilities = Capabilities(files=True)

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name

    async def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        yield Completion({"object": "chat.completion", "choices": []})

    async def upload(self, request: UploadRequest) -> dict[str, Any]:
        CALLS.append("upload")
        try:
            data = await self._read(request)
        except BaseException as exc:
            ENDED.append(type(exc).__name__)
            raise
        ENDED.append("whole")
        file_id = f"file-{len(CALLS)}"
        DATA[file_id] = data
        FILES[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": len(data),
            "filename": request.content.name,
            "media_type": request.content.media_type,
            "purpose": request.body["purpose"],
            "created_at": 1_700_000_000,
        }
        return FILES[file_id]

    async def _read(self, request: UploadRequest) -> bytes:
        script = request.body
        fails = len([call for call in CALLS if call == "upload"]) <= script.get("fails", 1)
        parts = []
        READ.append(0)
        async with aclosing(request.content.read()) as pieces:
            async for piece in pieces:
                parts.append(piece)
                READ[-1] += len(piece)
                if "fail_after" in script and fails and READ[-1] >= script["fail_after"]:
                    raise ProviderUnavailable("the connection broke", provider=self.name, retry_after=0)
                if "stall_after" in script and READ[-1] >= script["stall_after"]:
                    await asyncio.get_running_loop().create_future()
        return b"".join(parts)

    async def files(self, request: Request) -> dict[str, Any]:
        CALLS.append("files")
        ids = list(FILES)
        begin = ids.index(request.body["after"]) + 1 if "after" in request.body else 0
        page = ids[begin : begin + request.body.get("limit", 10_000)]
        more = begin + len(page) < len(ids)
        return {"object": "list", "data": [FILES[each] for each in page], "has_more": more}

    async def file(self, request: FileRequest) -> dict[str, Any]:
        CALLS.append("file")
        self._there(request)
        return FILES[request.file_id]

    async def content(self, request: FileRequest) -> Download:
        CALLS.append("content")
        self._there(request)
        data = DATA[request.file_id]
        return Download(_pieces(data), size=len(data), name=FILES[request.file_id]["filename"])

    async def delete(self, request: FileRequest) -> dict[str, Any]:
        CALLS.append("delete")
        self._there(request)
        del FILES[request.file_id], DATA[request.file_id]
        if request.body.get("lose_answer"):
            raise ProviderUnavailable("the connection broke", provider=self.name, retry_after=0)
        return {"id": request.file_id, "object": "file", "deleted": True}

    async def embeddings(self, request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [{"index": 0, "embedding": [0.5, 1.0]}], "asked": dict(request.body)}

    async def models(self, request: Request) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "m-1", "object": "model"}]}

    async def speech(self, request: Request) -> Download:
        return Download(_pieces(request.body["input"].encode()), media_type="audio/mpeg")

    async def transcription(self, request: UploadRequest) -> dict[str, Any]:
        return {"text": (await self._read(request)).decode(), "asked": dict(request.body)}

    async def images(self, request: Request) -> dict[str, Any]:
        whole = {"b64_json": base64.b64encode(PICTURE).decode(), "revised_prompt": request.body["prompt"]}
        pictures = {"bytes": whole, "url": {"url": "https://pictures.example/1.png"}, "broken": {"b64_json": "a?"}}
        return {"created": 1, "data": [pictures[kind] for kind in request.body["kinds"]]}

    def _there(self, request: FileRequest) -> None:
        if request.file_id not in FILES:
            raise NotFound("no such file", provider=self.name, status=404)


async def _pieces(data: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]
