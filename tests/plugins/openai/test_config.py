"""The settings table: what it means, and what is said of mistakes in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from deltabus.http.config import Timeouts
from deltabus.provider import Capabilities, ConfigError
from deltabus_openai import config

LOCAL = {"base_url": "http://localhost:8000"}
KEY = "sk-0123456789abcdef"


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


def test_a_key_is_enough_for_openai() -> None:
    settings = config.read({"api_key": KEY})
    assert str(settings.endpoint.url("chat/completions")) == "https://api.openai.com/v1/chat/completions"
    assert settings.timeouts == Timeouts(connect=10, first_byte=600, between_bytes=300, total=None)
    assert settings.capabilities == Capabilities(files=True)


def test_an_address_is_enough_for_a_server_without_keys() -> None:
    assert config.read(LOCAL).api_key == ""
    assert config.read({**LOCAL, "api_key": ""}).api_key == ""


@pytest.mark.parametrize(
    "table", [{}, {"api_key": ""}, {"base_url": "https://api.openai.com", "headers": {"X-A": "b"}}]
)
def test_openai_without_a_key_is_a_mistake(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="api_key is missing"):
        config.read(table)


def test_credentials_may_come_as_a_header() -> None:
    assert config.read({"headers": {"Authorization": f"Bearer {KEY}"}}).secrets == (f"Bearer {KEY}",)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"base_ulr": "x"}, "unknown key `base_ulr`; did you mean `base_url`?"),
        ({"xyzzy": 1}, "unknown key `xyzzy`; there are: api_key, "),
        ({"timeouts": {"conect": 1}}, "unknown key `timeouts.conect`; did you mean `timeouts.connect`?"),
        ({"capabilities": {"tool": True}}, "unknown key `capabilities.tool`; did you mean `capabilities.tools`?"),
        ({"timeouts": {"connect": "soon"}}, "timeouts.connect must be a number"),
        ({"timeouts": {"connect": -1}}, "timeouts.connect must be a number"),
        ({"timeouts": {"connect": True}}, "timeouts.connect must be a number"),
        ({"timeouts": {"connect": float("nan")}}, "timeouts.connect must be a number"),
        ({"timeouts": 5}, "timeouts must be a table, not int"),
        ({"capabilities": {"tools": "yes"}}, "capabilities.tools must be true or false"),
        ({"capabilities": {"max_n": 0}}, "capabilities.max_n must be a whole number of at least 1"),
        (
            {"capabilities": {"tool_call_id_pattern": "["}},
            "capabilities.tool_call_id_pattern is not a regular expression",
        ),
        ({"api_key": 7}, "api_key must be a string, not int"),
        ({"api_key": "two words"}, "api_key has characters that no key has"),
        ({"api_key": "gr\u00fc\u00dfe"}, "api_key has characters that no key has"),
        ({"api_key": "k\u00e9y\u20ac"}, "api_key has characters that no key has"),
        ({"headers": {"X-A": 1.5}}, "headers.X-A must be a string, not float"),
        ({"headers": {"X A": "b"}}, "headers.X A: 'X A' is not the name of a header"),
        ({"headers": {"X-A": "b\nc"}}, "headers.X-A: the value has a line end"),
        ({"headers": {"Host": "b"}}, "headers.Host: Host is set by the HTTP client alone"),
        ({"headers": []}, "headers must be a table, not list"),
        ({"auth_header": "a b"}, "auth_header: 'a b' is not the name of a header"),
        ({"api_key": "k", "headers": {"authorization": "b"}}, "both set Authorization"),
        ({"organization": "a\nb"}, "organization: the value has a line end"),
        ({"max_answer_bytes": 10}, "max_answer_bytes is in bytes and must be at least 1024"),
        ({"verify": "perhaps"}, "verify must be true or false"),
        ({"ca_bundle": "/no/such/file"}, "ca_bundle: there is no file or folder /no/such/file"),
        ({"ca_bundle": "~nobody-of-that-name/x"}, "ca_bundle: there is no file or folder ~nobody-of-that-name/x"),
        ({"ca_bundle": "a\0b"}, "ca_bundle: there is no file or folder a\0b"),
        ({"ca_bundle": "x", "verify": False}, "ca_bundle has no effect with verify = false"),
        ({"proxy": "socks5://proxy.example:1080"}, "SOCKS is not supported"),
        ({"proxy": "http://"}, "must be the address of an HTTP proxy"),
        ({"proxy": "http://a:port"}, "must be the address of an HTTP proxy"),
        ({"base_url": "localhost:8000"}, "base_url must begin with https:// or http://"),
        ({"base_url": ""}, "base_url must begin with https:// or http://"),
        ({"base_url": "https://"}, "base_url names no host"),
        ({"base_url": "https://h:port"}, "base_url is not a URL"),
        ({"base_url": "https://user:hidden@h/v1"}, "base_url must not hold a user or password"),
        ({"base_url": "https://h/v1#frag"}, "base_url must not have a part after `#`"),
        ({"base_url": "https://[::1/v1"}, "base_url is not a URL"),
        ({"base_url": "https://exa mple/v1"}, "base_url is not a URL"),
        ({"base_url": "https://\u00e4..b/v1"}, "base_url is not a URL"),
    ],
)
def test_a_mistake_is_named_with_its_fix(table: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.read({**LOCAL, **table})
    assert told in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_values_from_the_environment_are_strings() -> None:
    settings = config.read(
        {**LOCAL, "timeouts": {"connect": "2.5", "total": "60"}, "max_answer_bytes": "2048", "verify": "false"}
    )
    assert settings.timeouts == Timeouts(connect=2.5, total=60)
    assert settings.max_answer_bytes == 2048
    assert not settings.verify


def test_zero_means_no_limit() -> None:
    zeros = {"connect": 0, "first_byte": 0, "between_bytes": 0.0, "total": 0}
    limits = config.read({**LOCAL, "timeouts": zeros}).timeouts
    assert limits == Timeouts(connect=None, first_byte=None, between_bytes=None, total=None)


def test_a_key_loses_the_line_end_of_its_file() -> None:
    assert config.read({**LOCAL, "api_key": f" {KEY}\n"}).api_key == KEY


def test_no_secret_is_in_the_repr() -> None:
    table = {
        "base_url": "https://h/v1?key=hidden-query",
        "api_key": KEY,
        "headers": {"X-Api-Key": "hidden-header"},
        "query": {"sig": "hidden-sig"},
        "proxy": "http://user:hidden-proxy@proxy.example",
    }
    shown = repr(config.read(table))
    assert KEY not in shown
    assert "hidden" not in shown


def test_secrets_are_what_must_be_masked_and_no_placeholders() -> None:
    table = {**LOCAL, "api_key": "EMPTY", "headers": {"X-Api-Key": "hidden-header", "X-Team": "search-and-more"}}
    assert config.read(table).secrets == ("hidden-header",)


@pytest.mark.parametrize(
    ("table", "knows"),
    [
        ({}, True),
        ({"base_url": "https://api.openai.com/v1/chat/completions"}, True),
        ({"capabilities": {"file_ids": False}}, False),
        (LOCAL, False),
        ({"base_url": "https://api.mistral.ai/v1"}, False),
        ({"base_url": "https://api.openai.com.proxy.example/v1"}, False),
        ({**LOCAL, "capabilities": {"file_ids": True}}, True),
    ],
)
def test_openai_alone_is_known_to_take_file_ids_in_messages(table: dict[str, Any], knows: bool) -> None:
    assert config.read({"api_key": KEY, **table}).capabilities.file_ids is knows


def test_capabilities_of_known_hosts_can_be_overridden() -> None:
    table = {"base_url": "https://api.groq.com/openai/v1", "capabilities": {"logprobs": True, "file_ids": False}}
    capabilities = config.read(table).capabilities
    assert (capabilities.logprobs, capabilities.max_n, capabilities.file_ids) == (True, 1, False)


def test_a_bundle_may_be_a_file_or_a_folder(tmp_path: Path) -> None:
    assert config.read({**LOCAL, "ca_bundle": str(tmp_path)}).ca_bundle == tmp_path


def test_uploads_have_openais_limits_unless_others_are_set() -> None:
    mib = 1024 * 1024
    settings = config.read(LOCAL)
    assert (settings.max_upload_bytes, settings.upload_part_bytes, settings.upload_parallel) == (512 * mib, 64 * mib, 4)
    settings = config.read({**LOCAL, "max_upload_bytes": "1048576", "upload_part_bytes": 65536, "upload_parallel": 2})
    assert (settings.max_upload_bytes, settings.upload_part_bytes, settings.upload_parallel) == (mib, 65536, 2)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"upload_part_bytes": 65 * 1024 * 1024}, "upload_part_bytes must be at most 67108864"),
        ({"upload_parallel": 0}, "upload_parallel must be at least 1"),
        ({"max_upload_bytes": 1}, "max_upload_bytes is in bytes"),
        ({"max_upload_byte": 4096}, "did you mean `max_upload_bytes`?"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_name(table: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        config.read({**LOCAL, **table})


def test_hosts_that_are_known_for_chat_alone_have_no_files() -> None:
    assert not config.read({"base_url": "https://openrouter.ai/api/v1", "api_key": KEY}).capabilities.files
    assert not config.read({**LOCAL, "capabilities": {"files": False}}).capabilities.files
