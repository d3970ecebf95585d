"""`deltabus dev`: a private Redis and a worker in one terminal."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from deltabus.cli import complete
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.queues import look
from deltabus.cli.screens import Screen
from deltabus.cli.server import connect
from deltabus.cli.worker import command
from deltabus.errors import BusUnavailable, ConfigError
from deltabus.settings import Settings

if TYPE_CHECKING:
    from deltabus.embedded import EmbeddedRedis

#: Where every Redis client looks if nobody tells it otherwise.
DEFAULT_PORT: Final = 6379

#: Seconds between two looks whether the worker is there.
LOOK_AGAIN: Final = 0.1

HELP = """A private Redis and a worker in this terminal, until Ctrl+C; to try things from another one.

Redis listens on 127.0.0.1:6379, where `deltabus chat` looks if nobody tells it otherwise. If that port
is taken, or --port says so, it listens elsewhere, and the line to paste into the other terminal is shown.
It holds everything in memory: when this ends, all is gone.

\b
Examples:
  deltabus dev                        then, in another terminal: deltabus chat "hello"
  deltabus dev --port 7000
  deltabus dev --processes 2 --concurrency 500
"""


@click.command("dev", cls=Command, help=HELP)
@click.argument("queues", nargs=-1, shell_complete=complete.queues)
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="Port of Redis. Default: 6379 if it is free.")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Tasks at once in each process.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Processes.")
@pass_session
def dev(session: Session, *, queues: tuple[str, ...], port: int | None, concurrency: int | None, processes: int) -> int:
    if session.redis is not None:
        raise click.UsageError("dev has a Redis of its own; to work on yours, use `deltabus worker --redis URL`")
    from deltabus import logs
    from deltabus.supervisor import Supervisor

    settings = session.settings
    logs.configure(settings)
    if queues:
        settings = replace(settings, queues=queues)
    if concurrency is not None:
        settings = replace(settings, concurrency=concurrency)
    screen = Screen()
    with _redis(port) as server:
        settings = replace(settings, redis_url=server.url)
        words, environ = command(session, settings)
        threading.Thread(
            target=_say_when_ready, args=(screen, settings, _found(session, server.url)), daemon=True
        ).start()
        return Supervisor(words, processes, environ=environ, drain_timeout=settings.drain_timeout).run()


@contextmanager
def _redis(port: int | None) -> Iterator[EmbeddedRedis]:
    """The server, while the block runs.

    Raises:
        click.UsageError: the port that was asked for is taken.
        ConfigError: it does not start.
    """
    from deltabus.embedded import EmbeddedRedis

    chosen = _choose(port)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(EmbeddedRedis(port=chosen))
        except ConfigError:
            # Somebody else may have taken the port meanwhile.
            if (other := _choose(port)) == chosen:
                raise
            server = stack.enter_context(EmbeddedRedis(port=other))
        yield server


def _choose(port: int | None) -> int | None:
    """The port to listen on; None: any free one.

    Raises:
        click.UsageError: the one that was asked for is taken.
    """
    if not _is_taken(port or DEFAULT_PORT):
        return port or DEFAULT_PORT
    if port is None:
        return None
    raise click.UsageError(f"port {port} is taken; leave --port out to have a free one chosen")


def _is_taken(port: int) -> bool:
    """Whether somebody listens at any address of localhost: a client may try them in any order."""
    for family, kind, protocol, _, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            if probe.connect_ex(address) == 0:
                return True
    return False


def _found(session: Session, url: str) -> bool:
    """Whether a command in another terminal, with this configuration, uses this server by itself."""
    return session.settings.redis_url in {url, url.replace("127.0.0.1", "localhost")}


def _say_when_ready(screen: Screen, settings: Settings, found: bool) -> None:
    """Once a worker is there: where things are, and what to type in the other terminal."""
    from redis.exceptions import RedisError

    # Where Redis goes away, this is being ended.
    with suppress(RedisError, BusUnavailable), connect(settings) as client:
        while not any(state.workers for state in look(client, settings.queues[:1], settings.rq_key_prefix)):
            time.sleep(LOOK_AGAIN)
        export = "" if found else f"  export DELTABUS_REDIS_URL={settings.redis_url}\n"
        screen.answer(
            f"Redis     {settings.redis_url} (private, in memory)\n"
            f"Worker    queues {', '.join(settings.queues)}; providers {', '.join(settings.providers)}\n"
            f'\nIn another terminal:\n{export}  deltabus chat "hello"\n\nCtrl+C ends both.\n'
        )
