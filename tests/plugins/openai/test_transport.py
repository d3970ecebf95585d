"""Foreign exceptions, TLS and proxies."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import ssl
import warnings
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp import http_exceptions
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from deltabus.http import transport
from deltabus.provider import ChatRequest, TaskError
from deltabus.testing.server import Action, Reply, ScriptedServer
from deltabus_openai import OpenAIProvider

Run = Callable[[Coroutine[Any, Any, Any]], Any]

KEY = "key-0123456789abcdef"
CERTIFICATE = Path(__file__).parent / "loopback.pem"
REPLY = Reply.sse({"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]})


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context


async def ask(base_url: str, **settings: Any) -> str:
    """The answer's text."""
    made = OpenAIProvider("kit", {"base_url": base_url, "api_key": KEY, **settings})
    try:
        body = {"model": "m", "messages": [], "stream": True}
        return "".join(
            [item.data["choices"][0]["delta"]["content"] async for item in made.chat(ChatRequest(body=body))]
        )
    finally:
        await made.aclose()


async def fail(base_url: str, **settings: Any) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await ask(base_url, **settings)
    assert KEY not in repr(caught.value.__cause__)
    return caught.value


# Foreign exceptions


def raised_by(*modules: ModuleType) -> Iterator[type[Exception]]:
    for module in modules:
        for name in dir(module):
            with warnings.catch_warnings(action="ignore"):
                found = getattr(module, name)
            if inspect.isclass(found) and issubclass(found, Exception) and not issubclass(found, Warning):
                yield found


#: What aiohttp has for servers and WebSockets, and cannot meet us.
ELSEWHERE = {"WSMessageTypeError", "WebSocketError", "EofStream"}
LIBRARIES = sorted(
    {kind for kind in raised_by(aiohttp, http_exceptions) if kind.__name__ not in ELSEWHERE},
    key=lambda kind: f"{kind.__module__}.{kind.__name__}",
)


def instance(kind: type[Exception]) -> Exception:
    """An exception of this class, whatever its constructor wants."""
    info = aiohttp.RequestInfo(
        URL("http://h/?key=hidden"),
        "POST",
        CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {KEY}"})),
        URL("http://h"),
    )
    key = aiohttp.client_reqrep.ConnectionKey("h", 443, True, True, None, None, None)
    candidates: list[Callable[..., Exception]] = [
        kind,
        lambda: kind("m"),
        lambda: kind(info, ()),
        lambda: kind(key, OSError(111, "Connection refused")),
        lambda: kind(key, ssl.SSLCertVerificationError(1, "bad")),
        lambda: kind("path", key, OSError(2, "m")),
        lambda: kind(message="m"),
        lambda: kind(b"expected", b"got", "h", 443),
        lambda: kind(b"line", 10),
    ]
    for candidate in candidates:
        with contextlib.suppress(TypeError, AttributeError):
            made = candidate()
            str(made), repr(made)
            return made
    raise AssertionError(f"do not know how to make a {kind}")


@pytest.mark.parametrize("kind", LIBRARIES, ids=lambda kind: f"{kind.__module__.split('.')[0]}.{kind.__name__}")
@pytest.mark.parametrize("answering", [False, True])
def test_every_exception_of_the_libraries_is_caught_and_means_something(kind: type[Exception], answering: bool) -> None:
    assert issubclass(kind, transport.FOREIGN), f"{kind} would get out as `internal`, without its text"
    error = transport.failure(instance(kind), "h:443", answering=answering)
    assert isinstance(error, TaskError)
    assert error.message
    assert KEY not in f"{error!r} {error.__cause__!r}"
    assert "hidden" not in f"{error!r} {error.__cause__!r}"


@pytest.mark.parametrize(
    ("exception", "code", "answering_code"),
    [
        (aiohttp.ServerDisconnectedError(), "provider_unavailable", "stream_truncated"),
        (aiohttp.ClientPayloadError("m"), "provider_unavailable", "stream_truncated"),
        (aiohttp.ClientOSError(104, "reset"), "provider_unavailable", "stream_truncated"),
        (ConnectionResetError(104, "reset"), "provider_unavailable", "stream_truncated"),
        (aiohttp.ConnectionTimeoutError(), "provider_timeout", "provider_timeout"),
        (aiohttp.SocketTimeoutError(), "provider_timeout", "provider_timeout"),
        (TimeoutError(), "provider_timeout", "provider_timeout"),
        (http_exceptions.BadStatusLine("m"), "provider_protocol", "provider_protocol"),
        (aiohttp.InvalidURL("m"), "provider_unavailable", "provider_unavailable"),
    ],
)
def test_what_an_exception_means_depends_on_whether_the_answer_had_begun(
    exception: Exception, code: str, answering_code: str
) -> None:
    assert transport.failure(exception, "h").code == code
    assert transport.failure(exception, "h", answering=True).code == answering_code


# Connecting


def test_a_refused_connection_names_the_address(run: Run) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = run(fail(f"http://127.0.0.1:{port}/v1?key=hidden"))
    assert error.code == "provider_unavailable"
    assert error.message == f"cannot connect to 127.0.0.1:{port}: Connection refused"


def test_a_name_that_does_not_resolve_is_named(run: Run) -> None:
    error = run(fail("http://nowhere.invalid"))
    assert error.code == "provider_unavailable"
    assert error.message.startswith("cannot resolve nowhere.invalid: ")


def test_a_connection_that_is_not_made_in_time_is_a_timeout(run: Run) -> None:
    with ScriptedServer() as server:  # It speaks no TLS, and waits for the end of a request's headers.
        error = run(fail(server.url.replace("http", "https"), timeouts={"connect": 0.05}))
    assert error.code == "provider_timeout"
    assert "timeouts.connect" in error.message


# TLS


def test_a_certificate_nobody_vouches_for_is_refused(run: Run, tls: ssl.SSLContext) -> None:
    with ScriptedServer(REPLY, tls=tls) as server:
        error = run(fail(server.url))
        assert server.requests == []
    assert error.code == "provider_unavailable"
    assert "ca_bundle" in error.message
    assert not error.info.retryable


def test_a_certificate_in_the_bundle_is_trusted(run: Run, tls: ssl.SSLContext) -> None:
    with ScriptedServer(REPLY, tls=tls) as server:
        assert run(ask(server.url, ca_bundle=str(CERTIFICATE))) == "Hello"


def test_a_certificate_in_the_environments_bundle_is_trusted(
    run: Run, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with ScriptedServer(REPLY, tls=tls) as server:
        assert run(ask(server.url)) == "Hello"


@pytest.mark.parametrize("how", ["setting", "environment"])
def test_a_bundle_that_holds_no_certificates_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("nothing")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle if how == "setting" else tmp_path / "missing.pem"))
    error = run(fail("https://127.0.0.1:1", **({"ca_bundle": str(bundle)} if how == "setting" else {})))
    assert error.code == "provider_unavailable"
    assert not error.info.retryable
    assert ("ca_bundle" if how == "setting" else "SSL_CERT_FILE") in error.message


def test_a_folder_of_certificates_is_a_bundle(run: Run, tls: ssl.SSLContext, tmp_path: Path) -> None:
    with ScriptedServer(REPLY, tls=tls) as server:
        error = run(fail(server.url, ca_bundle=str(tmp_path)))
    assert "is not trusted" in error.message


def test_a_certificate_for_another_host_is_refused(run: Run, tls: ssl.SSLContext) -> None:
    with ScriptedServer(REPLY, tls=tls) as server:
        error = run(fail(server.url.replace("127.0.0.1", "127.0.0.2"), ca_bundle=str(CERTIFICATE)))
    assert error.code == "provider_unavailable"


def test_verification_can_be_turned_off(run: Run, tls: ssl.SSLContext) -> None:
    with ScriptedServer(REPLY, tls=tls) as server:
        assert run(ask(server.url, verify=False)) == "Hello"


def test_a_server_without_tls_is_told_apart(run: Run) -> None:
    with ScriptedServer(default=REPLY) as server, socket.create_server(("127.0.0.1", 0)) as plain:

        async def main() -> TaskError:
            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read(1)
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                writer.close()

            listening = await asyncio.start_server(answer, sock=plain)
            async with listening:
                return await fail(f"https://127.0.0.1:{plain.getsockname()[1]}")

        error = run(main())
        assert server.requests == []
    assert error.code == "provider_unavailable"
    assert "scheme" in error.message


def test_a_cancelled_request_closes_its_tls_connection_at_once(run: Run, tls: ssl.SSLContext) -> None:
    async def main() -> None:
        with ScriptedServer(Reply(body=[b": keep-alive\n\n", Action.HANG]), tls=tls) as server:
            task = asyncio.create_task(ask(server.url, ca_bundle=str(CERTIFICATE)))
            async with asyncio.timeout(60):
                await server.received(1).happened()
                task.cancel()
                await server.requests[0].closed.happened()
                with pytest.raises(asyncio.CancelledError):
                    await task

    run(main())


# Proxies


LOGIN = f"Basic {b64encode(b'user:p@ss').decode()}"


@pytest.mark.parametrize("how", ["setting", "environment"])
def test_a_plain_request_goes_through_the_proxy(run: Run, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    with ScriptedServer(REPLY) as server:
        address = server.url.replace("http://", "http://user:p%40ss@")
        if how == "environment":
            monkeypatch.setenv("HTTP_PROXY", address)
        text = run(ask("http://provider.example/v1", **({"proxy": address} if how == "setting" else {})))
        [seen] = server.requests
    assert text == "Hello"
    assert seen.target == "http://provider.example/v1/chat/completions"
    assert seen.headers["host"] == "provider.example"
    assert seen.headers["proxy-authorization"] == LOGIN


def test_no_proxy_and_an_empty_setting_go_straight(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with ScriptedServer(default=REPLY) as server:
        assert run(ask(server.url)) == "Hello"
        assert run(ask(server.url, proxy="")) == "Hello"
        assert server.requests[0].path == server.requests[0].target


def test_a_request_over_tls_goes_through_a_tunnel(run: Run, tls: ssl.SSLContext) -> None:
    seen: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def main() -> str:
        with ScriptedServer(REPLY, tls=tls) as server:

            async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                seen.append(await reader.readuntil(b"\r\n\r\n"))
                far = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(pump(reader, far[1]), pump(far[0], writer))
                closed.set()

            closed = asyncio.Event()
            async with await asyncio.start_server(tunnel, "127.0.0.1", 0) as proxy:
                port = proxy.sockets[0].getsockname()[1]
                address = f"http://user:p%40ss@127.0.0.1:{port}"
                text = await ask("https://localhost:8443", proxy=address, ca_bundle=str(CERTIFICATE))
                async with asyncio.timeout(60):
                    await closed.wait()
                return text

    assert run(main()) == "Hello"
    head = seen[0].decode()
    assert head.startswith("CONNECT localhost:8443 HTTP/1.1\r\n")
    assert f"Proxy-Authorization: {LOGIN}\r\n" in head
    assert KEY not in head


def test_a_proxy_that_refuses_is_named_as_such(run: Run) -> None:
    with ScriptedServer(Reply(status=407, framing="length")) as server:
        error = run(fail("https://provider.example", proxy=server.url.replace("//", "//user:hidden@")))
    assert error.code == "provider_unavailable"
    assert error.message == "the proxy refused to connect to provider.example (HTTP 407)"
    assert "hidden" not in f"{error.__cause__!r}"


def test_a_proxy_that_is_not_there_is_named_as_such(run: Run) -> None:
    error = run(fail("https://provider.example", proxy="http://127.0.0.1:1"))
    assert error.code == "provider_unavailable"
    assert error.message == "cannot reach the proxy to provider.example: Connection refused"
