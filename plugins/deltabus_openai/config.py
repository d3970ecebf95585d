"""The table `[providers.<name>]` of this plugin: `deltabus.http.config` has its keys, but for two.

`base_url`: `https://api.openai.com/v1` by default.
`organization`, `project`: sent as `OpenAI-Organization` and `OpenAI-Project`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltabus import http
from deltabus.http.config import header_text
from deltabus.provider import ConfigError

#: A base URL that ends in one of these is the address of the operation itself.
OPERATIONS = ("/chat/completions", "/models")

#: What hosts are known not to take, whatever server software they run; `capabilities` overrides it.
KNOWN_HOSTS: Mapping[str, Mapping[str, Any]] = {
    # https://console.groq.com/docs/openai
    "api.groq.com": {"logprobs": False, "max_n": 1, "message_names": False},
    # "must be a-z, A-Z, 0-9, with a length of 9"
    "api.mistral.ai": {"tool_call_id_pattern": "[A-Za-z0-9]{9}"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(http.Config):
    """One configured endpoint. It holds secrets: its repr shows none."""

    organization: str = ""
    project: str = ""

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
        organization=header_text(table, "organization"),
        project=header_text(table, "project"),
    )
    if config.endpoint.host == "api.openai.com" and not config.has_credentials:
        raise ConfigError('api_key is missing, and OpenAI takes no request without: api_key = "${OPENAI_API_KEY}"')
    return config
