"""The table `[providers.<name>]` of this plugin: `deltabus.http.config` has its keys, but for these.

`base_url`: `https://api.openai.com/v1` by default.
`organization`, `project`: sent as `OpenAI-Organization` and `OpenAI-Project`.
`max_upload_bytes`: largest file that is uploaded by one request; a larger one goes by the Uploads API, in parts.
    512 MiB by default, as OpenAI takes.
`upload_part_bytes`: size of those parts; 64 MiB, the most that OpenAI takes, by default. They are streamed, not held.
`upload_parallel`: parts of one file that are under way at once; 4 by default.

A server without files has `capabilities = { files = false }`; one whose chats know uploaded files by their ids, as
OpenAI's do, `capabilities = { file_ids = true }`. One that loses files in messages, as LocalAI does without a word, has
`capabilities = { file_parts = false }`: a task with such a part is refused then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltabus import http
from deltabus.http.config import header_text, number, size
from deltabus.provider import Capabilities, ConfigError

#: A base URL that ends in one of these is the address of the operation itself.
OPERATIONS = ("/chat/completions", "/models")

#: What any server of the API can do. Of an uploaded file in a message (`{"type": "file", "file": {"file_id": …}}`) most
#: know nothing, and some drop it in silence: bytes in the message itself are never lost without a word.
CAPABILITIES = Capabilities(files=True, file_ids=False)

#: OpenAI's limits, in bytes (https://platform.openai.com/docs/api-reference/files, …/uploads).
MAX_UPLOAD_BYTES = 512 * 1024 * 1024
MAX_PART_BYTES = 64 * 1024 * 1024

#: What hosts are known to take or not, whatever server software they run; `capabilities` overrides it.
KNOWN_HOSTS: Mapping[str, Mapping[str, Any]] = {
    # https://platform.openai.com/docs/guides/pdf-files
    "api.openai.com": {"file_ids": True},
    # https://console.groq.com/docs/openai
    "api.groq.com": {"logprobs": False, "max_n": 1, "message_names": False},
    # "must be a-z, A-Z, 0-9, with a length of 9"
    "api.mistral.ai": {"tool_call_id_pattern": "[A-Za-z0-9]{9}"},
    # Chat alone: https://openrouter.ai/docs/api-reference, https://api-docs.deepseek.com
    "openrouter.ai": {"files": False},
    "api.deepseek.com": {"files": False},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(http.Config):
    """One configured endpoint. It holds secrets: its repr shows none."""

    organization: str = ""
    project: str = ""
    max_upload_bytes: int = MAX_UPLOAD_BYTES
    upload_part_bytes: int = MAX_PART_BYTES
    upload_parallel: int = 4

    @property
    def account(self) -> dict[str, str]:
        """Headers that say on whose account a request goes."""
        headers = {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project}
        return {name: value for name, value in headers.items() if value}


def read(table: Mapping[str, Any]) -> Config:
    """Check a settings table.

    Raises:
        ConfigError: a key is unknown, missing or wrong.
    """
    config = Config.read(
        table,
        base_url="https://api.openai.com/v1",
        operations=OPERATIONS,
        known_hosts=KNOWN_HOSTS,
        capabilities=CAPABILITIES,
        organization=header_text(table, "organization"),
        project=header_text(table, "project"),
        max_upload_bytes=size(table, "max_upload_bytes", MAX_UPLOAD_BYTES),
        upload_part_bytes=size(table, "upload_part_bytes", MAX_PART_BYTES),
        upload_parallel=int(number(table.get("upload_parallel", 4), "upload_parallel")),
    )
    if config.upload_part_bytes > MAX_PART_BYTES:
        raise ConfigError(f"upload_part_bytes must be at most {MAX_PART_BYTES}: no part of an upload may be larger")
    if config.upload_parallel < 1:
        raise ConfigError("upload_parallel must be at least 1")
    if config.endpoint.host == "api.openai.com" and not config.has_credentials:
        raise ConfigError('api_key is missing, and OpenAI takes no request without: api_key = "${OPENAI_API_KEY}"')
    return config
