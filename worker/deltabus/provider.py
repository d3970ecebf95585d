"""The seam between deltabus and a provider plugin: all of core that a plugin imports, with `deltabus.http` for HTTP.

A plugin is one class. Register it by entry point and it is there; no other list exists::

    [project.entry-points."deltabus.providers"]
    acme = "deltabus_acme:AcmeProvider"

    # deltabus.toml
    [providers.acme-eu]
    plugin = "acme"
    base_url = "https://eu.acme.example"

One instance serves one configured provider in one process, for hundreds of requests at once, on one
asyncio loop. There is one colour: async.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import msgspec
import msgspec.inspect

from deltabus.errors import (
    Authentication,
    ConfigError,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    Permission,
    ProviderProtocol,
    ProviderTimeout,
    ProviderUnavailable,
    QuotaExhausted,
    RateLimited,
    StreamTruncated,
    TaskError,
    Unsupported,
)

__all__ = [
    "Authentication",
    "Capabilities",
    "ChatRequest",
    "Chunk",
    "Completion",
    "ConfigError",
    "Content",
    "DeadlineExceeded",
    "Download",
    "FileRequest",
    "Health",
    "Internal",
    "InvalidRequest",
    "NotFound",
    "PayloadTooLarge",
    "Permission",
    "Provider",
    "ProviderProtocol",
    "ProviderTimeout",
    "ProviderUnavailable",
    "QuotaExhausted",
    "RateLimited",
    "Request",
    "StreamTruncated",
    "TaskError",
    "Unsupported",
    "UploadRequest",
    "read_settings",
]

_Shape = TypeVar("_Shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do, as data: the rules of a chat request ask here, never for a name."""

    #: Answers can be streamed.
    streaming: bool = True
    tools: bool = True
    logprobs: bool = True
    #: Largest `n`; None means that the provider's own limit decides.
    max_n: int | None = 128
    #: `messages[].name` is accepted.
    message_names: bool = True
    #: Files can be uploaded, listed, read and deleted.
    files: bool = False
    #: Chat messages may refer to uploaded files (`{"type": "file", "file": {"file_id": …}}`).
    file_ids: bool = True
    #: Chat messages may hold files (`{"type": "file", "file": {"file_data": …}}`). False for servers that refuse such a
    #: part, or drop it in silence and answer as if it had not been there, as LocalAI does.
    file_parts: bool = True
    #: Images in chat messages may be uploaded files too. Few servers take them so; elsewhere they are sent inline.
    image_ids: bool = False
    #: Check documented ranges (temperature 0..2, …) before the call. False for servers that allow more.
    strict_ranges: bool = True
    #: Tool-call ids that the provider accepts, as a regular expression; others are remapped. Mistral: `[A-Za-z0-9]{9}`.
    tool_call_id_pattern: str | None = None


class Chunk:
    """A piece of a streamed answer: an OpenAI `chat.completion.chunk`.

    `raw` is the JSON that goes to the log and the channel, byte for byte; `data` is the same, parsed.
    `raw` is one JSON object without line breaks between its tokens.
    """

    __slots__ = ("_data", "raw", "text")

    def __init__(self, raw: bytes, data: dict[str, Any] | None, text: tuple[str, bytes] | None = None) -> None:
        self.raw = raw
        self._data = data
        #: Of a chunk that is the one before it but for the text of one field of its one delta: that field, and the
        #: text in UTF-8. Whoever knows the one before needs no more.
        self.text = text

    @property
    def data(self) -> dict[str, Any]:
        if self._data is None:
            self._data = msgspec.json.decode(self.raw)
        return self._data

    @classmethod
    def of(cls, data: dict[str, Any]) -> Chunk:
        """A chunk made here, or one that had to be repaired."""
        return cls(msgspec.json.encode(data), data)


class Completion:
    """A whole answer at once: an OpenAI `chat.completion`."""

    __slots__ = ("data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data


class Content(ABC):
    """Bytes on their way to a provider. Nothing but `read` touches them: a file may be larger than memory."""

    #: Name of the file, without a folder.
    name: str
    #: MIME type.
    media_type: str
    #: Bytes, exactly.
    size: int

    @abstractmethod
    def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        """The bytes from `start` on, `length` of them or all, in pieces of at most 1 MiB.

        May be called often, also for several parts at once; whoever calls it closes the iterator (`aclose()`).

        Raises:
            TaskError: the source broke off, or has not as many bytes as it had.
        """


class Download:
    """Bytes on their way from a provider. Whoever gets it reads it once, in order, and closes it.

    Args:
        pieces: of at least a byte each; closed with this.
        size: bytes, where the server says so.
        name: of the file, where the server says so.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        *,
        media_type: str = "application/octet-stream",
        size: int | None = None,
        name: str | None = None,
    ) -> None:
        self.media_type = media_type
        self.size = size
        self.name = name
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def aclose(self) -> None:
        """Close the connection, at once where the bytes were not read to their end."""
        await self._pieces.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One attempt at a task.

    `body` is the request as the API documents it, checked and translated; keys that deltabus does
    not know are in it, untouched. A plugin must not change it.
    """

    body: Mapping[str, Any] = field(default_factory=dict)
    #: Extra HTTP headers that the producer asked for; never credentials.
    headers: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    attempt: int = 1
    #: Unix time in seconds after which nobody wants the answer.
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest(Request):
    """An attempt at a chat task."""

    @property
    def stream(self) -> bool:
        """Whether the producer asked for a streamed answer."""
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRequest(Request):
    """An attempt at something with a file that the provider has."""

    file_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRequest(Request):
    """An attempt at something with bytes that the provider gets; `body` has the other fields of the form."""

    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What `deltabus check` and `deltabus providers` say of a provider."""

    ok: bool
    #: One sentence; where `ok` is false, what is wrong and how to mend it.
    detail: str
    models: Sequence[str] = ()


class Provider(ABC):
    """A configured endpoint.

    The bus promises: `__init__` is called once, with a running loop or without, and must neither block
    nor connect; every other method is called on the loop; `aclose` is called once, when no request is
    under way; a method that is not wanted any more is cancelled (`asyncio.CancelledError`) or its
    iterator is closed (`aclose()`), never abandoned.

    A provider promises:

    - **order**: chunks come in the order in which they were received;
    - **completeness**: an iterator that ends without an error has delivered the whole answer. A body
      that stops without saying that it is complete raises `StreamTruncated`;
    - **cancellation** closes the connection to the endpoint at once, also while it is silent;
    - **errors** are of the classes that this module exports, without credentials in their text.
      Anything else that escapes is reported as `internal`, a bug of the plugin;
    - **retries** are the bus' business: a provider makes one attempt.
    """

    #: What this provider can do; an instance may set its own.
    capabilities: Capabilities = Capabilities()

    @abstractmethod
    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        """Make the provider `name` from its table `[providers.<name>]`, less the keys of the bus
        (`plugin`, `models`). `${NAME}` in values is already replaced from the environment.

        Raises:
            ConfigError: a key is unknown, missing or wrong; the message names it and the fix.
        """

    @abstractmethod
    def chat(self, request: ChatRequest) -> AsyncIterator[Chunk | Completion]:
        """Run a chat completion.

        Yields:
            chunks, in order, where `request.stream`; otherwise one `Completion`. A server that
            answers in the other form than the one asked for is passed on in the form it used.

        Raises:
            TaskError: one of the classes above, at any point.
        """

    # What follows is asked of providers that can do it: an override is all that it takes. Answers are OpenAI-shaped.

    async def upload(self, request: UploadRequest) -> dict[str, Any]:
        """Upload a file; its body has `purpose`, perhaps `expires_after`. Returns the `file` object.

        What was begun and cannot be finished is taken back.
        """
        raise Unsupported("this provider takes no files")

    async def files(self, request: Request) -> dict[str, Any]:
        """A page of the files that there are: `{"object": "list", "data": […], "has_more": …}`.

        The body has `purpose`, `limit`, `order`, `after`, as far as the producer wants them.
        """
        raise Unsupported("this provider lists no files")

    async def file(self, request: FileRequest) -> dict[str, Any]:
        """What the provider says of a file: the `file` object."""
        raise Unsupported("this provider knows no files")

    async def content(self, request: FileRequest) -> Download:
        """The bytes of a file."""
        raise Unsupported("this provider gives no files back")

    async def delete(self, request: FileRequest) -> dict[str, Any]:
        """Delete a file: `{"id": …, "object": "file", "deleted": true}`."""
        raise Unsupported("this provider deletes no files")

    async def embeddings(self, request: Request) -> dict[str, Any]:
        """Vectors of texts: `{"object": "list", "data": [{"embedding": […]}], …}`."""
        raise Unsupported("this provider makes no embeddings")

    async def models(self, request: Request) -> dict[str, Any]:
        """The models that there are: `{"object": "list", "data": […]}`."""
        raise Unsupported("this provider does not list its models")

    async def speech(self, request: Request) -> Download:
        """A text, spoken."""
        raise Unsupported("this provider does not speak")

    async def transcription(self, request: UploadRequest) -> dict[str, Any]:
        """Speech, as text: `{"text": …}`, with more where the format asked for has more."""
        raise Unsupported("this provider transcribes nothing")

    async def images(self, request: Request) -> dict[str, Any]:
        """Pictures after a description: `{"created": …, "data": [{"url" or "b64_json": …}]}`."""
        raise Unsupported("this provider draws no images")

    async def check(self) -> Health:
        """Whether the endpoint can be reached and accepts the credentials, without cost to the user."""
        return Health(ok=True, detail="this provider has no check of its own")

    async def aclose(self) -> None:
        """Close connections. Called once, after the last request."""


def read_settings(shape: type[_Shape], table: Mapping[str, Any]) -> _Shape:
    """A provider's table as the plugin's own dataclass or `msgspec.Struct`, checked.

    The fields are the keys; those without a default are required. Numbers and booleans may be
    written as strings, as what comes from `${NAME}` is one.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type; the message names it and the fix,
            and shows no value.
    """
    info = cast("msgspec.inspect.DataclassType | msgspec.inspect.StructType", msgspec.inspect.type_info(shape))
    known = [item.encode_name for item in info.fields]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known) or 'none'}"
            raise ConfigError(f"unknown key `{key}`; {hint}")
    for item in info.fields:
        if item.required and item.encode_name not in table:
            raise ConfigError(f"`{item.encode_name}` is missing")
    try:
        return msgspec.convert(dict(table), shape, strict=False)
    except msgspec.ValidationError as exc:
        problem, _, path = str(exc).partition(" - at `$.")
        raise ConfigError(f"`{path.rstrip('`')}`: {problem[:1].lower()}{problem[1:]}") from exc
