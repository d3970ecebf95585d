"""What a job carries: the one argument of every task function, checked.

    {"v": 1, "provider": "openai", "request": {"model": "…", "messages": […], "stream": true},
     "deadline": 1763777777.0, "timeout": 120.0, "reply_to": "svc-a:replies", "tenant": "acme",
     "headers": {"X-Team": "search"}, "metadata": {"ticket": "42"}, "trace": "00-…", "tracestate": "…"}

Only `request` is required. What is inside `request` is the business of the task function
(`chat`, `files`); unknown keys there are forwarded, unknown keys here are refused.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Final, Literal

import msgspec

from deltabus import keys
from deltabus.errors import InvalidRequest

#: The only envelope version there is.
VERSION: Final = 1

#: Headers that only the worker may set: credentials, and what frames the HTTP message.
FORBIDDEN_HEADERS: Final = frozenset(
    {
        "api-key",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "openai-organization",
        "openai-project",
        "proxy-authorization",
        "transfer-encoding",
        "x-api-key",
        "x-goog-api-key",
    }
)

# RFC 9110, 5.1 and 5.5: a token, and no control characters in a value.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")


class RetryOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a task wants done about failures that pass; what it leaves out, the worker's settings say."""

    #: Attempts beyond the first.
    max: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None
    #: After a part of the answer was streamed: `restart` the task, or `fail` it and keep the part.
    after_delta: Literal["restart", "fail"] | None = None


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Something that goes with the messages of a chat task. The worker fetches it and makes it a part of a message."""

    #: Where its bytes come from: `{"url": …}`, `{"blob": …}`, `{"base64": …}` or `{"path": …}`.
    source: dict[str, Any]
    #: What kind of part it becomes.
    as_: Literal["image", "file", "audio"] = msgspec.field(name="as")
    #: What it is uploaded for, where the provider gets it by its id.
    purpose: str = "user_data"
    filename: str | None = None
    #: MIME type; by default what the source or the file's name says.
    media_type: str | None = None
    #: How closely an image is looked at.
    detail: Literal["auto", "low", "high"] | None = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task as its producer wrote it."""

    request: dict[str, Any]
    v: int = VERSION
    #: Name of a configured provider; None lets the model's route decide.
    provider: str | None = None
    #: Unix time, seconds. After it, the task is settled as `deadline_exceeded`.
    deadline: float | None = None
    #: Seconds that one attempt may take.
    timeout: float | None = None
    retry: RetryOptions = RetryOptions()
    #: A further channel that gets every message of this task.
    reply_to: str | None = None
    #: Whom to account the task to; a label, not a permission.
    tenant: str | None = None
    #: Extra HTTP headers for the provider.
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    #: The producer's own notes; not sent to the provider.
    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    #: W3C `traceparent` of the producer. One that is malformed counts as none.
    trace: str | None = None
    #: W3C `tracestate` that goes with it.
    tracestate: str | None = None
    #: What goes with the messages of a chat task, in this order, at the head of the last one that the user says.
    attachments: tuple[Attachment, ...] = ()


#: What fields may be that take words of a list.
_CHOICES: Final = {"as": "image, file or audio", "detail": "auto, low or high", "after_delta": "restart or fail"}

_FIELDS = tuple(field.name for field in msgspec.structs.fields(Envelope))


def parse(value: object) -> Envelope:
    """Check the argument of a job.

    Raises:
        InvalidRequest: `param` names the field; the message says what it must be.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(f"the envelope must be a JSON object, not {_kind(value)}", param="envelope")
    version = value.get("v", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise InvalidRequest(
            f"envelope version {version!r} is not supported; this worker speaks version {VERSION}", param="v"
        )
    for key in value:
        if key not in _FIELDS:
            raise InvalidRequest(_unknown_field(str(key)), param=str(key))
    if "request" not in value:
        raise InvalidRequest("`request` is required: the body of the API call, as a JSON object", param="request")
    try:
        envelope = msgspec.convert(value, Envelope)
    except UnicodeEncodeError as exc:  # only a producer in Python can have such a text, as JSON has none
        raise InvalidRequest(
            "a text in it is not Unicode: it holds half of a surrogate pair", param="envelope"
        ) from exc
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at `$.")
        param = path.rstrip("`").replace("[...]", ".*")
        if message.startswith("Invalid enum value") and (choices := _CHOICES.get(param.rpartition(".")[2])):
            message = f"{message}; it may be {choices}"
        raise InvalidRequest(message, param=param or None) from exc
    _check_headers(envelope.headers)
    if envelope.reply_to is not None and not keys.REPLY_CHANNEL.fullmatch(envelope.reply_to):
        raise InvalidRequest(
            f"must be a channel name of 1 to 512 visible characters, and none of `{keys.PREFIX}:…` or `…:pubsub:…`",
            param="reply_to",
        )
    if envelope.timeout is not None and not envelope.timeout > 0:
        raise InvalidRequest("must be a number of seconds above 0", param="timeout")
    return envelope


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        param = f"headers.{name}"
        if name.lower() in FORBIDDEN_HEADERS:
            raise InvalidRequest(
                "this header may not come from a job: credentials belong in the worker's provider settings", param=param
            )
        if not _HEADER_NAME.fullmatch(name):
            raise InvalidRequest("not a valid HTTP header name", param=param)
        if not _HEADER_VALUE.fullmatch(value):
            raise InvalidRequest("an HTTP header value may not hold control characters", param=param)


def _unknown_field(key: str) -> str:
    near = difflib.get_close_matches(key, _FIELDS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"the envelope has {', '.join(_FIELDS)}"
    return f"unknown field; {hint} (parameters of the API call go inside `request`)"


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
