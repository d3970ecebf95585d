"""What holds the memory of a Redis: all keys, by kind, with the largest of each. It walks through all that there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from redis import Redis

from deltabus import keys

#: Keys that are looked at in one round trip.
BATCH: Final = 1000

#: Parts of a key that are weighed; the rest is reckoned from them. A job has fewer, one of which is its request: with
#: Redis' own number, 5, that counts or does not.
SAMPLES: Final = 100

#: The kind of keys that are neither deltabus' nor RQ's.
OTHERS: Final = "keys of other programs"


class Kind(msgspec.Struct, kw_only=True):
    """Keys that are made alike."""

    #: As `deltabus:{…}:log`: what differs from one key to another is left out.
    name: str
    keys: int = 0
    #: As MEMORY USAGE estimates them; without those of keys that our user may not read.
    bytes: int = 0
    largest: str = ""
    largest_bytes: int = 0


def count(servers: Iterable[Redis], rq_prefix: str, seen: Callable[[int], None] = lambda _: None) -> list[Kind]:
    """Count the keys of these servers, and their bytes; what takes most comes first.

    Args:
        servers: clients that answer in bytes; of a Cluster, one for each node.
        seen: is told how many keys have been counted.

    Raises:
        RedisError, OSError: a server does not answer.
    """
    kinds: dict[str, Kind] = {}
    for server in servers:
        batch: list[bytes] = []
        for key in server.scan_iter(count=BATCH):
            batch.append(key)
            if len(batch) == BATCH:
                _weigh(server, batch, rq_prefix, kinds)
                batch.clear()
                seen(sum(kind.keys for kind in kinds.values()))
        _weigh(server, batch, rq_prefix, kinds)
    return sorted(kinds.values(), key=lambda kind: (-kind.bytes, kind.name))


def _weigh(server: Redis, batch: list[bytes], rq_prefix: str, kinds: dict[str, Kind]) -> None:
    with server.pipeline(transaction=False) as pipeline:
        for key in batch:
            pipeline.memory_usage(key, samples=SAMPLES)
        answers = pipeline.execute(raise_on_error=False)
    for key, answer in zip(batch, answers, strict=True):
        if answer is None:  # it is gone
            continue
        text = key.decode(errors="replace")
        name = kind_of(text, rq_prefix)
        kind = kinds.setdefault(name, Kind(name=name))
        size = answer if isinstance(answer, int) else 0
        kind.keys += 1
        kind.bytes += size
        if size >= kind.largest_bytes:
            kind.largest, kind.largest_bytes = text, size


def kind_of(key: str, rq_prefix: str) -> str:
    """What a key is, without what tells it from others of its kind."""
    prefix = re.escape(rq_prefix)
    # `rq:job:<id>` and `rq:results:<id>`, but `rq:workers` as it is.
    if match := re.match(rf"({prefix}:[^:]+)(:.*)?$", key, re.DOTALL):
        return match[1] + (":…" if match[2] else "")
    if match := re.match(rf"({keys.PREFIX}:)\{{[^}}]*\}}(:\w+)$", key):
        return f"{match[1]}{{…}}{match[2]}"
    if match := re.match(rf"({keys.PREFIX}:[^:]+)(:.*)?$", key, re.DOTALL):
        return match[1] + (":…" if match[2] else "")
    return OTHERS
