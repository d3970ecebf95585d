"""Where the API is: a base URL in the forms that people write, and the proxy on the way to it."""

from __future__ import annotations

import ipaddress
import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import httpx

from deltabus.provider import ConfigError

#: What a path holds as it is (RFC 3986, section 3.3); `%`: what is escaped already stays so.
_PATH = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An API's address.

    The rule for `base_url`, with or without a slash at its end:

    - a host alone gets the API's version: `http://localhost:11434` and `http://localhost:11434/v1` are the same;
    - any other path stands as it is: `https://openrouter.ai/api/v1`,
      `https://example.openai.azure.com/openai/deployments/gpt-4o`, `https://models.github.ai/inference`;
    - an address that was copied whole, with `/chat/completions` at its end, is taken at its word, also
      where nothing is before that (`https://api.perplexity.ai/chat/completions`);
    - a query in it (`?api-version=…`) is added to the `query` table, which wins.
    """

    #: Scheme, host, port and path, without a slash at the end.
    root: str
    scheme: str
    #: Lower case, without the port.
    host: str
    #: Host and port, as errors name it.
    address: str
    #: May hold credentials: never shown.
    query: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(
        cls, base_url: str, query: Mapping[str, str], *, version: str = "/v1", operations: Sequence[str] = ()
    ) -> Endpoint:
        """Read a base URL.

        Args:
            base_url: as configured.
            query: parameters that every request gets.
            version: path of the API where the URL has none.
            operations: ends of paths that are no part of the base, such as `/chat/completions`.

        Raises:
            ConfigError: it is not one; the message shows no part of it that may be secret.
        """
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError as exc:
            raise ConfigError(f"base_url is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https"):
            raise ConfigError("base_url must begin with https:// or http://, such as https://api.openai.com/v1")
        if not parts.hostname:
            raise ConfigError("base_url names no host: it looks like https://api.openai.com/v1")
        if re.search(r"\s", parts.netloc):
            raise ConfigError("base_url is not a URL: there is a space in its host")
        if "@" in parts.netloc:
            raise ConfigError("base_url must not hold a user or password: use api_key, or headers.Authorization")
        if parts.fragment:
            raise ConfigError("base_url must not have a part after `#`")
        path = parts.path.rstrip("/")
        for operation in operations:
            if path.endswith(operation):
                path = path.removesuffix(operation)
                break
        else:
            path = path or version
        root = f"{parts.scheme}://{parts.netloc}{quote(path, safe=_PATH)}"
        try:
            httpx.URL(root)
        except httpx.InvalidURL as exc:
            raise ConfigError(f"base_url is not a URL: {exc}") from exc
        return cls(
            root=root,
            scheme=parts.scheme,
            host=parts.hostname.lower(),
            address=parts.hostname + (f":{port}" if port else ""),
            query={**dict(parse_qsl(parts.query, keep_blank_values=True)), **query},
        )

    @property
    def versioned(self) -> bool:
        """Whether the path names a version of the API, as most servers want it (`/v1`, `/v1beta/openai`)."""
        return re.search(r"/v\d|/deployments/", self.root) is not None

    def url(self, path: str, **query: str) -> httpx.URL:
        """The address of an operation; `path` without a slash in front. `query` wins over the configured one."""
        merged = {**self.query, **query}
        return httpx.URL(f"{self.root}/{quote(path, safe=_PATH)}" + (f"?{urlencode(merged)}" if merged else ""))


def proxy_for(endpoint: Endpoint) -> str | None:
    """The proxy that the environment has for an endpoint, by the variables that curl reads.

    As in Go's standard library, loopback addresses are reached directly: a model server on this
    machine is not behind the company's proxy.
    """
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(endpoint.scheme) or proxies.get("all")
    if not proxy or _is_loopback(endpoint.host):
        return None
    # `proxy_bypass` asks the system's settings on macOS and Windows; typeshed lacks the one for the environment.
    if urllib.request.proxy_bypass_environment(endpoint.address, proxies):  # type: ignore[attr-defined]
        return None
    return proxy_url(proxy)


def proxy_url(text: str) -> str | None:
    """Check a proxy's address; None for the empty one.

    Raises:
        ConfigError: it is not the address of an HTTP proxy. The message does not show it.
    """
    if not text:
        return None
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.scheme not in ("http", "https"):
        raise ConfigError(
            "proxy (or the environment's *_PROXY) must be the address of an HTTP proxy, such as "
            'http://proxy.example:3128; SOCKS is not supported, and proxy = "" goes without'
        )
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
