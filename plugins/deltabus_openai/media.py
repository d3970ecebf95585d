"""`/embeddings`, `/models`, `/audio`, `/images`: what is asked goes as it is, what comes is put in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from deltabus.http import Client, Exchange, Form, body
from deltabus.provider import Download, ProviderProtocol, Request, Unsupported, UploadRequest
from deltabus_openai.config import Config

#: Bytes of an answer that holds vectors or pictures, where `max_answer_bytes` is less: ten large pictures as
#: base64 have 60 MB.
MAX_DATA_BYTES = 128 * 1024 * 1024
#: Bytes of an error that came in place of sound.
MAX_ERROR_BYTES = 64 * 1024
#: Formats of a transcription that are no JSON.
_TEXTS = ("text", "srt", "vtt")
#: What the formats of speech are, where the server does not say it.
_AUDIO: Mapping[str, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_ANYTHING = "application/octet-stream"


class Media:
    """What one endpoint has beside chats and files."""

    def __init__(self, client: Client, config: Config) -> None:
        self._client = client
        self._endpoint = config.endpoint
        self._limit = config.max_answer_bytes

    async def embeddings(self, request: Request) -> dict[str, Any]:
        """Vectors, in the order of the texts, each with its index."""
        url = self._endpoint.url("embeddings")
        count = _texts(request.body.get("input"))
        return await self._data(url, request, lambda answer: _ordered(answer, count))

    async def models(self, request: Request) -> dict[str, Any]:
        """The models."""
        url = self._endpoint.url("models")
        answer: dict[str, Any] = await self._client.json("GET", url, request, read=_models)
        return answer

    async def speech(self, request: Request) -> Download:
        """A text, spoken; an answer that is JSON is an error, whatever its status."""
        url = self._endpoint.url("audio/speech")
        download = await self._client.download("POST", url, request, body.encode(request.body), judge=_judge_sound)
        kind = str(request.body.get("response_format") or "mp3")
        if download.media_type == _ANYTHING:
            download.media_type = _AUDIO.get(kind, _ANYTHING)
        if download.name is None and kind.isalnum():
            download.name = f"speech.{kind}"
        return download

    async def transcription(self, request: UploadRequest) -> dict[str, Any]:
        """Speech, as text: what the format asked for has, or `{"text": …}` where that is no JSON."""
        _whole(request)
        kind = request.body.get("response_format") or "json"
        form = Form(request.body, "file", request.content)
        url = self._endpoint.url("audio/transcriptions")
        accept = {"Accept": "text/plain" if kind in _TEXTS else "application/json"}
        async with self._client.open("POST", url, request, form.body(), extra={**form.headers, **accept}) as exchange:
            data = await exchange.whole(self._limit)
            # Servers that know one format only send that one.
            if kind not in _TEXTS or exchange.media_type == "application/json":
                return _transcription(body.decode(data))
            text = data.decode("utf-8", "replace")
            return {"text": text.removesuffix("\n") if kind == "text" else text}

    async def images(self, request: Request) -> dict[str, Any]:
        """Pictures after a description."""
        _whole(request)
        url = self._endpoint.url("images/generations")
        return await self._data(url, request, _pictures)

    async def _data(self, url: httpx.URL, request: Request, read: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        limit = max(self._limit, MAX_DATA_BYTES)
        answer: dict[str, Any] = await self._client.json("POST", url, request, request.body, limit=limit, read=read)
        return answer


def _whole(request: Request) -> None:
    if request.body.get("stream"):
        raise Unsupported("this is answered at once, and not streamed: leave `stream` out", param="request.stream")


def _texts(given: Any) -> int | None:
    """How many texts there are in an `input`; a list of numbers is one, as tokens. None: nobody knows."""
    if isinstance(given, str):
        return 1
    if isinstance(given, list) and given:
        return 1 if isinstance(given[0], int) else len(given)
    return None


def _ordered(answer: Any, count: int | None) -> dict[str, Any]:
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) and "embedding" in item for item in data):
        raise ProviderProtocol("the provider answered with JSON that holds no vectors")
    if count is not None and len(data) != count:
        raise ProviderProtocol(f"the provider sent {len(data)} vectors for {count} texts")
    for place, item in enumerate(data):
        item.setdefault("index", place)
        item.setdefault("object", "embedding")
    # Some servers number each batch from 0, or everything 0: then the order is all that there is.
    if sorted(str(item["index"]) for item in data) == sorted(map(str, range(len(data)))):
        data.sort(key=lambda item: int(item["index"]))
    for place, item in enumerate(data):
        item["index"] = place
    return {**answer, "object": "list", "data": data}


def _models(answer: Any) -> dict[str, Any]:
    found = answer.get("data", answer.get("models")) if isinstance(answer, dict) else answer
    if not isinstance(found, list) or not all(isinstance(model, dict) for model in found):
        raise ProviderProtocol("the provider answered with JSON that is not a list of models")
    rest = {key: value for key, value in answer.items() if key != "models"} if isinstance(answer, dict) else {}
    data = [{"object": "model", **model, "id": str(model.get("id") or model.get("name"))} for model in found]
    return {**rest, "object": "list", "data": data}


def _pictures(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        raise ProviderProtocol("the provider answered with JSON that holds no pictures")
    return {"created": int(time.time()), **answer}


async def _judge_sound(exchange: Exchange, first: bytes) -> None:
    """Raise where this is not sound.

    Raises:
        TaskError: it is an error, or a web page.
    """
    kind = exchange.media_type
    if kind.endswith("json") or (first.startswith(b'{"') and kind in ("", "text/plain")):
        with suppress(ProviderProtocol):
            body.decode(first + await exchange.whole(MAX_ERROR_BYTES))
        raise ProviderProtocol("the provider answered with JSON where sound was asked for")
    if kind == "text/html":
        raise ProviderProtocol("the provider answered with a web page (HTML): base_url is probably wrong")
    if not first:
        raise ProviderProtocol("the provider answered with no sound at all")


def _transcription(answer: Any) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"text": answer}
    if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
        raise ProviderProtocol("the provider answered with JSON that holds no text")
    return answer
