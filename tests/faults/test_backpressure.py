"""While Redis is away, a worker keeps no more of an answer than it may, and reads no more of it either."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import FAST, Scene
from processes import DELTABUS, PATIENCE, Background, environ

from deltabus.events import Completed

#: Seconds for which nothing can be written before a peer counts as not reading.
STILL = 1.0

#: Bytes of text in one chunk, and chunks that make up an answer: far more than all buffers on the way hold.
PIECE = 4000
PIECES = 8000

#: What worker and kernel may hold of it: buffers of two sockets, HTTP client, decoder, and `max_pending_bytes`.
HELD = 16 * 1024 * 1024


class Firehose:
    """A provider that answers one request as fast as it is read, and knows how much was taken."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.sent = 0
        self._still = threading.Event()
        self._begun = threading.Event()
        self._go_on = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="firehose")
        self._thread.start()

    def wait_until_it_is_read(self) -> None:
        """Then it pauses, until `go_on`."""
        assert self._begun.wait(PATIENCE)

    def go_on(self) -> None:
        self._go_on.set()

    def wait_until_it_is_not_read(self) -> None:
        assert self._still.wait(PATIENCE), "it is read without an end"

    def close(self) -> None:
        self._listener.close()
        self._thread.join(PATIENCE)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            delta = [{"index": 0, "delta": {"role": "assistant", "content": "x" * PIECE}, "finish_reason": None}]
            last = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            connection.setblocking(False)
            line = b"data: " + json.dumps(chunk | {"choices": delta}).encode() + b"\n\n"
            for _ in range(PIECES):
                self._send(connection, line)
                self._begun.set()
                self._go_on.wait(PATIENCE)
            self._send(connection, b"data: " + json.dumps(chunk | {"choices": last}).encode() + b"\n\ndata: [DONE]\n\n")

    def _send(self, connection: socket.socket, data: bytes) -> None:
        while data:
            if not select.select([], [connection], [], STILL)[1]:
                self._still.set()
                continue
            sent = connection.send(data)
            self.sent += sent
            data = data[sent:]


@pytest.fixture
def firehose() -> Iterator[Firehose]:
    firehose = Firehose()
    yield firehose
    firehose.close()


def test_a_provider_is_not_read_while_redis_is_away(durable: Scene, firehose: Firehose, tmp_path: Path) -> None:
    (tmp_path / "deltabus.toml").write_text(
        f'[providers.hose]\nplugin = "openai"\nbase_url = "{firehose.url}"\napi_key = "none"\n'
    )
    command = (*DELTABUS, "worker", "chat")
    settings = {"DELTABUS_MAX_ANSWER_BYTES": str(2 * PIECE * PIECES), **FAST}
    with Background(command, folder=tmp_path, environ=environ(durable.url, **settings)) as worker:
        worker.wait_for("worker started")
        durable.server.kill()
        # It was waiting for work when Redis went; it begins the answer, and Redis goes again.
        durable.server.start()
        request = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        task = durable.bus.enqueue("deltabus.tasks.chat", {"provider": "hose", "request": request})
        firehose.wait_until_it_is_read()
        durable.server.kill()
        firehose.go_on()
        firehose.wait_until_it_is_not_read()
        taken = firehose.sent
        durable.server.start()
        ending = list(task.events())[-1]
        assert isinstance(ending, Completed), ending
        assert len(ending.result["choices"][0]["message"]["content"]) == PIECE * PIECES
        assert taken < HELD < firehose.sent
        durable.nothing_is_left()
        print(f"taken while Redis was away: {taken} of {firehose.sent} bytes")  # noqa: T201 # pytest -s shows it
