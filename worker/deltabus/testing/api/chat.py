"""`/chat/completions`: says what it was shown, so that a test can tell which bytes reached the model."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web

from deltabus.testing.api.dialect import Dialect, refusal
from deltabus.testing.api.files import describe
from deltabus.testing.api.record import CURRENT
from deltabus.testing.api.store import Store


class ChatApi:
    """The handler.

    The answer names, part by part, what the last message held: `text: hello`, `file: report.pdf (12 bytes,
    sha256 …)`, `image: image/png (12 bytes, sha256 …)`, `audio: wav (…)`, one to a line.
    """

    def __init__(self, store: Store, dialect: Dialect) -> None:
        self._store = store
        self._dialect = dialect

    def routes(self) -> Iterator[web.RouteDef]:
        """The paths that there are."""
        yield web.post("/chat/completions", self.complete)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """`POST /chat/completions`."""
        body = CURRENT.get().body
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return refusal(400, "'messages' is a required property", param="messages")
        try:
            said = [list(self._saw(message, f"messages[{place}]")) for place, message in enumerate(messages)]
        except _Refused as exc:
            return refusal(exc.status, str(exc), param=exc.param)
        text = "\n".join(said[-1])
        head = {"id": self._store.name("chatcmpl-"), "created": int(time.time()), "model": body.get("model", "")}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text, "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head["object"] = "chat.completion.chunk"
        for delta, reason in _deltas(text):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            await _send(response, {**head, "choices": [choice]})
        if (body.get("stream_options") or {}).get("include_usage"):
            await _send(response, {**head, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _saw(self, message: Mapping[str, Any], where: str) -> Iterator[str]:
        content = message.get("content")
        if isinstance(content, str):
            yield f"text: {content}"
            return
        for place, part in enumerate(content or ()):
            yield from self._part(part, f"{where}.content[{place}]")

    def _part(self, part: Mapping[str, Any], where: str) -> Iterator[str]:
        match part.get("type"):
            case "text":
                yield f"text: {part['text']}"
            case "image_url":
                url = part["image_url"]["url"]
                yield f"image: {_data_url(url, where) if url.startswith('data:') else url}"
            case "input_audio":
                audio = part["input_audio"]
                yield f"audio: {audio['format']} ({_bytes(audio['data'], where)})"
            case "file" if self._dialect.file_parts:
                yield f"file: {self._file(part['file'], where)}"
            case kind if self._dialect.strict_parts:
                raise _Refused(400, f"Invalid value: '{kind}'.", where)

    def _file(self, file: Mapping[str, Any], where: str) -> str:
        if "file_data" in file:
            return f"{file.get('filename')} {_data_url(file['file_data'], where)}"
        stored = self._store.files.get(file.get("file_id", ""))
        if stored is None:
            raise _Refused(404, f"No such File object: {file.get('file_id')}", f"{where}.file.file_id")
        return describe(stored)


class _Refused(Exception):
    def __init__(self, status: int, message: str, param: str) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


def _data_url(url: str, where: str) -> str:
    head, _, data = url.partition(";base64,")
    if not head.startswith("data:"):
        raise _Refused(400, "not a base64 data URL", where)
    return f"{head.removeprefix('data:')} ({_bytes(data, where)})"


def _bytes(data: str, where: str) -> str:
    try:
        raw = base64.b64decode(data, validate=True)
    except (ValueError, binascii.Error) as exc:
        raise _Refused(400, "not base64", where) from exc
    return f"{len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()}"


def _deltas(text: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    yield {"role": "assistant", "content": ""}, None
    for place, word in enumerate(text.split(" ")):
        yield {"content": f" {word}" if place else word}, None
    yield {}, "stop"


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(f"data: {json.dumps(event)}\n\n".encode())
