"""Sentinel and Cluster with TLS: an authority of one's own, certificates of clients, users, and names that fit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlencode

import pytest
import redis
from certificates import Authority
from processes import DELTABUS, PATIENCE, Background, environ

from chaos.nodes import ask
from chaos.sentinels import SERVICE, Sentinel
from deltabus import Bus, embedded
from deltabus.cli import exits, server
from deltabus.embedded import EmbeddedRedis
from deltabus.errors import BusUnavailable
from deltabus.servicemanager import ServiceManager
from deltabus.settings import Settings
from deltabus.topology import clients, guides
from deltabus.topology.ownconnection import own_connection

USER, PASSWORD = "somebody", "p@ss/w:rd %41"
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}@"
PREFIX = "{rq}"

#: What a server has, by its options: `tls-…`.
CERTIFICATES = (("ca-cert-file", "ca.pem"), ("cert-file", "server.pem"), ("key-file", "server.key"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    for name in ("server", "client"):
        authority.sign(name)
    authority.sign("elsewhere", "DNS:redis.example")
    return authority


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that no server knows."""
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    stranger.sign("client")
    return stranger


def shown(authority: Authority, client: Authority | None = None, **more: str) -> str:
    """The options of a URL with certificates: who is trusted, and what is shown."""
    of = client or authority
    files = {
        "ssl_ca_certs": authority.path("ca.pem"),
        "ssl_certfile": of.path("client.pem"),
        "ssl_keyfile": of.path("client.key"),
    }
    return urlencode({**files, **more})


def guarded(authority: Authority, port: int, name: str = "server") -> list[str]:
    """Arguments of a server that speaks TLS at this port, and asks for a certificate and for a user."""
    args = ["--tls-port", str(port), "--tls-replication", "yes"]
    for kind, file in CERTIFICATES:
        args += [f"--tls-{kind}", authority.path(file.replace("server", name))]
    return [*args, "--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all"]


def shut(server: EmbeddedRedis) -> None:
    """Let in nobody without a name any more."""
    ask(server, "ACL", "SETUSER", "default", "off")


def until(holds: Callable[[], bool]) -> None:
    """Wait until servers have agreed on something."""
    deadline, over = time.monotonic() + PATIENCE, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        over.wait(0.02)


@pytest.fixture(scope="module")
def cluster(authority: Authority) -> Iterator[str]:
    """The URL of a Cluster of three, without options; its nodes are called by their host's name."""
    if embedded._version(embedded.find_server()) < (7, 0):
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("Redis 6 has no names of hosts in a Cluster")
    drawn = iter(embedded._free_port, 0)
    # Their bus is 10,000 above, where another server may be.
    ports = list(itertools.islice((port for port in drawn if port < 20_000 and not _listens(port + 10_000)), 3))
    with contextlib.ExitStack() as stack:
        servers = []
        for port in ports:
            args = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-announce-tls-port", str(port)]
            args += ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"]
            servers.append(stack.enter_context(EmbeddedRedis(args=[*args, *guarded(authority, port)])))
        for server, (first, last) in zip(servers, ((0, 5460), (5461, 10922), (10923, 16383)), strict=True):
            ask(server, "CLUSTER", "ADDSLOTSRANGE", first, last)
            for port in ports:
                ask(server, "CLUSTER", "MEET", "127.0.0.1", port)
        until(lambda: all("cluster_state:ok" in ask(server, "CLUSTER", "INFO") for server in servers))
        for server in servers:
            shut(server)
        yield f"rediss+cluster://{LOGIN}{','.join(f'localhost:{port}' for port in ports)}"


@pytest.fixture(scope="module")
def sentinel(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a master that a Sentinel knows, with what the Sentinel wants to be told, and no other options."""
    port = embedded._free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(args=guarded(authority, port)))
        watcher = Sentinel(tmp_path_factory.mktemp("sentinel"))
        stack.callback(watcher.stop)
        lines = ["port 0", f"tls-port {watcher.port}", "tls-replication yes"]
        lines += [f"tls-{kind} {authority.path(name)}" for kind, name in CERTIFICATES]
        lines += [f"sentinel auth-user {SERVICE} {USER}", f'sentinel auth-pass {SERVICE} "{PASSWORD}"']
        watcher.start(port, [], [], [*lines, "user default off", "user asker on >secret +@all"])
        shut(server)
        until(lambda: _listens(watcher.port))
        url = f"rediss+sentinel://{LOGIN}localhost:{watcher.port}/{SERVICE}/0"
        yield f"{url}?sentinel_username=asker&sentinel_password=secret"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def with_options(url: str, options: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{options}"


@pytest.mark.parametrize("protocol", ["2", "3"])
@pytest.mark.parametrize("topology", ["cluster", "sentinel"])
def test_clients_of_either_colour_get_there(
    topology: str, protocol: str, authority: Authority, request: pytest.FixtureRequest
) -> None:
    url = with_options(request.getfixturevalue(topology), shown(authority, protocol=protocol))

    async def main() -> None:
        async with clients.asynchronous(url, home=PREFIX) as client:
            assert await client.set(f"{PREFIX}:x", 1)
            assert await client.set("a key of another node", 1)

    until(lambda: reaches(url))
    asyncio.run(main())
    with clients.blocking(url, home=PREFIX) as client:
        assert client.get("a key of another node") == b"1"


@pytest.mark.parametrize(("topology", "protocol"), [("cluster", "3"), ("sentinel", "2")])
def test_a_task_goes_from_a_producer_through_a_worker_to_a_subscriber(
    topology: str, protocol: str, authority: Authority, request: pytest.FixtureRequest
) -> None:
    url = with_options(request.getfixturevalue(topology), shown(authority, protocol=protocol))
    until(lambda: reaches(url))
    with Bus(settings=Settings(redis_url=url, rq_key_prefix=PREFIX, redis_timeout=PATIENCE)) as bus:
        tasks = [bus.chat({"echo": {"words": 5}}, messages="hello") for _ in range(3)]
        command = [*DELTABUS, "worker", "chat", "--burst"]
        with Background(command, environ=environ(url, RQ_KEY_PREFIX=PREFIX)) as worker:
            assert worker.end() == 0, worker.said
        assert all(len("".join(task.text()).split()) == 5 for task in tasks)
    assert PASSWORD not in worker.said


def reaches(url: str) -> bool:
    """Whether the servers are ready: a Sentinel takes a moment to know its master."""
    with contextlib.suppress(redis.RedisError), clients.blocking(url, home=PREFIX) as client:
        return bool(client.ping())
    return False


@pytest.mark.parametrize("topology", ["cluster", "sentinel"])
@pytest.mark.parametrize("wrong", ["authority", "client"])
def test_a_certificate_that_does_not_fit_is_one_clear_error(
    topology: str, wrong: str, authority: Authority, stranger: Authority, request: pytest.FixtureRequest
) -> None:
    bad = shown(stranger, authority) if wrong == "authority" else shown(authority, stranger)
    message = refusal(with_options(request.getfixturevalue(topology), bad))
    if wrong == "authority":
        assert "the server's certificate does not fit" in message
        assert "`ssl_ca_certs`" in message
    else:
        assert "does not take the certificate" in message
        assert "`ssl_certfile` and `ssl_keyfile`" in message
    assert "see to the certificates" in message


def test_a_certificate_for_other_hosts_is_one_clear_error(authority: Authority) -> None:
    port = embedded._free_port()
    with EmbeddedRedis(args=guarded(authority, port, "elsewhere")):
        assert "is for another host" in refusal(f"rediss://{LOGIN}localhost:{port}/0?{shown(authority)}")


def test_a_loop_that_ends_at_once_leaves_no_connection_open(authority: Authority) -> None:
    """Though a server that hangs says no goodbye; what was left open would be an error of this test."""
    port = embedded._free_port()

    async def main() -> None:
        async with clients.asynchronous(f"rediss://{LOGIN}localhost:{port}/0?{shown(authority)}") as client:
            connection = own_connection(client)
            await connection.connect()
            os.kill(server.pid, signal.SIGSTOP)
            await connection.disconnect(nowait=True)

    with EmbeddedRedis(args=guarded(authority, port)) as server:
        asyncio.run(main())
        gc.collect()


def test_a_key_that_is_not_that_of_the_certificate_is_one_clear_error(authority: Authority, cluster: str) -> None:
    options = shown(authority, ssl_keyfile=authority.path("server.key"))
    assert "`ssl_keyfile` is not the key of `ssl_certfile`" in refusal(with_options(cluster, options))


def refusal(url: str) -> str:
    """What a worker says that does not wait at its start, as waiting mends nothing."""
    settings = Settings(redis_url=url, rq_key_prefix=PREFIX, redis_timeout=PATIENCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guides, "PATIENCE", PATIENCE)
        patch.setattr("deltabus.cli.server.time.sleep", lambda _: pytest.fail("it waits"))
        with pytest.raises(BusUnavailable) as caught:
            server.wait_for(settings, ServiceManager({}))
    assert exits.code(caught.value) == exits.UNREACHABLE
    assert PASSWORD not in str(caught.value)
    return f"{caught.value}; {exits.explain(caught.value)}"
