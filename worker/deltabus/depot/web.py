"""What URLs lead to: http and https, to public addresses only, within limits of size and time.

An address is checked twice: as the resolver gives it, and when a socket for it is made. Nobody looks the name up
between the two, so what was checked is what is connected to. Redirects are followed here, one by one, each
checked as the first URL was. Proxies from the environment are not used: one of them would look names up for us,
unchecked.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from deltabus.depot.addresses import is_public
from deltabus.depot.content import PIECE, too_large
from deltabus.depot.openfile import OpenFile
from deltabus.depot.threads import Threads
from deltabus.errors import Internal, NotFound, ProviderTimeout, ProviderUnavailable, StreamTruncated, TaskError
from deltabus.fields import Field
from deltabus.settings import Settings

#: Redirects that are followed.
REDIRECTS: Final = 5

#: Seconds that connecting may take, and that a server may be silent, however long the whole may take.
CONNECT_TIMEOUT: Final = 10.0
SILENCE_TIMEOUT: Final = 60.0

_REDIRECT: Final = frozenset({301, 302, 303, 307, 308})

#: Answers that another attempt may change.
_PASSING: Final = frozenset({408, 425, 429})

#: Errors of name resolution that say that there is no such host, rather than that nobody could be asked.
_NO_HOST: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

#: `zlib`'s window: gzip or zlib, told apart by the header.
_ANY_WINDOW: Final = 32 + zlib.MAX_WBITS


class NotPublic(OSError):
    """A URL leads to an address that is not for everybody."""


class Fetched(NamedTuple):
    """What a URL led to, in a temporary file."""

    file: OpenFile
    name: str
    #: What the server said that it is.
    media_type: str | None


class Web:
    """Fetches URLs; one for a depot.

    Args:
        settings: `url_hosts`, whose addresses need not be public, and `url_timeout`.
    """

    def __init__(self, settings: Settings, threads: Threads) -> None:
        self._trusted = frozenset(map(_host_and_port, settings.url_hosts))
        self._timeout = settings.url_timeout
        self._threads = threads
        # Two, so that no connection to a private address is ever kept for a host that may have none.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def fetch(self, field: Field, limit: int) -> Fetched:
        """Fetch the URL that the field names into a temporary file; the caller closes that.

        Raises:
            InvalidRequest: it is no URL, leads to an address that is not public, or the server refuses.
            NotFound: the server has no such thing.
            PayloadTooLarge: it has more than `limit` bytes.
            ProviderUnavailable, ProviderTimeout, StreamTruncated: it did not come, this time.
        """
        file = await self._threads.open(OpenFile.temporary)
        try:
            async with asyncio.timeout(self._timeout):
                name, media_type = await self._fetch_into(file, _parse(field), field, limit)
        except TimeoutError as exc:
            file.close()
            raise ProviderTimeout(
                f"`{field.path}`: its server took over {self._timeout:g} s (`url_timeout`), or fell silent",
                param=field.path,
            ) from exc
        except BaseException:
            file.close()
            raise
        return Fetched(file, name, media_type)

    async def aclose(self) -> None:
        """Close idle connections."""
        for session in self._sessions.values():
            await session.close()

    async def _fetch_into(self, file: OpenFile, url: URL, field: Field, limit: int) -> tuple[str, str | None]:
        names = []
        for _ in range(REDIRECTS + 1):
            names.append(url.name)
            async with self._get(url, field) as response:
                if response.status not in _REDIRECT:
                    _check_status(response.status, url, field)
                    await self._spool(response, file, field, limit)
                    name = next((name for name in names if "." in name.strip(".")), names[0])
                    return name, response.headers.get("Content-Type")
                url = _next(url, response.headers.get("Location"), field)
        raise field.error(f"leads to more than {REDIRECTS} redirects")

    @asynccontextmanager
    async def _get(self, url: URL, field: Field) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to one request, and what goes wrong while it is read, as errors of ours.

        No message repeats more of the URL than its host: paths and queries hold keys.
        """
        where = f"`{field.path}`: the server {url.host}"
        try:
            async with self._session(url).get(url, allow_redirects=False) as response:
                yield response
        except TimeoutError:
            raise  # Some of aiohttp's errors are such, too.
        except aiohttp.ClientConnectorCertificateError as exc:
            raise field.error("leads to a server whose certificate is not valid for it") from exc
        except (aiohttp.InvalidURL, UnicodeError) as exc:
            raise field.error("is not a URL that can be fetched") from exc
        except aiohttp.ClientConnectorError as exc:
            if isinstance(exc.os_error, NotPublic):
                raise field.error(
                    "leads to an address that is not public; `url_hosts` in the worker's settings lists hosts "
                    "for which that is allowed"
                ) from exc
            if isinstance(exc.os_error, socket.gaierror) and exc.os_error.errno in _NO_HOST:
                raise field.error(f"names a host that does not exist: {url.host}") from exc
            raise ProviderUnavailable(f"{where} cannot be reached", param=field.path) from exc
        except aiohttp.ClientPayloadError as exc:
            raise StreamTruncated(f"{where} broke off before all was sent", param=field.path) from exc
        except (aiohttp.ClientError, ssl.SSLError) as exc:
            raise ProviderUnavailable(
                f"{where} gave no proper answer ({type(exc).__name__})", param=field.path
            ) from exc

    def _session(self, url: URL) -> aiohttp.ClientSession:
        host = _host(url)
        trusted = bool(self._trusted & {(host, None), (host, url.port)})
        if trusted not in self._sessions:
            self._sessions[trusted] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=Resolver(check=not trusted),
                    use_dns_cache=False,
                    limit=0,
                    socket_factory=None if trusted else _socket,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "deltabus", "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE_TIMEOUT),
                auto_decompress=False,
                trust_env=False,
            )
        return self._sessions[trusted]

    async def _spool(self, response: aiohttp.ClientResponse, file: OpenFile, field: Field, limit: int) -> None:
        if (response.content_length or 0) > limit:
            raise too_large(field, limit)
        start, buffer = 0, bytearray()
        async for piece in _inflated(response, field):
            buffer += piece
            if start + len(buffer) > limit:
                raise too_large(field, limit)
            if len(buffer) >= PIECE:
                start, buffer = await self._write(file, start, buffer), bytearray()
        await self._write(file, start, buffer)

    async def _write(self, file: OpenFile, start: int, piece: bytearray) -> int:
        try:
            await self._threads.run(file.write, start, bytes(piece))
        except OSError as exc:
            raise Internal(f"the worker cannot keep what it fetches: {exc.strerror}") from exc
        return start + len(piece)


async def look_up(host: str, port: int, family: socket.AddressFamily) -> list[tuple[socket.AddressFamily, int, str]]:
    """Addresses of a host, as the system knows them: family, protocol, and how the system writes it."""
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [(kind, proto, str(address[0])) for kind, _, proto, _, address in found]


class Resolver(AbstractResolver):
    """The system's resolver. A name that has an address which is not public has none at all."""

    def __init__(self, *, check: bool) -> None:
        self._check = check

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await look_up(host, port, family)
        if self._check and not all(is_public(address) for *_, address in addresses):
            raise NotPublic(f"{host} has an address that is not public")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, proto, address in addresses
        ]

    async def close(self) -> None:
        pass


def _socket(info: tuple[Any, Any, int, str, Any]) -> socket.socket:
    """A socket for an address that is about to be connected to: whatever spelling led here, this is the address."""
    family, kind, proto, _, address = info
    if not is_public(address[0]):
        raise NotPublic("this address is not public")
    return socket.socket(family, kind, proto)


async def _inflated(response: aiohttp.ClientResponse, field: Field) -> AsyncIterator[bytes]:
    """The body, without the compression that some servers apply though they were not asked to."""
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
        raise field.error("leads to a server that compresses what it sends, in a way that nobody asked for")
    if coding in {"identity", ""}:
        async for piece in response.content.iter_any():
            yield piece
        return
    inflater = zlib.decompressobj(_ANY_WINDOW)
    try:
        async for piece in response.content.iter_any():
            rest = piece
            while rest:
                if inflater.eof:  # gzip files may follow one another, and are one then
                    inflater = zlib.decompressobj(_ANY_WINDOW)
                # A thousandfold is possible: never all of it at once.
                yield inflater.decompress(rest, PIECE)
                rest = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error as exc:
        raise field.error("leads to a server that says it compresses, and sends something else") from exc
    if not inflater.eof:
        raise StreamTruncated(f"`{field.path}`: its server broke off before all was sent", param=field.path)


def _check_status(status: int, url: URL, field: Field) -> None:
    if status == 200:
        return
    text = f"the server {url.host} answers {status}"
    error: TaskError
    if status in {404, 410}:
        error = NotFound(f"`{field.path}`: {text}: there is no such file", status=status, param=field.path)
    elif status >= 500 or status in _PASSING:
        error = ProviderUnavailable(f"`{field.path}`: {text}", status=status, param=field.path)
    else:
        error = field.error(f"cannot be fetched: {text}")
        error.status = status
    raise error


def _parse(field: Field, text: str | None = None) -> URL:
    """A URL that may be requested, as far as its text says."""
    text = field.string() if text is None else text
    problem = field.error("is not a URL such as https://files.example/report.pdf")
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise problem
    try:
        # What is ASCII is sent as it is: servers that check a signature want every byte of it.
        url = URL(text, encoded=text.isascii())
        proper = bool(url.host) and url.port is not None
    except (ValueError, IndexError) as exc:  # yarl slips on some texts
        raise problem from exc
    if url.scheme not in {"http", "https"}:
        raise field.error("must be an http or https URL")
    if not proper:
        raise problem
    if url.raw_user is not None or url.raw_password is not None:
        raise field.error("must not hold a user name or a password: they would be seen by all who see the task")
    return url.with_fragment(None)


def _next(url: URL, location: str | None, field: Field) -> URL:
    if location is None:
        raise field.error("leads to a redirect that does not say where to")
    try:
        target = str(url.join(URL(location, encoded=location.isascii())))
    except (ValueError, IndexError) as exc:
        raise field.error("leads to a redirect to something that is not a URL") from exc
    try:
        following = _parse(field, target)
    except TaskError as exc:
        raise field.error("leads to a redirect to something that may not be fetched") from exc
    if url.scheme == "https" and following.scheme == "http":
        raise field.error("leads to a redirect from https to http")
    return following


def _host(url: URL) -> str:
    return (url.raw_host or "").lower().rstrip(".")


def _host_and_port(entry: str) -> tuple[str, int | None]:
    url = URL(f"//{entry}")
    return _host(url), url.explicit_port
