"""Rules of the provider's other functions: embeddings, models, speech, transcription, images. Pure.

As those of a chat (`deltabus.chat.request`): what the OpenAI API documents is checked, unknown keys are forwarded, null
means "not set", and with `Capabilities.strict_ranges` off, limits and closed sets are left to the provider.
What would make of an answer a stream that nobody reads is refused: these functions answer once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from deltabus.chat.parameters import Rule, check, integer, number, string, strings
from deltabus.fields import Field
from deltabus.files import check_form, check_media_type, check_name, check_source, check_target
from deltabus.provider import Capabilities, Content

#: Inputs that one embeddings request may have (`CreateEmbeddingRequest.input`).
MAX_INPUTS: Final = 2048

#: Characters of a text to be spoken (`CreateSpeechRequest.input`).
MAX_SPOKEN: Final = 4096

#: What speech can come as (`CreateSpeechRequest.response_format`).
SPEECH_FORMATS: Final = ("mp3", "opus", "aac", "flac", "wav", "pcm")

#: What a transcription can come as (`AudioResponseFormat`).
TRANSCRIPT_FORMATS: Final = ("json", "text", "srt", "verbose_json", "vtt", "diarized_json")

#: Types of what a transcription is made of; of an unknown one it may be.
_HEARD: Final = ("audio/", "video/", "application/octet-stream", "application/ogg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """A text to be spoken, and where the sound goes to."""

    body: Mapping[str, Any]
    to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """Sound from `source` to be written down; `body` has the form's other fields."""

    source: Mapping[str, Any]
    body: Mapping[str, Any]
    name: str | None = None
    media_type: str | None = None


def embeddings(request: Mapping[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    """Check the request of `deltabus.tasks.embeddings`.

    Raises (as all of these do):
        InvalidRequest: a rule is broken; `param` is the JSON path of the field.
        Unsupported: it cannot be done here; `param` as above.
    """
    root = _root(request)
    strict = capabilities.strict_ranges
    _input(root.child("input"), strict)
    check(root, strict, dimensions=integer(1), encoding_format=_one_of("float", "base64"), user=string)
    return _body(root)


def models(request: Mapping[str, Any], _: Capabilities) -> dict[str, Any]:
    """Check the request of `deltabus.tasks.models`: there is nothing that it must have."""
    return _body(_root(request))


def speech(request: Mapping[str, Any], capabilities: Capabilities) -> Spoken:
    """Check the request of `deltabus.tasks.speech`."""
    root = _root(request)
    strict = capabilities.strict_ranges
    text, voice, to = root.child("input"), root.child("voice"), root.child("to")
    if not text.string("the text to be spoken"):
        raise text.error("must not be empty: it is the text to be spoken")
    if strict and len(text.string()) > MAX_SPOKEN:
        raise text.error(f"must be at most {MAX_SPOKEN} characters; split it into several tasks")
    if not isinstance(voice.value, dict) and not voice.string("the name of a voice, such as alloy"):
        raise voice.error("must be the name of a voice, such as alloy")
    formats = _one_of(*SPEECH_FORMATS)
    check(root, strict, response_format=formats, speed=number(0.25, 4), instructions=string, stream_format=string)
    if root.child("stream_format").value == "sse":
        raise root.child("stream_format").unsupported("speech comes as bytes here; leave it out, or set it to audio")
    return Spoken(body=_body(root, "to"), to=None if to.unset else check_target(to))


def transcription(request: Mapping[str, Any], capabilities: Capabilities) -> Heard:
    """Check the request of `deltabus.tasks.transcription`."""
    root = _root(request)
    strict = capabilities.strict_ranges
    source, name, media_type = root.child("source"), root.child("filename"), root.child("media_type")
    check_source(source)
    check_form(root)
    formats = _one_of(*TRANSCRIPT_FORMATS)
    check(root, strict, language=string, prompt=string, response_format=formats, temperature=number(0, 1))
    check(root, strict, timestamp_granularities=strings)
    _no_stream(root)
    return Heard(
        source=source.object(),
        name=None if name.unset else check_name(name),
        media_type=None if media_type.unset else check_media_type(media_type),
        body=_body(root, "source", "filename", "media_type"),
    )


def check_heard(content: Content) -> None:
    """Refuse to have written down what is no sound, such as the page that a wrong link leads to."""
    media_type = content.media_type
    if not media_type.lower().startswith(_HEARD):
        raise Field("request.source", None).error(
            f"is of type {media_type}, not audio; if it is audio all the same, say so in `request.media_type`"
        )


def images(request: Mapping[str, Any], capabilities: Capabilities) -> dict[str, Any]:
    """Check the request of `deltabus.tasks.images`."""
    root = _root(request)
    prompt = root.child("prompt")
    if not prompt.string("the description of a picture"):
        raise prompt.error("must not be empty: it is the description of a picture")
    shapes: dict[str, Rule] = {"n": integer(1, 10), "response_format": _one_of("url", "b64_json")}
    texts = ("size", "quality", "style", "background", "output_format", "moderation", "user")
    check(root, capabilities.strict_ranges, **shapes, **dict.fromkeys(texts, string))
    _no_stream(root)
    return _body(root)


def _root(request: Mapping[str, Any]) -> Field:
    root = Field("request", dict(request))
    root.check_encodable()
    model = root.child("model")
    if not model.unset and not model.string("the name of a model"):
        raise model.error("must not be empty; leave it out to let the bus choose")
    return root


def _body(root: Field, *taken: str) -> dict[str, Any]:
    return {key: value for key, value in root.object().items() if key not in taken and value is not None}


def _input(field: Field, strict: bool) -> None:
    what = "a text, an array of texts, an array of tokens, or an array of such arrays"
    if isinstance(field.value, str):
        if not field.value:
            raise field.error("must not be empty: it is what is embedded")
        return
    items = field.array(what)
    if not items:
        raise field.error(f"must not be empty: {what}")
    if _are_tokens(items):
        return
    if strict and len(items) > MAX_INPUTS:
        raise field.error(f"must have at most {MAX_INPUTS} inputs; split them into several tasks")
    for item in field.items():
        if isinstance(item.value, list):
            if not item.value or not _are_tokens(item.value):
                raise item.error("must be tokens: whole numbers, at least one")
        elif not item.string("a text or an array of tokens"):
            raise item.error("must not be empty: it is what is embedded")


def _are_tokens(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _no_stream(root: Field) -> None:
    stream = root.child("stream")
    if not stream.unset and stream.boolean():
        raise stream.unsupported("this function answers once; leave it out")


def _one_of(*words: str) -> Rule:
    def check(field: Field, strict: bool) -> None:
        if strict:
            field.one_of(words)
        else:
            field.string()

    return check
