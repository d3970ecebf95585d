"""What a refusal of Redis means: a right is missing, a key is of another type or elsewhere, or it takes no writes."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import ClusterCrossSlotError, MovedError, NoPermissionError, ResponseError

#: A missing right, where it comes from within a script: Redis 7 says it without the prefix NOPERM.
_IN_SCRIPT: Final = re.compile(
    r"NOPERM|can't (run this command|access at least one of the keys|publish to the channel)|"
    r"has no permissions to (run|access)"
)

#: What Redis says (`server.c` of 6.2 to 7.4), or redis-py's name of it, where it is there and takes no writes; what
#: that is, and what to do about it.
_NO_WRITES: Final = (
    (
        r"\bOOM\b|OutOfMemoryError|used memory > 'maxmemory'",
        "it is out of memory (OOM): raise its `maxmemory`, or delete what fills it",
    ),
    (
        r"READONLY|ReadOnlyError|read only replica|master -> replica",
        "it is a read only replica (READONLY): `redis_url` must lead to the master, which a failover may be choosing",
    ),
    (
        r"MISCONF",
        "it cannot save to its disk (MISCONF): free the disk, or mend it; INFO persistence says more",
    ),
    (
        r"NOREPLICAS|good replicas to write",
        "it has too few replicas (NOREPLICAS): bring them back, or see its `min-replicas-to-write`",
    ),
)


def lacks_right(error: object) -> bool:
    """Whether the user that we are to Redis may not do what was asked.

    The words are those of `acl.c` and `script.c` of Redis 6.2 to 7.4.
    """
    return isinstance(error, NoPermissionError) or (
        isinstance(error, ResponseError) and _IN_SCRIPT.search(str(error)) is not None
    )


def is_of_cluster(error: object) -> bool:
    """Whether a node of a Cluster says that another one has the key, or that no node has all of the keys.

    Where the URL says that there is a Cluster, commands are led to the right node, and nobody hears of it.
    """
    return isinstance(error, MovedError | ClusterCrossSlotError) or (
        isinstance(error, ResponseError) and "hash to the same slot" in str(error)
    )


def no_writes(reason: object) -> str | None:
    """Why Redis takes no writes, and what to do about it; None: that is not what it says.

    Args:
        reason: its error, or the words of one.
    """
    text = f"{type(reason).__name__}: {reason}" if isinstance(reason, ResponseError) else reason
    if not isinstance(text, str):
        return None
    return next((words for sign, words in _NO_WRITES if re.search(sign, text)), None)


def advice(error: object) -> str | None:
    """What to do about a refusal; None: it is none of these."""
    if lacks_right(error):
        return "the user of this URL lacks a right in Redis' ACL: give it those of its role, see ops/acl"
    if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
        return "a key of deltabus or RQ is of another type: another program uses it; delete or rename it"
    if is_of_cluster(error):
        return (
            "the server is a node of a Cluster: name that as redis+cluster://host:port, with RQ_KEY_PREFIX={rq}, see "
            "ops/topologies.md"
        )
    return None
