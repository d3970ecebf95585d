"""The keys of a table `[providers.<name>]` that every HTTP provider has, checked once and frozen.

`base_url`: where the API is; `Endpoint` says which forms it may have.
`api_key`: empty or absent, no credentials are sent.
`auth_header`: the header that carries the key. `Authorization` carries it as `Bearer <key>`; any other, such as
    Azure's `api-key`, carries it alone.
`headers`: a table of further headers. A producer's headers never replace them.
`query`: a table of query parameters, such as Azure's `api-version`.
`model`: what is asked for where a request names no model, or `default`.
`params`: a table of body parameters that a request gets where it lacks them: the producer's value wins.
`force_params`: a table of body parameters that replace the producer's.
`timeouts`: a table of seconds, 0 for none. `connect` (10); `first_byte` (600), from the start of the request to
    the first byte of the answer's body; `between_bytes` (300), in which keep-alives count as bytes; `total`
    (none). While a file is uploaded, `between_bytes` holds for each step that is taken of it, and `first_byte`
    counts from the last one. The task's own deadline holds in any case.
`propagate_trace`: true, a request has the `traceparent` and `tracestate` of its span (setting `traces`). Default:
    false, as ids of traces are nobody else's business.
`verify`: false, do not check the server's certificate.
`ca_bundle`: a file or a folder of certificates to trust. Default: SSL_CERT_FILE, SSL_CERT_DIR, else certifi's.
`proxy`: URL of an HTTP proxy; empty, none. Default: HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, except for the
    hosts of NO_PROXY and loopback addresses.
`capabilities`: a table that overrides `deltabus.provider.Capabilities`.
`max_answer_bytes`: largest answer that is not streamed, and largest event of one that is; 32 MiB by default.

A plugin with keys of its own derives from `Config` and reads them with the functions here::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class AcmeConfig(Config):
        region: str = ""

    AcmeConfig.read(table, base_url="https://api.acme.example", region=text(table, "region", "eu"))
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from deltabus.http import headers
from deltabus.http.endpoint import Endpoint, proxy_for, proxy_url
from deltabus.provider import Capabilities, ConfigError

_T = TypeVar("_T")

#: No number may be larger: timers and sizes count in doubles.
_LARGEST = 2**53 - 1

#: The bus' own default for the largest answer.
MAX_ANSWER_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds; None: no limit."""

    connect: float | None = 10.0
    first_byte: float | None = 600.0
    between_bytes: float | None = 300.0
    total: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One configured endpoint. It holds secrets: its repr shows none."""

    endpoint: Endpoint
    api_key: str = field(default="", repr=False)
    auth_header: str = "Authorization"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    model: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    force_params: Mapping[str, Any] = field(default_factory=dict)
    timeouts: Timeouts = field(default_factory=Timeouts)
    propagate_trace: bool = False
    verify: bool = True
    ca_bundle: Path | None = None
    proxy: str | None = field(default=None, repr=False)
    capabilities: Capabilities = field(default_factory=Capabilities)
    max_answer_bytes: int = MAX_ANSWER_BYTES

    @classmethod
    def read(
        cls,
        table: Mapping[str, Any],
        *,
        base_url: str,
        version: str = "/v1",
        operations: Sequence[str] = (),
        auth_header: str = "Authorization",
        capabilities: Capabilities | None = None,
        known_hosts: Mapping[str, Mapping[str, Any]] | None = None,
        **own: Any,
    ) -> Self:
        """Check a settings table.

        Args:
            table: as the plugin got it.
            base_url, auth_header: where the table has none.
            version, operations: see `Endpoint.parse`.
            capabilities: what the API can do.
            known_hosts: host -> fields of `Capabilities`: what it is known to take or not, whatever software it runs.
            own: the plugin's own keys, checked, by the names of the fields that a derived class has for them.

        Raises:
            ConfigError: a key is unknown, missing or wrong.
        """
        _known(table, [*_KEYS, *own], "")
        endpoint = Endpoint.parse(
            text(table, "base_url", base_url), _texts(table, "query"), version=version, operations=operations
        )
        key = _key(table)
        auth_header = text(table, "auth_header", auth_header)
        extra = _texts(table, "headers")
        for name, value in {**extra, auth_header: "x"}.items():
            if problem := headers.problem(name, value):
                raise ConfigError(f"headers.{name}: {problem}" if name in extra else f"auth_header: {problem}")
        if key and any(name.lower() == auth_header.lower() for name in extra):
            raise ConfigError(f"headers.{auth_header} and api_key both set {auth_header}: keep one")
        return cls(
            endpoint=endpoint,
            api_key=key,
            auth_header=auth_header,
            headers=extra,
            model=text(table, "model", "") or None,
            params=_table(table, "params"),
            force_params=_table(table, "force_params"),
            timeouts=_timeouts(table),
            propagate_trace=_boolean(table, "propagate_trace", False),
            verify=_boolean(table, "verify", True),
            ca_bundle=_ca_bundle(table),
            proxy=proxy_url(text(table, "proxy", "")) if "proxy" in table else proxy_for(endpoint),
            capabilities=_capabilities(
                table, capabilities or Capabilities(), (known_hosts or {}).get(endpoint.host, {})
            ),
            max_answer_bytes=size(table, "max_answer_bytes", MAX_ANSWER_BYTES),
            **own,
        )

    @property
    def has_credentials(self) -> bool:
        """There is a key, or a header that looks like one."""
        return bool(self.api_key) or any(map(headers.is_credential, self.headers))

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not appear in an error. Shorter values are placeholders (`EMPTY`, `none`) and words."""
        found = {self.api_key, *self.endpoint.query.values()}
        found.update(value for name, value in self.headers.items() if headers.is_credential(name))
        return tuple(sorted((value for value in found if len(value) >= 8), key=len, reverse=True))


def _known(table: Mapping[str, Any], keys: Iterable[str], prefix: str) -> None:
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(str(key), list(keys), n=1)
            hint = f"did you mean `{prefix}{near[0]}`?" if near else f"there are: {', '.join(sorted(keys))}"
            raise ConfigError(f"unknown key `{prefix}{key}`; {hint}")


def _typed(table: Mapping[str, Any], key: str, kind: type[_T], default: _T, what: str) -> _T:
    value = table.get(key, default)
    if not isinstance(value, kind):
        raise ConfigError(f"{key} must be {what}, not {type(value).__name__}")
    return value


def text(table: Mapping[str, Any], key: str, default: str) -> str:
    """A key of the table that is a string, without space around it."""
    return _typed(table, key, str, default, "a string").strip()


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _typed(table, key, dict, {}, "a table")


def _texts(table: Mapping[str, Any], key: str) -> Mapping[str, str]:
    values = {}
    for name, value in _table(table, key).items():
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ConfigError(f"{key}.{name} must be a string, not {type(value).__name__}")
        values[name] = str(value)
    return values


def _boolean(table: Mapping[str, Any], key: str, default: bool) -> bool:
    value = {"true": True, "false": False}.get(str(table.get(key, default)).lower())
    if value is None:
        raise ConfigError(f"{key} must be true or false")
    return value


def size(table: Mapping[str, Any], key: str, default: int) -> int:
    """A key of the table that is a number of bytes, checked."""
    value = number(table.get(key, default), key)
    if value < 1024:
        raise ConfigError(f"{key} is in bytes and must be at least 1024")
    return int(value)


def number(value: Any, key: str) -> float:
    """A number that is not negative, perhaps written as a string; `key` names it in errors."""
    # A value that comes from the environment, "${CONNECT_TIMEOUT}", is a string.
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}(\.\d{1,6})?", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        raise ConfigError(f"{key} must be a number that is not negative, and at most {_LARGEST}")
    return float(value)


def _key(table: Mapping[str, Any]) -> str:
    key = text(table, "api_key", "")
    if headers.problem("api_key", key) or " " in key or not key.isascii():
        raise ConfigError("api_key has characters that no key has (a space, a line end, ü): was it copied whole?")
    return key


def header_text(table: Mapping[str, Any], key: str) -> str:
    """A key of the table that is sent as a header, checked; empty where it is absent."""
    value = text(table, key, "")
    if problem := headers.problem(key, value):
        raise ConfigError(f"{key}: {problem}")
    return value


def _timeouts(table: Mapping[str, Any]) -> Timeouts:
    given = _table(table, "timeouts")
    _known(given, [item.name for item in dataclasses.fields(Timeouts)], "timeouts.")
    return Timeouts(**{key: number(value, f"timeouts.{key}") or None for key, value in given.items()})


def _ca_bundle(table: Mapping[str, Any]) -> Path | None:
    name = text(table, "ca_bundle", "")
    if not name:
        return None
    if not _boolean(table, "verify", True):
        raise ConfigError("ca_bundle has no effect with verify = false: remove one of them")
    try:
        path = Path(name).expanduser()
        found = path.exists()
    except (RuntimeError, ValueError, OSError):  # the home of nobody, a NUL, a name that is too long
        found = False
    if not found:
        raise ConfigError(f"ca_bundle: there is no file or folder {name}")
    return path


def _capabilities(table: Mapping[str, Any], base: Capabilities, known_host: Mapping[str, Any]) -> Capabilities:
    given = _table(table, "capabilities")
    known = {item.name: item.default for item in dataclasses.fields(Capabilities)}
    _known(given, known, "capabilities.")
    for key, value in given.items():
        if key == "max_n":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError("capabilities.max_n must be a whole number of at least 1")
        elif key == "tool_call_id_pattern":
            _pattern(value)
        elif not isinstance(value, bool):
            raise ConfigError(f"capabilities.{key} must be true or false")
    return dataclasses.replace(base, **{**known_host, **given})


def _pattern(value: Any) -> None:
    try:
        re.compile(value)
    except (TypeError, re.error) as exc:
        raise ConfigError(f"capabilities.tool_call_id_pattern is not a regular expression: {exc}") from exc


#: The keys of the table.
_KEYS = (
    "base_url",
    "api_key",
    "auth_header",
    "headers",
    "query",
    "model",
    "params",
    "force_params",
    "timeouts",
    "propagate_trace",
    "verify",
    "ca_bundle",
    "proxy",
    "capabilities",
    "max_answer_bytes",
)
