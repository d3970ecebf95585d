"""`/models`, `/embeddings`, `/audio`, `/images`: answers that follow from what was asked, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from aiohttp import web

from deltabus.testing.api.dialect import Dialect, refusal
from deltabus.testing.api.files import send_bytes
from deltabus.testing.api.form import read_form
from deltabus.testing.api.record import CURRENT
from deltabus.testing.api.store import Store

#: Numbers of a vector, unless `dimensions` says otherwise.
_DIMENSIONS = 8
_AUDIO = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
#: Stands before the text in what `/audio/speech` says.
_SPOKEN = b"spoken:"


class MediaApi:
    """The handlers."""

    def __init__(self, store: Store, dialect: Dialect, models: Sequence[str]) -> None:
        self._store = store
        self._dialect = dialect
        self._models = models

    def routes(self) -> Iterator[web.RouteDef]:
        """The paths that there are."""
        yield web.get("/models", self.models)
        yield web.post("/embeddings", self.embeddings)
        yield web.post("/audio/speech", self.speech)
        yield web.post("/audio/transcriptions", self.transcription)
        yield web.post("/images/generations", self.images)
        yield web.get("/pictures/{name}", self.picture)

    async def models(self, _: web.Request) -> web.StreamResponse:
        """`GET /models`."""
        data = [{"id": name, "object": "model", "created": 1700000000, "owned_by": "tests"} for name in self._models]
        return web.json_response({"object": "list", "data": data})

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """`POST /embeddings`: equal texts have equal vectors of length 1, others have other ones."""
        body = CURRENT.get().body
        given = body.get("input")
        if given in (None, "", []):
            return refusal(400, "'input' is a required property", param="input")
        # A list of numbers is one text, as tokens.
        one = isinstance(given, str) or all(isinstance(item, int) for item in given)
        texts = [given] if one else given
        data: list[dict[str, Any]] = []
        for index, text in enumerate(texts):
            vector: Any = _vector(text, int(body.get("dimensions", _DIMENSIONS)))
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        if self._dialect.shuffled:
            data.reverse()
        usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return web.json_response({"object": "list", "data": data, "model": body.get("model", ""), "usage": usage})

    async def speech(self, request: web.Request) -> web.StreamResponse:
        """`POST /audio/speech`: bytes that hold the text, which `/audio/transcriptions` hears again."""
        body = CURRENT.get().body
        for name in ("model", "input", "voice"):
            if not body.get(name):
                return refusal(400, f"'{name}' is a required property", param=name)
        kind = body.get("response_format", "mp3")
        if kind not in _AUDIO:
            return refusal(400, f"'{kind}' is not one of {list(_AUDIO)}", param="response_format")
        return await send_bytes(request, _speak(body["input"]), size=None, media_type=_AUDIO[kind])

    async def transcription(self, request: web.Request) -> web.StreamResponse:
        """`POST /audio/transcriptions`: what `/audio/speech` said; of other bytes, how many there are."""
        form = await read_form(request, self._store)
        CURRENT.get().body.update(form.fields)
        if "file" not in form.files or "model" not in form.fields:
            form.discard()
            return refusal(400, "'file' and 'model' are required properties", param="file")
        heard = form.files["file"].spool.path.read_bytes()
        form.discard()
        _, spoken, text = heard.partition(_SPOKEN)
        said = text.decode() if spoken else f"{len(heard)} bytes of noise"
        match form.fields.get("response_format", "json"):
            case "json":
                return web.json_response({"text": said})
            case "verbose_json":
                language = form.fields.get("language", "english")
                segment = {"id": 0, "start": 0.0, "end": 1.0, "text": said}
                document = {"task": "transcribe", "language": language, "duration": 1.0, "text": said}
                return web.json_response({**document, "segments": [segment]})
            case "text":
                return web.Response(text=said + "\n")
            case "srt":
                return web.Response(text=f"1\n00:00:00,000 --> 00:00:01,000\n{said}\n\n", content_type="text/plain")
            case "vtt":
                return web.Response(text=f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{said}\n\n")
            case other:
                return refusal(400, f"'{other}' is not a response format", param="response_format")

    async def images(self, request: web.Request) -> web.StreamResponse:
        """`POST /images/generations`: a PNG of one pixel, whose colour depends on the description."""
        body = CURRENT.get().body
        prompt = body.get("prompt")
        if not prompt:
            return refusal(400, "'prompt' is a required property", param="prompt")
        data = []
        for number in range(int(body.get("n", 1))):
            png = _png(f"{number} {prompt}")
            if body.get("response_format") == "b64_json":
                data.append({"b64_json": base64.b64encode(png).decode()})
            else:
                name = self._store.name("picture-") + ".png"
                self._store.pictures[name] = png
                data.append({"url": f"http://{request.host}/pictures/{name}"})
        return web.json_response({"created": int(time.time()), "data": data})

    async def picture(self, request: web.Request) -> web.StreamResponse:
        """What an image's URL leads to."""
        png = self._store.pictures.get(request.match_info["name"])
        return web.Response(status=404) if png is None else web.Response(body=png, content_type="image/png")


def _vector(text: Any, dimensions: int) -> list[float]:
    seed = json.dumps(text).encode()
    numbers = [hashlib.sha256(seed + bytes([place % 256])).digest()[0] - 127.5 for place in range(dimensions)]
    length = sum(number * number for number in numbers) ** 0.5
    return [number / length for number in numbers]


async def _speak(text: str) -> AsyncIterator[bytes]:
    yield b"\xff\xf3\x00"
    yield _SPOKEN
    for place, word in enumerate(text.encode().split(b" ")):
        yield b" " + word if place else word


def _png(seed: str) -> bytes:
    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour = hashlib.sha256(seed.encode()).digest()[:3]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            block(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
            block(b"IDAT", zlib.compress(b"\0" + colour)),
            block(b"IEND", b""),
        )
    )
