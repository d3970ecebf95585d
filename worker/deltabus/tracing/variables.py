"""The OTEL_* variables that decide where spans go, checked before OpenTelemetry's SDK reads them.

The SDK logs what it does not understand, credentials too, and ends with a traceback at a number that is none. What is
wrong is one `ConfigError` here, which names the variable and the fix, never the value. An empty variable counts as one
that is not set. What they may be:

- https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
- https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from deltabus.errors import ConfigError

#: The largest number that is taken anywhere: 31 bits, above which threads and queues of Python take none.
_MOST: Final = 2**31 - 1

#: Whole numbers: the least that each may be. Delays and timeouts are milliseconds.
_NUMBERS: Final[Mapping[str, int]] = {
    "OTEL_BSP_SCHEDULE_DELAY": 1,
    "OTEL_BSP_EXPORT_TIMEOUT": 0,
    "OTEL_BSP_MAX_QUEUE_SIZE": 1,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": 1,
    "OTEL_ATTRIBUTE_COUNT_LIMIT": 0,
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": 0,
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": 0,
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": 0,
    "OTEL_SPAN_EVENT_COUNT_LIMIT": 0,
    "OTEL_SPAN_LINK_COUNT_LIMIT": 0,
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": 0,
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": 0,
}

#: Spans in a queue and in a batch where no variable says it.
_QUEUE: Final = 2048
_BATCH: Final = 512

#: OTEL_TRACES_SAMPLER, as the SDK knows them.
_SAMPLERS: Final = (
    *("always_on", "always_off", "traceidratio"),
    *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
)

#: OTLP's variables are there for traces alone, and for everything; the first that is set counts.
_OTLP: Final = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_")

#: OTLP's variables that are paths of files, and what they hold.
_FILES: Final[Mapping[str, str]] = {
    "CERTIFICATE": "certificates of authorities",
    "CLIENT_CERTIFICATE": "a certificate",
    "CLIENT_KEY": "a key",
}

#: A header: its name, and its value, percent-encoded or not.
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+ *= *([ !#-+\--:<-\[\]-~]*)")

#: A host by name or address.
_HOST: Final = re.compile(r"[^\s/?#@\\*%]+")

#: Variables that may name a proxy, perhaps with a password.
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

#: Characters that a secret has at least. Masking shorter ones, as `x-tenant=1`, would hide nothing but the log.
_SECRET: Final = 4


def check(environ: Mapping[str, str]) -> None:
    """What the SDK itself reads.

    Raises:
        ConfigError: as the module says.
    """
    for name, least in _NUMBERS.items():
        if value := environ.get(name, "").strip():
            _number(name, value, least)
    if (sampler := environ.get("OTEL_TRACES_SAMPLER", "")) and sampler.lower() not in _SAMPLERS:
        raise ConfigError(f"OTEL_TRACES_SAMPLER must be one of {', '.join(_SAMPLERS)}")
    name = "OTEL_TRACES_SAMPLER_ARG"
    # Written so that NaN, which is in no order, is refused too.
    if (ratio := environ.get(name, "")) and not 0 <= _real(name, ratio, "a number from 0 to 1") <= 1:
        raise ConfigError(f"{name} must be a number from 0 to 1: the part of all traces that is taken")
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        if not environ.get(name, "").isprintable():
            raise ConfigError(f"{name} must be text in UTF-8 without control characters")
    name = "OTEL_RESOURCE_ATTRIBUTES"
    for place, entry in _entries(environ.get(name, "")):
        if not entry.partition("=")[0].strip() or "=" not in entry:
            raise ConfigError(f"{name} must be key=value, with commas between: entry {place} is not")


def batching(environ: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of the SDK's `BatchSpanProcessor` for variables that have passed `check`.

    Raises:
        ConfigError: a batch is to be larger than the queue.
    """
    queue = int(environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "").strip() or _QUEUE)
    batch = int(environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "").strip() or min(_BATCH, queue))
    if batch > queue:
        raise ConfigError("OTEL_BSP_MAX_EXPORT_BATCH_SIZE must be at most OTEL_BSP_MAX_QUEUE_SIZE (by default 2048)")
    delay = int(environ.get("OTEL_BSP_SCHEDULE_DELAY", "").strip() or 5000)
    return {"max_queue_size": queue, "max_export_batch_size": batch, "schedule_delay_millis": delay}


def check_otlp(environ: Mapping[str, str], *, grpc: bool) -> None:
    """What the exporter over OTLP reads.

    Raises:
        ConfigError: as the module says.
    """
    for name, value in _set(environ, "ENDPOINT"):
        _endpoint(name, value, grpc=grpc)
    for name, value in _set(environ, "HEADERS"):
        _headers(name, value)
    for name, value in _set(environ, "TIMEOUT"):
        if not 0 < _real(name, value, "a number of seconds above 0") <= _MOST:
            raise ConfigError(f"{name} must be a number of seconds above 0")
    for name, value in _set(environ, "COMPRESSION"):
        if value.strip().lower() not in ("none", "gzip", "deflate"):
            raise ConfigError(f"{name} must be one of none, gzip, deflate")
    for suffix, holds in _FILES.items():
        for name, value in _set(environ, suffix):
            _file(name, Path(value), holds, may_be_folder=suffix == "CERTIFICATE")


def collector(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Host and port that spans go to over HTTP, by variables that have passed `check_otlp`; None: through a proxy."""
    url = next((value for _, value in _set(environ, "ENDPOINT")), "http://localhost:4318")
    parts = urlsplit(url)
    if any(environ.get(name) or environ.get(name.lower()) for name in _PROXIES):
        return None
    return parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80)


def sent_plainly(environ: Mapping[str, str]) -> str:
    """Host to which credentials go over http; empty: to none."""
    url = next((value for _, value in _set(environ, "ENDPOINT")), "")
    credentials = any(True for _ in _set(environ, "HEADERS")) or "@" in url
    return (urlsplit(url).hostname or "") if credentials and url.lower().startswith("http://") else ""


def secrets(environ: Mapping[str, str]) -> frozenset[str]:
    """What of the variables must be in no log: values of headers, passwords and queries of URLs, encoded and not."""
    found: set[str] = set()
    for start, suffix in product(_OTLP, ("HEADERS", "ENDPOINT")):
        value = environ.get(start + suffix, "")
        if suffix == "HEADERS":
            for _, entry in _entries(value):
                header = entry.partition("=")[2].strip() or entry
                # `Bearer sk-…`: what comes after the scheme may be shown alone.
                found |= {header, header.rpartition(" ")[2], unquote(header), unquote(header).rpartition(" ")[2]}
        else:
            found |= _of_url(value)
    for name in _PROXIES:
        found |= _of_url(environ.get(name, "")) | _of_url(environ.get(name.lower(), ""))
    return frozenset(secret for secret in found if len(secret) >= _SECRET)


def _of_url(url: str) -> set[str]:
    # Whatever stands where a URL should: what is before an `@` in it is for nobody's eyes.
    userinfo = url.partition("://")[2].rpartition("@")[0] if "://" in url else url.rpartition("@")[0]
    query = url.partition("?")[2]
    user, _, password = userinfo.partition(":")
    shown = {userinfo, password or user, query, *(pair.partition("=")[2] for pair in query.split("&"))}
    return shown | {unquote(text) for text in shown}


def _set(environ: Mapping[str, str], suffix: str) -> Iterator[tuple[str, str]]:
    """The variable that counts, where one is set."""
    name = next((start + suffix for start in _OTLP if environ.get(start + suffix)), None)
    if name is not None:
        yield name, environ[name]


def _entries(value: str) -> Iterator[tuple[int, str]]:
    """What stands between commas, counted from 1."""
    for place, entry in enumerate(value.split(","), 1):
        if entry.strip():
            yield place, entry.strip()


def _number(name: str, value: str, least: int) -> None:
    if not re.fullmatch(r"\+?[0-9]{1,10}", value) or not least <= int(value) <= _MOST:
        raise ConfigError(f"{name} must be a whole number from {least} to {_MOST}")


def _real(name: str, value: str, wanted: str) -> float:
    try:
        return float(value)
    except ValueError:
        # Without the cause, which quotes the value.
        raise ConfigError(f"{name} must be {wanted}") from None


def _endpoint(name: str, value: str, *, grpc: bool) -> None:
    wrong = ConfigError(f"{name} must be a URL as http://host:4318 or https://host:4318")
    if grpc:
        wrong = ConfigError(f"{name} must be as http://host:4317, https://host:4317 or host:4317")
        value = value if "://" in value else f"http://{value}"
    if not value.isprintable() or " " in value:
        raise wrong
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or not _HOST.fullmatch(host):
        raise wrong
    if grpc and "@" in parts.netloc:
        raise ConfigError(f"{name} must have no user and password: put credentials into OTEL_EXPORTER_OTLP_HEADERS")
    if (parts.query or parts.fragment) and name == "OTEL_EXPORTER_OTLP_ENDPOINT":
        # /v1/traces is put at its end.
        raise ConfigError(
            f"{name} must have no query: give the whole URL, /v1/traces and all, in OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
        )


def _headers(name: str, value: str) -> None:
    for place, entry in _entries(value):
        found = _HEADER.fullmatch(entry)
        # What they come to must fit into a line of HTTP.
        if found is None or not unquote(found[1]).isprintable():
            raise ConfigError(
                f"{name} must be name=value, with commas between; in values, percent-encode commas, semicolons, quotes"
                f" and backslashes: entry {place} is not"
            )
        try:
            unquote(found[1]).encode("latin-1")
        except UnicodeEncodeError:
            raise ConfigError(f"{name}: the value of entry {place} must be of characters of Latin-1") from None


def _file(name: str, path: Path, holds: str, *, may_be_folder: bool) -> None:
    wrong = ConfigError(f"{name} must be the path of a file that can be read and holds {holds} as PEM")
    try:
        if may_be_folder and path.is_dir():
            return
        # Neither a pipe nor a device is opened: that may last.
        text = path.read_text("latin-1") if path.is_file() else ""
    except (OSError, ValueError):
        raise wrong from None
    if "-----BEGIN " not in text:
        raise wrong
    if may_be_folder:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError:
            raise wrong from None
