"""`deltabus redis`: a command for Redis itself, wherever the configuration says that it is, and its answer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

from deltabus.cli import exits
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.screens import Screen
from deltabus.cli.server import client
from deltabus.errors import BusUnavailable
from deltabus.settings import Settings
from deltabus.topology.redisurl import Node

if TYPE_CHECKING:
    from redis import Redis

#: Commands whose answers have no end.
ENDLESS: Final = frozenset({"MONITOR", "PSUBSCRIBE", "PSYNC", "SSUBSCRIBE", "SUBSCRIBE", "SYNC"})

#: What PUBSUB asks the node for that owns the channel: its first channel decides, as a key would.
SHARDED: Final = ("PUBSUB", "SHARDNUMSUB")

HELP = """Ask Redis a command, and print its answer as redis-cli does in a pipe: a value a line.

It finds Redis as everything else here does: by the URL of the configuration, through Sentinels, TLS, a socket, with the
password from where the configuration says, which is on no command line. Of a Cluster, the node is asked that owns
the command's key, and for a command without a key the one that owns RQ's; --each asks all of its masters.

\b
Examples:
  deltabus redis PING
  deltabus redis INFO memory
  deltabus redis --each SLOWLOG GET 5
  deltabus redis XRANGE 'deltabus:{3f1c}:log' - + COUNT 3
  deltabus redis --scan 'deltabus:{*}:log' | wc -l
  deltabus redis --memory                what holds the memory, by kind of key

--scan and --memory walk through all keys of all masters, in small steps: others are not held up. What Redis' ACL
does not allow our user, this does not, either.

Exit code: 0 it has answered; 1 it has refused, or one of several has, or is away; 3 it cannot be reached.
"""


@click.command(
    "redis", cls=Command, help=HELP, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("words", metavar="[COMMAND [ARGUMENT]...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--each", is_flag=True, help="Ask every master of a Cluster, and say which one answers.")
@click.option("--scan", metavar="PATTERN", help="Print the keys that match.")
@click.option("--memory", is_flag=True, help="Print which kinds of keys there are, how many, and how large.")
@pass_session
def redis(session: Session, *, words: tuple[str, ...], each: bool, scan: str | None, memory: bool) -> int:
    if bool(words) + (scan is not None) + memory != 1:
        raise click.UsageError("say one of: a COMMAND, --scan PATTERN, --memory")
    if words and not words[0].strip():
        raise click.UsageError("the COMMAND is empty: say one, such as PING")
    if words and words[0].upper() in ENDLESS:
        raise click.UsageError(f"{words[0]} never ends, and this prints one answer: `deltabus watch` follows tasks")
    from redis.exceptions import RedisError, ResponseError

    settings = session.settings
    screen = Screen()
    try:
        with _Reached(settings) as servers:
            if scan is not None:
                for server in servers.masters:
                    for key in server.scan_iter(match=os.fsencode(scan), count=1000):
                        _print(screen, key)
            elif memory:
                _print_memory(screen, servers.masters, settings.rq_key_prefix)
            elif each:
                return _ask_each(screen, settings, servers.masters, words)
            else:
                _print(screen, _ask(servers.of(words), words))
    except ResponseError as exc:
        screen.error(_refusal(exc, settings))
        return exits.FAILED
    except RedisError as exc:
        raise BusUnavailable(f"cannot reach Redis at {settings.redis_address}: {exc}") from exc
    return exits.DONE


def _ask_each(screen: Screen, settings: Settings, masters: Sequence[Redis], words: tuple[str, ...]) -> int:
    """Ask all of them, also where one of several refuses or is away; the exit code."""
    from redis.exceptions import RedisError, ResponseError

    if len(masters) == 1:
        _print(screen, _ask(masters[0], words))
        return exits.DONE
    code = exits.DONE
    for server in masters:
        where = server.connection_pool.connection_kwargs
        screen.answer(f"# {where['host']}:{where['port']}\n")
        try:
            _print(screen, _ask(server, words))
        except RedisError as exc:
            screen.error(_refusal(exc, settings) if isinstance(exc, ResponseError) else str(exc))
            code = exits.FAILED
    return code


def _refusal(error: Exception, settings: Settings) -> str:
    from redis.exceptions import MovedError

    from deltabus.refusal import is_of_cluster

    if is_of_cluster(error) and settings.redis_url.partition("://")[0].endswith("+cluster"):
        # It was led to where it had to go, or to all of them.
        if isinstance(error, MovedError):
            return f"Redis refuses: the key is at {error.host}:{error.port} (MOVED); ask without --each"
        return f"Redis refuses: {error}"
    return exits.explain(error) or f"Redis refuses: {str(error).strip()}"


class _Reached(ExitStack):
    """The servers that a URL leads to, while its block runs.

    Nothing is asked of them before what the user asks: one that is busy, full or loading answers little else.

    Raises:
        RedisError: nobody tells where they are.
    """

    def __init__(self, settings: Settings) -> None:
        from deltabus.topology.cluster import Cluster

        super().__init__()
        found = self.enter_context(client(settings))
        guides = found.connection_pool.connection_kwargs.get("whereabouts")
        self._cluster = guides if isinstance(guides, Cluster) else None
        self._at: dict[Node, Redis] = {}
        #: One; or the masters of a Cluster, the first of which has RQ's keys.
        self.masters = [found]
        if guides is not None:
            home = guides.find(settings.redis_timeout)
            nodes = dict.fromkeys([home, *self._cluster.masters] if self._cluster else [home])
            self._at = {node: self.enter_context(_client_of(found, node)) for node in nodes}
            self.masters = list(self._at.values())

    def of(self, words: tuple[str, ...]) -> Redis:
        """Who is to be asked this command."""
        from redis.crc import key_slot

        home: Redis = self.masters[0]
        if self._cluster is None or (key := _key(home, words)) is None:
            return home
        owner = self._cluster.owner(key_slot(key))
        return home if owner is None else self._at[owner]


def _client_of(found: Redis, node: Node) -> Redis:
    """A client of the server at this place, with everything else as it is; whoever answers there is believed."""
    from redis import Connection, ConnectionPool, SSLConnection
    from redis import Redis as Client

    pool = found.connection_pool
    kwargs = {name: value for name, value in pool.connection_kwargs.items() if name != "whereabouts"}
    kind = SSLConnection if issubclass(pool.connection_class, SSLConnection) else Connection
    return Client.from_pool(ConnectionPool(kind, **{**kwargs, "host": node[0], "port": node[1]}))


def _key(home: Redis, words: tuple[str, ...]) -> bytes | None:
    """What decides which node a command is for; None: nothing does."""
    from redis.exceptions import ResponseError

    if tuple(word.upper() for word in words[:2]) == SHARDED and len(words) > len(SHARDED):
        return os.fsencode(words[2])
    try:
        found = _ask(home, ("COMMAND", "GETKEYS", *words))
    except ResponseError:
        return None  # it has no key, or is none; or the server is busy, and the command one for all of it
    return bytes(found[0])


def _ask(node: Redis, words: tuple[str, ...]) -> Any:
    # The driver's own reading of answers, as of INFO, is not what was asked for.
    node.response_callbacks.clear()
    # Bytes that are no text come from the command line as halves of characters (PEP 383), and go on as they were.
    return node.execute_command(*map(os.fsencode, words))  # type: ignore[no-untyped-call]


def _print(screen: Screen, answer: Any) -> None:
    """An answer: raw into a pipe or a file, harmless on a terminal."""
    text = b"".join(line + b"\n" for line in _lines(answer))
    if screen.takes_bytes:
        screen.binary(text)
    else:
        screen.answer(text.decode(errors="replace"))


def _lines(answer: Any) -> Iterator[bytes]:
    match answer:
        case None:
            yield b""
        case bytes():
            yield answer.removesuffix(b"\n").replace(b"\r\n", b"\n")
        case dict():
            for name, value in answer.items():
                yield from _lines(name)
                yield from _lines(value)
        case list() | tuple() | set() | frozenset():
            for each in answer:
                yield from _lines(each)
        case bool():
            yield b"1" if answer else b"0"
        case _:
            yield str(answer).encode()


def _print_memory(screen: Screen, masters: Iterable[Redis], rq_prefix: str) -> None:
    from deltabus import census
    from deltabus.cli.figures import size

    screen.wait("walking through all keys")
    kinds = census.count(masters, rq_prefix, lambda number: screen.wait(f"walking through all keys: {number:,}"))
    rows = [[kind.name, f"{kind.keys:,}", size(kind.bytes), size(kind.largest_bytes), kind.largest] for kind in kinds]
    screen.table(["kind", "keys", "bytes", "largest", "which"], rows)
