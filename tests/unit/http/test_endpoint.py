"""Base URLs in the forms that people write, and proxies from the environment."""

from __future__ import annotations

import pytest

from deltabus.http.endpoint import Endpoint, proxy_for
from deltabus.provider import ConfigError

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("base_url", "chat"),
    [
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1//", "https://api.openai.com/v1/chat/completions"),
        ("http://localhost:11434", "http://localhost:11434/v1/chat/completions"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://models.github.ai/inference", "https://models.github.ai/inference/chat/completions"),
        ("https://g.example/v1beta/openai/", "https://g.example/v1beta/openai/chat/completions"),
        ("https://api.perplexity.ai/chat/completions", "https://api.perplexity.ai/chat/completions"),
        ("https://api.openai.com/v1/chat/completions/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/models", "https://api.openai.com/v1/chat/completions"),
        (
            "https://r.openai.azure.com/openai/deployments/gpt?api-version=2024-10-21",
            "https://r.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        ),
        ("https://h/a%20b/v1", "https://h/a%20b/v1/chat/completions"),
        ("https://h/ä/v1", "https://h/%C3%A4/v1/chat/completions"),
    ],
)
def test_a_base_url_leads_to_the_operation(base_url: str, chat: str) -> None:
    assert (
        str(Endpoint.parse(base_url, {}, operations=("/chat/completions", "/models")).url("chat/completions")) == chat
    )


def test_the_query_table_wins_over_the_urls_query() -> None:
    endpoint = Endpoint.parse("https://h/v1?api-version=1&x=", {"api-version": "2 3"})
    assert str(endpoint.url("models")) == "https://h/v1/models?api-version=2+3&x="


@pytest.mark.parametrize(
    ("base_url", "versioned"),
    [("https://h", True), ("https://h/api", False), ("https://h/v1beta/x", True), ("https://h/o/deployments/d", True)],
)
def test_a_path_without_a_version_is_noticed(base_url: str, versioned: bool) -> None:
    assert Endpoint.parse(base_url, {}).versioned is versioned


def proxy(base_url: str) -> str | None:
    return proxy_for(Endpoint.parse(base_url, {}))


def test_the_proxy_is_the_one_for_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy("https://h.example") is None
    monkeypatch.setenv("ALL_PROXY", "http://all.example:1")
    assert proxy("https://h.example") == "http://all.example:1"
    monkeypatch.setenv("HTTPS_PROXY", "http://secure.example:2")
    monkeypatch.setenv("http_proxy", "plain.example:3")
    assert proxy("https://h.example") == "http://secure.example:2"
    assert proxy("http://h.example") == "http://plain.example:3"


@pytest.mark.parametrize("hosts", ["h.example", ".example", "example", "*", "other, h.example:443", "H.EXAMPLE"])
def test_no_proxy_is_heeded(monkeypatch: pytest.MonkeyPatch, hosts: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    monkeypatch.setenv("NO_PROXY", hosts)
    assert proxy("https://h.example:443") is None
    assert proxy("https://elsewhere.test") == (None if hosts == "*" else "http://proxy.example")


@pytest.mark.parametrize("host", ["localhost", "api.localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_this_machine_is_not_behind_a_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")
    assert proxy(f"http://{host}:8000") is None


def test_a_proxy_of_the_environment_that_does_not_serve_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:hidden@proxy.example:1080")
    with pytest.raises(ConfigError, match="SOCKS is not supported") as caught:
        proxy("https://h.example")
    assert "hidden" not in str(caught.value)
