"""HTTP: one request, one answer, read as it comes. The only file that knows aiohttp, and its exceptions.

httpx has the words (URLs, headers, what is trusted), aiohttp does the work. With httpx's requests and answers between
them, a stream's beginning took 0.4 ms of CPU in place of 0.3.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import ssl
import struct
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError

from deltabus.http.config import Config
from deltabus.http.inflate import Inflater
from deltabus.http.outgoing import Outgoing
from deltabus.http.watchdog import Watchdog
from deltabus.provider import (
    Internal,
    PayloadTooLarge,
    ProviderProtocol,
    ProviderTimeout,
    ProviderUnavailable,
    StreamTruncated,
    TaskError,
)

#: Seconds for which an idle connection is kept.
KEEPALIVE = 15.0
#: Seconds of silence after which the kernel asks whether the other side is still there: less than the
#: 350 s after which the NAT gateways of cloud providers forget a connection.
PROBE_AFTER = 60

#: Bytes that a read returns at most.
PIECE = 16 * 1024

#: Whatever aiohttp can raise. `UnicodeError`: a host name that IDNA refuses.
FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError, UnicodeError)


class Exchange:
    """An answer that has begun. Whoever opened it closes it."""

    def __init__(self, response: aiohttp.ClientResponse, watchdog: Watchdog, address: str, line: _Line) -> None:
        self.status = response.status
        #: The body has been read to its end: the connection is free for another request.
        self.ended = False
        self._response = response
        self._watchdog = watchdog
        self._address = address
        #: The request's body may still be on its way.
        self._line = line
        self._began = False
        encoding = ", ".join(response.headers.getall("Content-Encoding", ())).strip().lower()
        self._inflater = Inflater(encoding) if encoding not in ("", "identity") else None
        # It closes the connection under a read, which then fails.
        watchdog.bark = response.release

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """Of the answer; names are found in any case."""
        return httpx.Headers(self._response.raw_headers)

    async def read(self, most: float = math.inf) -> bytes:
        """What there is of the body, at least a byte; empty at its end.

        Args:
            most: seconds to wait even where the timeouts allow more.

        Raises:
            TaskError: the connection broke, the answer is not HTTP, or took too long.
        """
        while True:
            if self._inflater is not None and (inflated := self._inflater.pull()):
                return inflated
            watchdog = self._watchdog
            watchdog.begin(most, first=not self._began)
            error = None
            try:
                data = await self._response.content.read(PIECE)
            except FOREIGN as exc:
                error, data = failure(exc, self._address, answering=True), b""
            finally:
                watchdog.end()
            if watchdog.barked:
                raise watchdog.error()
            if error is not None:
                raise error
            self._began = True
            if not data:
                self.ended = True
                return b""
            if self._inflater is None:
                return data
            self._inflater.push(data)

    async def rest(self, seconds: float) -> None:
        """Read nothing for a while, unless the time of the whole request would be over by then."""
        if self._watchdog.leaves(seconds):
            await asyncio.sleep(seconds)

    async def whole(self, limit: int) -> bytes:
        """All of the body.

        Raises:
            TaskError: as `read`; `PayloadTooLarge`, where it has more than `limit` bytes.
        """
        data = bytearray()
        while piece := await self.read():
            data += piece
            if len(data) > limit:
                raise PayloadTooLarge(f"the answer has more than {limit} bytes (max_answer_bytes)")
        return bytes(data)

    @property
    def media_type(self) -> str:
        """Of the body: lower case, without parameters; empty where the server names none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def aclose(self) -> None:
        """Close the connection at once, unless the body was read to its end."""
        self._watchdog.close()
        if self._line.body is not None and not self._line.body.complete:
            self._line.reset()
        await _closed(self._response)


class _Line:
    """The connection that a request got, so that it can be reset: closing it would send first what it still holds."""

    def __init__(self, body: Outgoing | None) -> None:
        #: What is streamed over it.
        self.body = body
        self.transport: asyncio.Transport | None = None

    def reset(self) -> None:
        """Drop what was not sent, and have the other side told at once."""
        if self.transport is None:
            return
        if (open_socket := self.transport.get_extra_info("socket")) is not None:
            with suppress(OSError, ValueError):  # The latter is what uvloop makes of a socket that is closed already.
                # On, for no time: closing sends RST.
                open_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


#: Where a request that is being sent wants to be told of its connection.
_LINE: ContextVar[_Line | None] = ContextVar("deltabus_http_line", default=None)


class _Connector(aiohttp.TCPConnector):
    """Tells whoever sends which connection it got."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super().connect(*args, **kwargs)
        if (line := _LINE.get()) is not None:
            line.transport = connection.transport
        return connection


class Transport:
    """Connections to one endpoint: as many as there are requests, kept for a while when idle. Made on the loop."""

    def __init__(self, config: Config) -> None:
        self._address = config.endpoint.address
        self._proxy, self._tunnel_headers, self._proxy_headers = _proxy(config)
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0, ssl=_ssl_context(config), keepalive_timeout=KEEPALIVE, socket_factory=_probed_socket
            ),
            # For all of connecting: name, TCP, TLS. There is no pool to wait for.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, connect=config.timeouts.connect),
            # None, or all producers would share them.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | Outgoing, watchdog: Watchdog
    ) -> Exchange:
        """Send a request; return when the answer's headers are here.

        A body that is streamed ends when the exchange is closed, also where the answer came before all of it
        was sent. Where it cannot be sent, its connection is reset at once.

        Raises:
            TaskError: there is no answer.
            Exception: what the source of a streamed body raised.
        """
        fields = {**self._proxy_headers, **headers}
        if isinstance(content, Outgoing):
            content.watchdog = watchdog
            fields["Content-Length"] = str(content.size)
        error: Exception | None = None
        response = None
        line = _Line(content if isinstance(content, Outgoing) else None)
        scope = watchdog.sending()
        token = _LINE.set(line)
        try:
            async with scope:
                response = await self._session.request(
                    method,
                    str(url),
                    headers=fields,
                    data=content or None,
                    allow_redirects=False,
                    proxy=self._proxy,
                    proxy_headers=self._tunnel_headers,
                )
        except FOREIGN as exc:
            error = watchdog.error() if scope.expired() else failure(exc, self._address)
        finally:
            _LINE.reset(token)
            watchdog.sent()
            if response is None and line.body is not None:
                line.reset()
        if response is None:
            assert error is not None
            if line.body is not None and not scope.expired():
                error = _of_streamed(error, line.body, self._address)
            raise error
        try:
            return Exchange(response, watchdog, self._address, line)
        except TaskError:
            await _closed(response)
            raise

    async def aclose(self) -> None:
        """Close all connections."""
        await self._session.close()


async def _closed(response: aiohttp.ClientResponse) -> None:
    """Close the connection, unless all of the answer was read, and wait for who sends the request's body."""
    response.release()
    await response.wait_for_close()


def failure(exc: Exception, address: str, *, answering: bool = False) -> TaskError:
    """What an exception of aiohttp means, with that exception as its cause.

    To be raised outside the `except` block, so that the cause set here is all that hangs on it:
    aiohttp's `ClientResponseError` shows the request's headers, credentials and all, in its repr.

    Args:
        exc: one of `FOREIGN`.
        address: host and port, for the message.
        answering: the answer had begun.
    """
    error = _meaning(exc, address, answering=answering)
    error.__cause__ = exc.__cause__ if isinstance(exc, aiohttp.ClientResponseError) else exc
    return error


def _of_streamed(error: Exception, content: Outgoing, address: str) -> Exception:
    """The error of a request with a streamed body: its source's own, or how far it got."""
    if content.failure is not None:
        return content.failure
    if isinstance(error, ProviderUnavailable) and content.sent > 0 and not content.complete:
        broken = ProviderUnavailable(f"{address} broke off after {content.sent} of the request's {content.size} bytes")
        broken.__cause__ = error.__cause__
        return broken
    return error


def _meaning(cause: Exception, address: str, *, answering: bool) -> TaskError:
    match cause:
        case aiohttp.ClientConnectorCertificateError():
            return ProviderUnavailable(
                f"the TLS certificate of {address} is not trusted ({_tls_reason(cause)}): "
                "set ca_bundle or SSL_CERT_FILE",
                should_retry=False,
            )
        case aiohttp.ClientSSLError():
            return ProviderUnavailable(f"TLS with {address} failed ({_tls_reason(cause)}): is base_url's scheme right?")
        case aiohttp.ClientHttpProxyError():
            return ProviderUnavailable(f"the proxy refused to connect to {address} (HTTP {cause.status})")
        case aiohttp.ClientProxyConnectionError():
            return ProviderUnavailable(f"cannot reach the proxy to {address}: {_reason(cause)}")
        case aiohttp.ClientConnectorDNSError():
            return ProviderUnavailable(f"cannot resolve {address}: {_reason(cause)}")
        case aiohttp.ConnectionTimeoutError():
            return ProviderTimeout(f"no connection to {address} in time (timeouts.connect)")
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return ProviderTimeout(f"{address} took too long")
        case aiohttp.ClientConnectorError():
            return ProviderUnavailable(f"cannot connect to {address}: {_reason(cause)}")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError() | UnicodeError():
            return ProviderUnavailable(f"{address} is not an address: mend base_url", should_retry=False)
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            if answering:
                return StreamTruncated(f"{address} broke the connection off in the middle of the answer")
            return ProviderUnavailable(f"{address} closed the connection without an answer")
        case aiohttp.ClientError() | HttpProcessingError():
            return ProviderProtocol(f"{address} does not answer in HTTP/1.1")
    return Internal(f"the HTTP client failed: {type(cause).__name__}")


def _reason(exc: BaseException) -> str:
    """The system's words for it; the exception's own may hold a URL."""
    inner = getattr(exc, "os_error", exc)
    number = getattr(inner, "errno", None)
    # Above 0 it is errno's; getaddrinfo has numbers, and words, of its own.
    return (
        os.strerror(number) if number and number > 0 else str(getattr(inner, "strerror", None) or type(inner).__name__)
    )


def _tls_reason(exc: aiohttp.ClientError) -> str:
    inner = getattr(exc, "certificate_error", None) or getattr(exc, "os_error", None)
    return str(getattr(inner, "verify_message", None) or getattr(inner, "reason", None) or type(inner).__name__)


def _ssl_context(config: Config) -> ssl.SSLContext:
    if config.endpoint.scheme == "http" and not (config.proxy or "").startswith("https:"):
        # Never used; a real one takes 20 ms to read its certificates.
        return httpx.create_ssl_context(verify=False)
    bundle = config.ca_bundle
    try:
        if bundle is None:
            return httpx.create_ssl_context(verify=config.verify)
        if bundle.is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as exc:
        where = f"ca_bundle, {bundle}," if bundle else "SSL_CERT_FILE or SSL_CERT_DIR"
        raise ProviderUnavailable(
            f"{where} cannot be read as certificates: {_reason(exc)}", should_retry=False
        ) from exc


def _proxy(config: Config) -> tuple[str | None, dict[str, str], dict[str, str]]:
    """The proxy, and its credentials: headers of a tunnel's opening, and of a request that the proxy itself sees."""
    if config.proxy is None:
        return None, {}, {}
    parts = urlsplit(config.proxy)
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.username is None:
        return bare, {}, {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    credentials = {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}
    return (bare, credentials, {}) if config.endpoint.scheme == "https" else (bare, {}, credentials)


def _probed_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices when the other side is gone, and keeps a NAT gateway from forgetting a silent answer."""
    family, kind, protocol, _, _ = address
    probed = socket.socket(family, kind, protocol)
    probed.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        probed.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
        probed.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_AFTER)
    return probed
