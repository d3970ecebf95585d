"""What a Redis URL says: one server, the Sentinels that know which one it is, or nodes of a Cluster.

    redis://[user:password@]host[:port][/database][?option=value&…]         rediss:// with TLS
    unix://[user:password@]/path[?db=database&…]
    redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/database][?option=value&…]
                                                                           rediss+sentinel:// with TLS
    redis+cluster://[user:password@]host[:port][,host[:port]…][?option=value&…]
                                                                           rediss+cluster:// with TLS

The first two, and all options, are redis-py's. It has no URL for the others; that of Sentinels is what others have
agreed on (redis-sentinel-url, RedisVL, Prefect, langchain), that of a Cluster is made after it. User and password are
those of the servers; those of the Sentinels are the options `sentinel_username` and `sentinel_password`. Options
`ssl_…` hold for both. On a Cluster, `sharded_pubsub=yes` lets the messages of a task go to the subscribers at its
own node alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

#: Host and port.
Node = tuple[str, int]

#: What a message shows where a URL is none.
EXAMPLE: Final = "redis://localhost:6379/0"

_SERVERS: Final = ("redis", "rediss", "unix")
_SENTINELS: Final = ("redis+sentinel", "rediss+sentinel")

_CLUSTERS: Final = ("redis+cluster", "rediss+cluster")

#: Ports of Sentinels and of nodes where a URL has none.
SENTINEL_PORT: Final = 26379
SERVER_PORT: Final = 6379

#: Options that are for the connections to Sentinels, and what those call them.
_SENTINEL_OPTIONS: Final = {"sentinel_username": "username", "sentinel_password": "password"}

_NODE: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:,\s]+)(:(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class RedisURL:
    """A URL, read."""

    scheme: str
    #: Hosts and ports as they stand there.
    where: str
    #: `user:password@` as it stands there, perhaps empty.
    login: str
    #: Sentinels, or nodes of a Cluster; empty where the URL names the server itself.
    nodes: tuple[Node, ...]
    #: By which the Sentinels know the server; empty where there are none.
    service: str
    #: What is behind host or service: `/0`, or the path of a socket.
    path: str
    #: Of the connections to the server, in the order in which they stand there.
    options: tuple[tuple[str, str], ...]
    #: Of the connections to the Sentinels.
    sentinel_options: tuple[tuple[str, str], ...]
    #: The URL without credentials and options.
    public: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            ValueError: it is none; the rest of a sentence that begins with what has to be one.
        """
        scheme, _, rest = url.partition("://")
        scheme = scheme.lower()
        if scheme in _SENTINELS or scheme in _CLUSTERS:
            return cls._of_several(scheme, rest)
        try:
            parts = urlsplit(url)
            known = parts.scheme in _SERVERS
            _ = parts.port
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                f"must be a URL such as {EXAMPLE} (or rediss://, unix://, redis+sentinel://, redis+cluster://)"
            )
        # redis-py takes whatever else stands there for database 0.
        if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+/?", parts.path):
            raise ValueError(f"must have the number of a database, or nothing, behind the host: {EXAMPLE}")
        login, at, where = parts.netloc.rpartition("@")
        return cls(
            scheme=parts.scheme,
            where=where,
            login=login + at,
            nodes=(),
            service="",
            path=parts.path,
            options=tuple(parse_qsl(parts.query)),
            sentinel_options=(),
            public=f"{parts.scheme}://{where}{parts.path}",
        )

    @classmethod
    def _of_several(cls, scheme: str, rest: str) -> Self:
        # Not urlsplit, which takes a list of hosts for a bad port or a bad IPv6 address.
        rest, _, query = rest.partition("#")[0].partition("?")
        where, _, path = rest.partition("/")
        login, at, hosts = where.rpartition("@")
        if scheme in _CLUSTERS:
            example = f"{scheme}://host:{SERVER_PORT},host:{SERVER_PORT}"
            service, database = "", path
            if path not in {"", "0"}:
                raise ValueError(f"must name no database, as a Cluster has only one: {example}")
        else:
            example = f"{scheme}://host:{SENTINEL_PORT},host:{SENTINEL_PORT}/service/0"
            service, _, database = path.partition("/")
            if not service:
                raise ValueError(f"must name the service that the Sentinels know: {example}")
            if database and not database.isdecimal():
                raise ValueError(f"must have the number of a database, or nothing, behind the service: {example}")
        port = SERVER_PORT if scheme in _CLUSTERS else SENTINEL_PORT
        nodes = tuple(_node(host, port, example) for host in hosts.split(","))
        options = parse_qsl(query)
        return cls(
            scheme=scheme,
            where=hosts,
            login=login + at,
            nodes=nodes,
            service=unquote(service),
            path=f"/{database}" if database else "",
            options=tuple(pair for pair in options if pair[0] not in _SENTINEL_OPTIONS),
            sentinel_options=tuple(
                (_SENTINEL_OPTIONS[key], value) for key, value in options if key in _SENTINEL_OPTIONS
            ),
            public=f"{scheme}://{hosts}/{path}".rstrip("/"),
        )

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.scheme.startswith("rediss")

    @property
    def is_cluster(self) -> bool:
        """Whether the nodes are those of a Cluster."""
        return self.scheme in _CLUSTERS

    @property
    def password(self) -> str:
        """That of the server; empty: there is none."""
        written = self.login.rpartition("@")[0].partition(":")[2]
        return unquote(written) or dict(self.options).get("password", "")

    @property
    def passwords(self) -> frozenset[str]:
        """Every password in it."""
        return frozenset({self.password, dict(self.sentinel_options).get("password", "")} - {""})

    def with_password(self, password: str) -> str:
        """The URL with a password of the server; for one that has none."""
        user = self.login.rstrip("@").rstrip(":")
        service = f"/{quote(self.service, safe='')}" if self.service else ""
        named = {short: name for name, short in _SENTINEL_OPTIONS.items()}
        options = [*self.options, *((named[key], value) for key, value in self.sentinel_options)]
        query = f"?{urlencode(options, safe='/')}" if options else ""
        return f"{self.scheme}://{user}:{quote(password, safe='')}@{self.where}{service}{self.path}{query}"

    def of(self, node: Node) -> str:
        """The URL of the server at this place, with everything else as it is here."""
        host, port = node
        host = f"[{host}]" if ":" in host else host
        query = f"?{urlencode(self.options, safe='/')}" if self.options else ""
        return f"{'rediss' if self.tls else 'redis'}://{self.login}{host}:{port}{self.path}{query}"


def _node(text: str, usual_port: int, example: str) -> Node:
    match = _NODE.fullmatch(text.strip())
    port = int(match["port"] or usual_port) if match else 0
    if match is None or not 0 < port < 1 << 16:
        raise ValueError(f"must list hosts, each perhaps with a port: {example}")
    return match["host"].strip("[]"), port
