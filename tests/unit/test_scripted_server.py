"""The scripted server does to a client exactly what its script says. The client here is a bare socket."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deltabus.testing.server import Action, Reply, Request, ScriptedServer, Signal

GET = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nX-Twice: 1\r\nx-twice: 2\r\n\r\n"


@contextmanager
def connected(server: ScriptedServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        yield client


def read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = client.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    return data


def read_all(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def test_what_was_asked_is_recorded() -> None:
    with ScriptedServer(default=Reply(framing="length")) as server, connected(server) as client:
        client.sendall(GET)
        server.received(1).wait()
        read_until(client, b"\r\n\r\n")
        client.sendall(b"POST /x HTTP/1.1\r\nContent-Length: 7\r\n\r\n" + b'{"a"')
        client.sendall(
            b":1}" + b"PUT /y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n"
        )
        server.received(3).wait()
        first, second, third = server.requests
    assert (first.method, first.target, first.path, first.query) == ("GET", "/a?b=c", "/a", {"b": "c"})
    assert (first.headers["x-twice"], first.body) == ("1, 2", b"")
    assert (second.json(), third.body) == ({"a": 1}, b"abcd")
    assert {request.connection for request in server.requests} == {1}
    assert server.connections == 1


@pytest.mark.parametrize(
    ("reply", "sent"),
    [
        (Reply(body=[b"ab", b"", b"c"]), b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        (Reply(body=[b"ab", b"c"], framing="length"), b"Content-Length: 3\r\n\r\nabc"),
        (Reply(headers={"content-length": "9"}, body=[b"abc"], framing="length"), b"content-length: 9\r\n\r\nabc"),
        (Reply(body=[b"abc"], framing="close"), b"Connection: close\r\n\r\nabc"),
        (Reply(status=299, framing="length"), b"HTTP/1.1 299 Unknown\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_a_reply_is_framed_as_it_says(reply: Reply, sent: bytes) -> None:
    with ScriptedServer(reply) as server, connected(server) as client:
        client.sendall(GET)
        assert read_until(client, sent).startswith(b"HTTP/1.1 2")


def test_a_raw_reply_is_these_bytes_and_then_the_end() -> None:
    with ScriptedServer(Reply.raw(b"any", b"thing")) as server, connected(server) as client:
        client.sendall(GET)
        assert read_all(client) == b"anything"


def test_json_and_events_are_written_for_the_test() -> None:
    with (
        ScriptedServer(Reply.json({"a": 1}, 201), Reply.sse({"b": 2}, b": x\n\n")) as server,
        connected(server) as client,
    ):
        client.sendall(GET)
        assert b"201 Created\r\nContent-Type: application/json" in read_until(client, json.dumps({"a": 1}).encode())
        client.sendall(GET)
        body = read_until(client, b"0\r\n\r\n").partition(b"\r\n\r\n")[2]
    assert body == b'10\r\ndata: {"b": 2}\n\n\r\n5\r\n: x\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n'


def test_a_reply_waits_for_its_signal() -> None:
    go = Signal()
    with ScriptedServer(Reply.raw(b"a", go, b"b")) as server, connected(server) as client:
        client.sendall(GET)
        assert client.recv(10) == b"a"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(10)
        client.settimeout(60)
        go.set()
        assert client.recv(10) == b"b"


def test_closing_and_resetting_are_told_apart() -> None:
    with ScriptedServer(Reply.raw(b"a", Action.CLOSE), Reply.raw(Action.ABORT)) as server:
        with connected(server) as client:
            client.sendall(GET)
            assert read_all(client) == b"a"
        with connected(server) as client:
            client.sendall(GET)
            with pytest.raises(ConnectionResetError):
                client.recv(10)


def test_a_hanging_reply_ends_with_the_clients_connection() -> None:
    with ScriptedServer(Reply.raw(Action.HANG)) as server:
        with connected(server) as client:
            client.sendall(GET)
            server.received(1).wait()
            assert not server.requests[0].closed.is_set
        server.requests[0].closed.wait()


def test_a_client_that_goes_during_a_long_reply_is_noticed() -> None:
    with ScriptedServer(Reply(body=[b"x" * 10_000] * 100_000)) as server:
        with connected(server) as client:
            client.sendall(GET)
            client.recv(10)
        server.requests[0].closed.wait()


def test_replies_come_in_order_then_the_default_then_a_complaint() -> None:
    def default(request: Request) -> Reply:
        return Reply.raw(request.path.encode())

    def ask(server: ScriptedServer) -> bytes:
        with connected(server) as client:
            client.sendall(GET)
            return client.recv(1000)

    with ScriptedServer(Reply.raw(b"1"), default=default) as server:
        server.script(Reply.raw(b"2"))
        assert [ask(server) for _ in range(3)] == [b"1", b"2", b"/a"]
    with ScriptedServer(default=Reply.raw(b"3")) as server:
        assert ask(server) == b"3"
    with ScriptedServer() as server:
        assert ask(server).startswith(b"HTTP/1.1 500")


def test_a_script_that_fails_fails_the_test() -> None:
    def broken(_: Request) -> Reply:
        raise ZeroDivisionError

    with (  # noqa: PT012  What is inside is what makes it raise.
        pytest.raises(ExceptionGroup, match="scripted server") as caught,
        ScriptedServer(default=broken) as server,
        connected(server) as client,
    ):
        client.sendall(GET)
        assert read_all(client) == b""
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


def test_stopping_the_server_ends_what_is_under_way() -> None:
    with ScriptedServer(default=Reply.raw(b"a", Action.HANG)) as server:
        client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        client.sendall(GET)
        assert client.recv(10) == b"a"
    with client, pytest.raises(ConnectionResetError):
        client.recv(10)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=60)


def test_clients_that_come_at_its_end_leave_nothing_open() -> None:
    for _ in range(20):
        with ScriptedServer() as server:
            clients = [socket.socket() for _ in range(5)]
            for client in clients:
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", server.port))
        for client in clients:
            client.close()
    gc.collect()  # What is open yet would be told of here.


def test_a_signal_wakes_threads_and_loops_alike() -> None:
    async def main(signal: Signal) -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(signal.happened(), signal.happened(), asyncio.to_thread(signal.set))
            await signal.happened()

    signal = Signal()
    assert not signal.is_set
    with pytest.raises(TimeoutError):
        signal.wait(0)
    asyncio.run(main(signal))
    asyncio.run(main(signal))
    signal.wait()
    assert signal.is_set


def test_a_waiter_that_gives_up_harms_no_other() -> None:
    async def main(signal: Signal) -> None:
        first, second = asyncio.create_task(signal.happened()), asyncio.create_task(signal.happened())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        signal.set()
        async with asyncio.timeout(60):
            await second

    signal = Signal()
    asyncio.run(main(signal))
    assert not signal._wakers


def test_a_set_signal_outlives_the_loop_that_waited_for_it() -> None:
    async def main(signal: Signal) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await signal.happened()

    signal = Signal()
    asyncio.run(main(signal))
    signal.set()
