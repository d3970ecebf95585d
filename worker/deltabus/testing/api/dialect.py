"""How a server that calls itself compatible differs from OpenAI's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What is different. The defaults are OpenAI's ways."""

    #: There are files; without, every path of theirs is a 404.
    files: bool = True
    #: There is an Uploads API.
    uploads: bool = True
    #: A chat message may refer to a file (`{"type": "file", "file": {"file_id": …}}`); else it is refused with a 400.
    file_parts: bool = True
    #: Parts of a type that chat does not know (`input_image`) are refused with a 400; else they are dropped in silence.
    strict_parts: bool = True
    #: `created_at` is RFC 3339 text rather than Unix time.
    text_dates: bool = False
    #: Keys of lists and deletions begin with a capital, and an empty list's data is null, as Go writes them.
    capital_keys: bool = False
    #: A file that is not there is a 500; errors of files are plain text.
    plain_errors: bool = False
    #: A second file of the same name is refused.
    unique_names: bool = False
    #: File objects have a `status`.
    status: bool = True
    #: Lists have pages.
    pages: bool = True
    #: Vectors come in an order of their own; `index` says which is which.
    shuffled: bool = False

    def file(self, document: dict[str, Any]) -> dict[str, Any]:
        """A file object, as this server writes it."""
        if self.text_dates:
            moment = datetime.fromtimestamp(document["created_at"], UTC)
            document = {**document, "created_at": moment.strftime("%Y-%m-%dT%H:%M:%S.123456789Z")}
        if not self.status:
            document = {key: value for key, value in document.items() if key not in ("status", "expires_at")}
        return document

    def answer(self, document: Mapping[str, Any]) -> web.Response:
        """A list or a deletion, as this server writes it."""
        if self.capital_keys:
            document = {key.capitalize(): value for key, value in document.items()}
            if document.get("Data") == []:
                document["Data"] = None
        return web.json_response(document)

    def refusal(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> web.Response:
        """An error about a file, as this server writes it."""
        if self.plain_errors:
            return web.Response(status=500 if status == 404 else status, text=message)
        return refusal(status, message, param=param, code=code)


def refusal(status: int, message: str, *, param: str | None = None, code: str | None = None) -> web.Response:
    """An error, as OpenAI writes it."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return web.json_response({"error": error}, status=status)


OPENAI = Dialect()
#: LocalAI, after `core/http/endpoints/openai/files.go`.
LOCALAI = Dialect(
    uploads=False,
    file_parts=False,
    strict_parts=False,
    text_dates=True,
    capital_keys=True,
    plain_errors=True,
    unique_names=True,
    status=False,
    pages=False,
)
#: A server for chat alone, such as Ollama or llama.cpp's.
NO_FILES = Dialect(files=False, uploads=False, file_parts=False)
#: A server that keeps files and takes none in a chat, as Azure has been.
NO_FILE_PARTS = Dialect(file_parts=False)
