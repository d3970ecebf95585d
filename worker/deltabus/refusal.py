"""What a refusal of Redis means that no waiting mends: a right is missing, or a key is of another type."""

from __future__ import annotations

import re
from typing import Final

from redis.exceptions import NoPermissionError, ResponseError

#: A missing right, where it comes from within a script: Redis 7 says it without the prefix NOPERM.
_IN_SCRIPT: Final = re.compile(
    r"NOPERM|can't (run this command|access at least one of the keys|publish to the channel)|"
    r"has no permissions to (run|access)"
)


def lacks_right(error: object) -> bool:
    """Whether the user that we are to Redis may not do what was asked.

    The words are those of `acl.c` and `script.c` of Redis 6.2 to 7.4.
    """
    return isinstance(error, NoPermissionError) or (
        isinstance(error, ResponseError) and _IN_SCRIPT.search(str(error)) is not None
    )


def advice(error: object) -> str | None:
    """What to do about a refusal; None: it is none of these."""
    if lacks_right(error):
        return "the user of this URL lacks a right in Redis' ACL: give it those of its role, see ops/acl"
    if isinstance(error, ResponseError) and "WRONGTYPE" in str(error):
        return "a key of deltabus or RQ is of another type: another program uses it; delete or rename it"
    return None
