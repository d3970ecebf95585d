"""What a shell offers after TAB where a queue, a provider or a task is wanted: those that there are.

A person waits for it at every press of a key: Redis is asked once, briefly, and where anything is wrong, nothing
is offered and nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from deltabus.cli.options import Session
from deltabus.errors import DeltabusError
from deltabus.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

#: Seconds that Redis may take.
PATIENCE: Final = 0.5

#: Names that mean themselves to a shell: it puts them into the command line as they are, and anybody may choose them.
_PLAIN: Final = re.compile(r"[\w@%+=:,./-]+")

#: Task ids that are offered of each kind, newest first.
MOST: Final = 50


def queues(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Queues of the configuration, and those that RQ knows."""
    found: list[str] = []
    with _quietly(), _settings(ctx) as settings:
        found += settings.queues
        with _redis(settings) as redis:
            prefix = f"{settings.rq_key_prefix}:queue:"
            found += sorted(
                _text(name).removeprefix(prefix) for name in redis.smembers(f"{settings.rq_key_prefix}:queues")
            )
    return _items(found, incomplete)


def providers(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Configured providers."""
    found: list[str] = []
    with _quietly(), _settings(ctx) as settings:
        found += settings.providers
    return _items(found, incomplete)


def tasks(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tasks of the configured queues that run, wait or have ended of late."""
    return _registered(ctx, incomplete, "wip", "finished", "failed")


def failed(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Tasks of the configured queues that have failed for good."""
    return _registered(ctx, incomplete, "failed")


def _registered(ctx: click.Context, incomplete: str, *kinds: str) -> list[CompletionItem]:
    found: list[str] = []
    with _quietly(), _settings(ctx) as settings, _redis(settings) as redis:
        prefix = settings.rq_key_prefix
        for queue in settings.queues:
            for kind in kinds:
                # An entry of `wip` is a job id and an execution id.
                listed: Any = redis.zrevrange(f"{prefix}:{kind}:{queue}", 0, MOST - 1)
                found += (_text(entry).partition(":")[0] for entry in listed)
            if len(kinds) > 1:
                found += map(_text, redis.lrange(f"{prefix}:queue:{queue}", 0, MOST - 1))
    return _items(found, incomplete)


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    names = (name for name in dict.fromkeys(names) if _PLAIN.fullmatch(name))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@contextmanager
def _settings(ctx: click.Context) -> Iterator[Settings]:
    yield replace(ctx.ensure_object(Session).settings, redis_timeout=PATIENCE)


@contextmanager
def _redis(settings: Settings) -> Iterator[Redis]:
    from deltabus.cli.server import connect

    with connect(settings) as client:
        yield client


@contextmanager
def _quietly() -> Iterator[None]:
    from redis.exceptions import RedisError

    with suppress(DeltabusError, RedisError, OSError):
        yield


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
