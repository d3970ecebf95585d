"""A collector that misbehaves costs spans: no task, no credential, and a moment at the end of a process."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from processes import DELTABUS, PATIENCE, Background, environ

ENVELOPE = '{"request": {"messages": [{"role": "user", "content": "hello"}]}}'

SECRET = "sk-4f8a1c7e"

#: What it answers to a request; None: nothing, for as long as the other side waits.
ANSWERS = {
    "hangs": None,
    "fails": b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "talks nonsense": b"\x00\xff\r\n\r\n",
}


@contextmanager
def collector(answer: bytes | None) -> Iterator[str]:
    """Its URL, on a free port."""
    asked: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            asked.append(connection)
            if answer is not None:
                with suppress(ConnectionError):  # a client that ends does not wait for ever
                    connection.recv(1 << 20)
                    connection.sendall(answer)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://bob:{SECRET}@127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in asked:
                connection.close()
    assert asked, "nobody came"


def telling(redis_url: str, endpoint: str, **more: str) -> dict[str, str]:
    return environ(
        redis_url,
        DELTABUS_TRACES="on",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        # Whoever waited for the exporter's own end would fail the test.
        OTEL_EXPORTER_OTLP_TIMEOUT="3600",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer {SECRET}",
        **more,
    )


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_producer_and_worker_do_their_work_and_end(redis_url: str, tmp_path: Path, answer: bytes | None) -> None:
    with collector(answer) as endpoint:
        variables = telling(redis_url, endpoint, OTEL_BSP_SCHEDULE_DELAY="1")
        worker = Background((*DELTABUS, "worker"), folder=tmp_path, environ=variables)
        with worker:
            sent = subprocess.run(
                [*DELTABUS, "enqueue", "deltabus.tasks.chat", ENVELOPE],
                cwd=tmp_path,
                env=variables,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            assert sent.returncode == 0, sent.stderr
            worker.wait_for("task finished")
            worker.process.send_signal(signal.SIGTERM)
            assert worker.end() == 0
    for said in (worker.said, sent.stderr.decode()):
        assert SECRET not in said
        assert not re.search("Traceback", said)


def test_a_variable_that_cannot_work_ends_producer_and_worker_with_one_line(redis_url: str, tmp_path: Path) -> None:
    variables = telling(redis_url, f"bob:{SECRET}@host:4318")
    for words in (["enqueue", "deltabus.tasks.chat", ENVELOPE], ["worker", "--burst"], ["check"]):
        ended = subprocess.run(
            [*DELTABUS, *words], cwd=tmp_path, env=variables, capture_output=True, timeout=PATIENCE, check=False
        )
        assert ended.returncode == 2
        said = (ended.stdout + ended.stderr).decode()
        assert said.count("OTEL_EXPORTER_OTLP_ENDPOINT must be a URL as http://host:4318 or https://host:4318") == 1
        assert SECRET not in said
        assert "Traceback" not in said
