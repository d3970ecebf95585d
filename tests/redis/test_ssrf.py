"""The cases of server-side request forgery: no URL of a task makes the worker talk to what only the worker reaches."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from depots import depot_at, fetched
from yarl import URL

from deltabus.depot import web
from deltabus.errors import InvalidRequest
from deltabus.fields import Field
from deltabus.testing.server import Reply, ScriptedServer

#: Every way to say "this machine" or "this network" in a URL; `{port}` is that of a server which must not be asked.
DIRECTLY = {
    "loopback": "http://127.0.0.1:{port}/",
    "loopback-other": "http://127.8.9.10:{port}/",
    "loopback-by-name": "http://localhost:{port}/",
    "loopback-by-name-in-capitals": "http://LOCALHOST:{port}/",
    "loopback-by-name-with-dot": "http://localhost.:{port}/",
    "loopback-with-dot": "http://127.0.0.1.:{port}/",
    "loopback-short": "http://127.1:{port}/",
    "loopback-decimal": "http://2130706433:{port}/",
    "loopback-octal": "http://0177.0.0.1:{port}/",
    "loopback-octal-whole": "http://017700000001:{port}/",
    "loopback-hexadecimal": "http://0x7f.0.0.1:{port}/",
    "loopback-hexadecimal-whole": "http://0x7f000001:{port}/",
    "loopback-in-circled-digits": "http://①②⑦.⓪.⓪.①:{port}/",
    "loopback-in-fullwidth-digits": "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:{port}/",
    "loopback-percent-encoded": "http://%31%32%37.0.0.1:{port}/",
    "loopback-with-ideographic-stops": "http://127。0。0。1:{port}/",
    "loopback-v6": "http://[::1]:{port}/",
    "loopback-v6-long": "http://[0:0:0:0:0:0:0:1]:{port}/",
    "loopback-v6-zone": "http://[::1%25lo]:{port}/",
    "loopback-mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "loopback-mapped-hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "loopback-compatible": "http://[::127.0.0.1]:{port}/",
    "loopback-nat64": "http://[64:ff9b::127.0.0.1]:{port}/",
    "loopback-6to4": "http://[2002:7f00:1::1]:{port}/",
    "unspecified": "http://0.0.0.0:{port}/",
    "unspecified-short": "http://0:{port}/",
    "unspecified-v6": "http://[::]:{port}/",
    "private-10": "http://10.0.0.1/",
    "private-172": "http://172.16.0.1/",
    "private-192": "http://192.168.0.1/",
    "carrier-nat": "http://100.64.0.1/",
    "link-local": "http://169.254.1.1/",
    "link-local-v6": "http://[fe80::1]/",
    "link-local-v6-zone": "http://[fe80::1%25eth0]/",
    "unique-local-v6": "http://[fd12:3456:789a::1]/",
    "multicast": "http://224.0.0.1/",
    "multicast-v6": "http://[ff02::1]/",
    "broadcast": "http://255.255.255.255/",
    "reserved": "http://240.0.0.1/",
    "teredo": "http://[2001:0:7f00:1::1]/",
    "metadata-aws": "http://169.254.169.254/latest/meta-data/",
    "metadata-aws-decimal": "http://2852039166/latest/meta-data/",
    "metadata-aws-mapped": "http://[::ffff:a9fe:a9fe]/latest/meta-data/",
    "metadata-aws-v6": "http://[fd00:ec2::254]/latest/meta-data/",
    "metadata-azure": "http://168.63.129.16/machine",
    "metadata-alibaba": "http://100.100.100.200/latest/meta-data/",
    "metadata-oracle": "http://192.0.0.192/latest/",
    "scheme-file": "file:///etc/passwd",
    "scheme-file-with-host": "file://localhost/etc/passwd",
    "scheme-ftp": "ftp://127.0.0.1/",
    "scheme-gopher": "gopher://127.0.0.1:{port}/_GET%20/",
    "scheme-unix": "http+unix://%2Fvar%2Frun%2Fdocker.sock/info",
    "scheme-none": "//127.0.0.1:{port}/",
    "credentials": "http://user:secret@public.example:{port}/",
    "credentials-that-look-like-a-host": "http://public.example:80@127.0.0.1:{port}/",
    "backslash-that-looks-like-a-slash": "http://public.example\\@127.0.0.1:{port}/",
    "fragment-that-looks-like-a-host": "http://127.0.0.1:{port}#@public.example/",
    "line-break": "http://127.0.0.1:{port}/\r\nX-Evil: 1",
    "space-in-front": " http://127.0.0.1:{port}/",
    "chained-storage": "s3://bucket/x::file:///etc/passwd",
}

#: Answers of a name server for `evil.example`.
NAMES = {
    "name-of-loopback": ["127.0.0.1"],
    "name-of-loopback-v6": ["::1"],
    "name-of-a-mapped-address": ["::ffff:127.0.0.1"],
    "name-of-the-unspecified-address": ["0.0.0.0"],
    "name-of-metadata": ["169.254.169.254"],
    "name-of-a-private-address": ["10.1.2.3"],
    "name-of-a-public-and-a-private-address": ["1.1.1.1", "127.0.0.1"],
    "name-of-a-public-address-and-a-private-one-of-v6": ["1.1.1.1", "::1"],
}

#: Where a redirect from a host that is allowed may not lead, besides all of the above.
REDIRECTS = {
    "redirect-without-a-target": None,
    "redirect-to-credentials": "http://user:secret@files.example:{port}/",
    "redirect-to-data": "data:text/plain,hello",
    "redirect-to-storage": "s3://bucket/key",
    "redirect-to-another-port-of-an-allowed-host": "http://files.example:1/",
    "redirect-to-the-address-of-an-allowed-host": "//127.0.0.1:{port}/",
    "redirect-to-itself": "/again",
}


class Names:
    """A name server: the answers that it gives, one after the other, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []

    async def look_up(self, host: str, port: int, family: int) -> list[tuple[socket.AddressFamily, int, str]]:
        if host not in self.answers:
            return await REAL(host, port, family)
        self.asked.append(host)
        answers = self.answers[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET6 if ":" in each else socket.AF_INET, 6, each) for each in addresses]


REAL = web.look_up


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    names.answers = {"files.example": [["127.0.0.1"]], "public.example": [["127.0.0.1"]]}
    monkeypatch.setattr(web, "look_up", names.look_up)
    return names


@pytest.fixture
def private() -> Iterator[ScriptedServer]:
    """What nobody may talk to."""
    with ScriptedServer(default=Reply(body=[b"the crown jewels"], framing="length")) as server:
        yield server


@pytest.fixture
def refused(redis_url: str, run: Callable, names: Names, private: ScriptedServer) -> Callable[..., InvalidRequest]:
    """Open a URL, which must be refused before anything is asked of the private server."""

    def refused(url: str, **settings: tuple[str, ...]) -> InvalidRequest:
        async def main() -> None:
            async with depot_at(redis_url, **settings) as depot:
                await fetched(depot, {"url": url})

        with pytest.raises(InvalidRequest) as caught:
            run(main())
        assert private.connections == 0
        assert caught.value.param == "source.url"
        assert "secret" not in caught.value.message
        return caught.value

    return refused


@pytest.mark.parametrize("url", [pytest.param(url, id=name) for name, url in DIRECTLY.items()])
def test_a_url_to_what_is_not_public_is_refused(url, refused, private):
    refused(url.replace("{port}", str(private.port)), storage_roots=("s3://bucket",))


@pytest.mark.parametrize("addresses", [pytest.param(addresses, id=name) for name, addresses in NAMES.items()])
def test_a_name_of_what_is_not_public_is_refused(addresses, refused, names, private):
    names.answers["evil.example"] = [addresses]
    error = refused(f"http://evil.example:{private.port}/?key=secret")
    assert "not public" in error.message


@pytest.mark.parametrize(
    "target",
    [pytest.param(target, id=name) for name, target in REDIRECTS.items()]
    + [pytest.param(url, id=f"redirect-to-{name}") for name, url in DIRECTLY.items() if name != "line-break"],
)
def test_a_redirect_is_checked_as_the_first_url_was(target, refused, private):
    headers = {} if target is None else {"Location": target.replace("{port}", str(private.port))}
    headers = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    with ScriptedServer(default=Reply(status=302, headers=headers, framing="length")) as allowed:
        refused(f"http://files.example:{allowed.port}/start?key=secret", url_hosts=(f"files.example:{allowed.port}",))
        assert len(allowed.requests) == (6 if target == "/again" else 1)


def test_a_redirect_from_https_to_http_is_refused():
    with pytest.raises(InvalidRequest, match="from https to http"):
        web._next(URL("https://public.example/"), "http://public.example/", Field("source.url", ""))


@pytest.fixture
def one_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as public, and nothing else does."""
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")


def test_a_name_whose_second_answer_is_private_is_asked_once_and_connected_to_as_first_answered(
    run, redis_url, names, private, one_public_address
):
    names.answers["evil.example"] = [["127.0.0.1"], ["127.0.0.2"]]

    async def main() -> bytes:
        async with depot_at(redis_url) as depot:
            return await fetched(depot, {"url": f"http://evil.example:{private.port}/"})

    assert run(main()) == b"the crown jewels"
    assert names.asked == ["evil.example"]


def test_a_name_that_becomes_private_before_a_redirect_to_itself_is_refused(
    run, redis_url, names, private, one_public_address
):
    names.answers["evil.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    # Another port: what is asked on the connection that is open needs no second look.
    target = f"http://evil.example:{private.port}/"

    async def main(url: str) -> None:
        async with depot_at(redis_url) as depot:
            await fetched(depot, {"url": url})

    with (
        ScriptedServer(Reply(status=307, headers={"Location": target}, framing="length")) as first,
        pytest.raises(InvalidRequest, match="not public"),
    ):
        run(main(f"http://evil.example:{first.port}/"))
    assert names.asked == ["evil.example"] * 2
    assert private.connections == 0


def test_a_resolver_that_checks_nothing_is_still_no_way_in(private, refused, monkeypatch):
    async def careless(self: web.Resolver, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
        found = {"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}
        return [found]

    monkeypatch.setattr(web.Resolver, "resolve", careless)
    assert "not public" in refused(f"http://evil.example:{private.port}/").message


def test_a_proxy_from_the_environment_is_not_used(redis_url, run, names, monkeypatch):
    with ScriptedServer() as proxy, ScriptedServer(Reply(body=[b"direct"], framing="length")) as server:
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.url)

        async def main() -> bytes:
            async with depot_at(redis_url, url_hosts=("files.example",)) as depot:
                return await fetched(depot, {"url": f"http://files.example:{server.port}/"})

        assert run(main()) == b"direct"
        assert proxy.connections == 0


@pytest.fixture
def reachable(redis_url: str, run: Callable, names: Names, private: ScriptedServer) -> Callable[[str, str], bytes]:
    """Open a URL of a host that is allowed."""
    names.answers["files.EXAMPLE."] = names.answers["files.example."] = [["127.0.0.1"]]

    async def main(url: str, host: str) -> bytes:
        async with depot_at(redis_url, url_hosts=(host.replace("{port}", str(private.port)),)) as depot:
            return await fetched(depot, {"url": url.replace("{port}", str(private.port))})

    return lambda url, host: run(main(url, host))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:{port}/"),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}/"),
        ("Files.Example", "http://files.EXAMPLE.:{port}/"),
        ("files.example:{port}", "http://files.example:{port}/"),
    ],
)
def test_a_host_that_the_settings_list_may_be_private(host, url, reachable):
    assert reachable(url, host) == b"the crown jewels"
