"""A worker's own endpoint: what it says when its loop hangs, when it takes nothing, and to clients that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from processes import free_port
from structlog.testing import capture_logs

from deltabus.errors import ConfigError
from deltabus.monitoring import statusserver
from deltabus.monitoring.board import Board
from deltabus.monitoring.health import Health
from deltabus.monitoring.instruments import serve
from deltabus.monitoring.metrics.exposition import Exposition
from deltabus.monitoring.roster import Roster
from deltabus.monitoring.statusserver import CONNECTIONS
from deltabus.settings import Settings
from deltabus.tasks import chat
from deltabus.worker.intake import Intake

#: Seconds within which something must have been seen.
DEADLINE = 60.0


def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def reasons(port: int, path: str) -> list[str]:
    status, page = ask(port, path)
    found = [problem["reason"] for problem in page["problems"]]
    assert status == (503 if found else 200)
    return found


def wait_for(port: int, path: str, wanted: list[str]) -> None:
    deadline, found = time.monotonic() + DEADLINE, None
    while found != wanted:
        assert time.monotonic() < deadline, found
        with contextlib.suppress(urllib.error.URLError):  # it does not listen yet
            found = reasons(port, path)


def test_a_worker_whose_loop_hangs_says_so_itself(site, monkeypatch):
    hanging, over = threading.Event(), threading.Event()

    async def hang(context):
        hanging.set()
        over.wait(DEADLINE)

    monkeypatch.setattr(chat, "handler", hang)
    port = free_port()
    settings = site.settings(metrics_port=port, lease=1.0, heartbeat_interval=0.2)
    with site.worker(settings=settings):
        try:
            wait_for(port, "/readyz", [])
            site.enqueue()
            assert hanging.wait(DEADLINE)
            wait_for(port, "/livez", ["loop_blocked"])
        finally:
            over.set()
        wait_for(port, "/livez", [])


def test_a_worker_that_takes_nothing_is_found_out_and_one_without_jobs_is_not(site, monkeypatch, capsys):
    async def take_nothing(intake, count, *_):
        return []

    async def wait_for_nothing(intake, count, seconds=1.0):
        await intake._stopped.wait()
        return []

    monkeypatch.setattr(Intake, "take", take_nothing)
    monkeypatch.setattr(Intake, "wait", wait_for_nothing)
    port = free_port()
    with site.worker(settings=site.settings(metrics_port=port, stall_after=0.3)):
        wait_for(port, "/readyz", [])
        site.enqueue()
        wait_for(port, "/livez", ["not_taking"])
        wait_for(port, "/readyz", ["not_taking"])
        site.redis.delete("rq:queue:chat")
        wait_for(port, "/livez", [])
    assert capsys.readouterr().err.count("its queues have jobs, it has free slots, and it takes nothing") == 1


def test_connections_that_break_are_counted_as_they_are_made_anew(site):
    port = free_port()

    def reconnects() -> set[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as answer:
            return set(re.findall(r'deltabus_redis_reconnects_total{line="(\w+)"}', answer.read().decode()))

    with site.worker(settings=site.settings(metrics_port=port)):
        wait_for(port, "/readyz", [])
        # Each line is there: one that breaks while it is made for the first time is not made anew afterwards.
        site.booked(site.enqueue())
        deadline = time.monotonic() + DEADLINE
        while not any(client["cmd"] == "blmove" for client in site.redis.client_list(_type="normal")):
            assert time.monotonic() < deadline, "it does not wait for jobs"
        assert reconnects() == set()
        for kind in ("normal", "pubsub"):
            site.redis.client_kill_filter(_type=kind, skipme=True)
        deadline = time.monotonic() + DEADLINE
        while not reconnects() >= {"log", "records", "queue", "commands"}:
            assert time.monotonic() < deadline, reconnects()
            site.ending(site.enqueue().id)


@pytest.fixture
def port(site) -> Iterator[int]:
    """Of an endpoint without a worker."""
    roster = Roster()
    roster.enter(1, Board())
    port = free_port()
    with serve(roster, Settings(metrics_port=port), site.redis, ["chat"]):
        yield port


def test_a_port_that_is_taken_is_a_clear_error(port, site):
    with pytest.raises(
        ConfigError, match=f"metrics_port: cannot listen on 127.0.0.1:{port}: Address already in use"
    ) as caught:
        serve(Roster(), Settings(metrics_port=port), site.redis, ["chat"])
    assert "--metrics-port 0" in str(caught.value)


def test_a_process_without_a_file_left_is_asked_for_its_health_all_the_same(port):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(3)]
        next_one = os.dup(clients[0].fileno())
        os.close(next_one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        try:
            for client in clients:
                client.settimeout(DEADLINE)
                client.connect(("127.0.0.1", port))
                client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                answer = b""
                while data := client.recv(4096):
                    answer += data
                assert b" 200 " in answer
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connections_do_not_keep_a_probe_out(port):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3 * CONNECTIONS)]
        assert ask(port, "/livez")[0] == 200
        # The oldest were cut off.
        idle[0].settimeout(DEADLINE)
        assert idle[0].recv(1) == b""


def test_clients_that_never_finish_asking_do_not_keep_a_probe_out(port):
    with contextlib.ExitStack() as stack:
        for _ in range(2 * CONNECTIONS):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(b"GET /metrics HTTP/1.0\r\nX-Slow: ")
        assert ask(port, "/livez")[0] == 200


def test_more_scrapers_than_there_are_places_are_all_answered(port, monkeypatch):
    gate, coming = threading.Event(), threading.Semaphore(0)
    render = Exposition.render

    def wait(*args: Any) -> Any:
        coming.release()
        assert gate.wait(DEADLINE)
        return render(*args)

    monkeypatch.setattr(Exposition, "render", wait)
    with contextlib.ExitStack() as stack:
        asking = []
        for _ in range(CONNECTIONS + 20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            asking.append(connection)
        for _ in range(CONNECTIONS):
            assert coming.acquire(timeout=DEADLINE)
        gate.set()
        for connection in asking:
            assert connection.recv(15) == b"HTTP/1.0 200 OK"


def test_who_has_asked_is_answered_however_late_that_is_read(port, monkeypatch):
    gate, coming = threading.Event(), threading.Semaphore(0)
    handle = BaseHTTPRequestHandler.handle

    def wait(handler: BaseHTTPRequestHandler) -> None:
        coming.release()
        assert gate.wait(DEADLINE)
        handle(handler)

    monkeypatch.setattr(BaseHTTPRequestHandler, "handle", wait)
    monkeypatch.setattr(statusserver, "HURRY", 0.0)
    with contextlib.ExitStack() as stack:
        asking = []
        for _ in range(CONNECTIONS + 3):  # the last ones take the places of the first
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
            connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            asking.append(connection)
        for _ in asking:
            assert coming.acquire(timeout=DEADLINE)
        gate.set()
        for connection in asking:
            assert connection.recv(15) == b"HTTP/1.0 200 OK"


@pytest.mark.parametrize("host", ["::1", "[::1]", "localhost", "127.0.0.1"])
def test_it_listens_on_whatever_names_this_machine(site, host):
    port = free_port()
    with serve(Roster(), Settings(metrics_port=port, metrics_host=host), site.redis, ["chat"]):
        shown = "[::1]" if "::" in host else host
        with urllib.request.urlopen(f"http://{shown}:{port}/metrics", timeout=DEADLINE) as answer:
            assert answer.status == 200


@pytest.mark.parametrize("host", ["no-such-host.invalid", "1.2.3.4.5", "a" * 70, "[::1]:80", "::1::1"])
def test_an_address_that_is_none_is_a_clear_error(site, host):
    port = free_port()
    with pytest.raises(ConfigError) as caught:
        serve(Roster(), Settings(metrics_port=port, metrics_host=host), site.redis, ["chat"])
    assert str(caught.value).startswith(f"metrics_port: cannot listen on {host}:{port}: ")


def test_garbage_is_refused_and_the_next_request_answered(port, capfd):
    for garbage in (b"\x00\xff\r\n\r\n", b"GET " + b"x" * 70_000 + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while connection.recv(65536):
                    pass
    assert ask(port, "/livez")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_bug_in_a_page_is_logged_and_the_next_request_answered(port, monkeypatch):
    with monkeypatch.context() as broken, capture_logs() as lines:
        broken.setattr(Health, "__init__", None)
        with pytest.raises((urllib.error.URLError, ConnectionError, OSError)):
            ask(port, "/livez")
    assert ask(port, "/livez")[0] == 200
    assert [line["event"] for line in lines] == ["a request for the status could not be answered"]
