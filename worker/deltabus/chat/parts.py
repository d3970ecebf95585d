"""Bytes as parts of a chat message: pictures, sounds and files, inline. Pure.

Shapes are those of the OpenAI API's Chat Completions: `image_url`, `input_audio`, `file`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from deltabus.errors import InvalidRequest

#: What `input_audio` calls the formats that it knows, by MIME type.
AUDIO: Final[Mapping[str, str]] = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/vnd.wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
    "audio/flac": "flac",
    "audio/x-flac": "flac",
    "audio/ogg": "ogg",
    "audio/aac": "aac",
    "audio/mp4": "m4a",
    "audio/x-m4a": "m4a",
}

#: MIME type of what says nothing of itself.
UNKNOWN: Final = "application/octet-stream"


def image(data: bytes, media_type: str, *, detail: str | None = None, param: str) -> dict[str, Any]:
    """A picture.

    Raises:
        InvalidRequest: it is none, by its type and by its first bytes.
    """
    found = _picture(data) or media_type
    if not found.startswith("image/"):
        raise InvalidRequest(f'`{param}` is not a picture but {media_type}; send it with `"as": "file"`', param=param)
    url: dict[str, Any] = {"url": _data_url(data, found)}
    return {"type": "image_url", "image_url": url | ({"detail": detail} if detail else {})}


def audio(data: bytes, media_type: str, *, param: str) -> dict[str, Any]:
    """A sound.

    Raises:
        InvalidRequest: it is of no format that the API has a name for.
    """
    if (name := AUDIO.get(media_type.partition(";")[0].strip().lower())) is None:
        raise InvalidRequest(
            f"`{param}` is not a sound but {media_type}; `media_type` may be {', '.join(sorted(set(AUDIO)))}",
            param=param,
        )
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": name}}


def file(data: bytes, media_type: str, name: str) -> dict[str, Any]:
    """Any file."""
    return {"type": "file", "file": {"filename": name, "file_data": _data_url(data, media_type)}}


def inline_bytes(messages: Any) -> int:
    """About how many bytes of messages are pictures, sounds and files."""
    size = 0
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            match part:
                case {"image_url": {"url": str(data)}} | {"input_audio": {"data": str(data)}}:
                    size += len(data)
                case {"file": {"file_data": str(data)}}:
                    size += len(data)
    return size * 3 // 4


def _picture(data: bytes) -> str | None:
    """The MIME type that the first bytes show: some servers keep none, and names lie."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def _data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
