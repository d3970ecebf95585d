"""Slots of a Redis Cluster: to which one a command goes, as it goes over the wire."""

from __future__ import annotations

from typing import Final

from redis.crc import key_slot

#: Bytes of a command in which its name and its first key are found, scripts by their hash.
_HEAD: Final = 1024

#: Commands without a key, which any node can answer: the home node does.
_KEYLESS: Final = frozenset(
    b"ACL AUTH CLIENT CLUSTER COMMAND CONFIG DISCARD ECHO EXEC HELLO INFO MULTI PING PSUBSCRIBE PUBLISH PUBSUB "
    b"PUNSUBSCRIBE READONLY READWRITE RESET ROLE SCAN SELECT SUBSCRIBE TIME UNSUBSCRIBE UNWATCH WAIT".split()
)


def slot_of(packed: bytes) -> int | None:
    """The slot of a command, as it goes over the wire; None: it has no key."""
    # How many words there are; then each behind its length.
    words = packed[:_HEAD].split(b"\r\n")
    name = words[2].upper()
    if name == b"EVALSHA":
        return key_slot(words[8]) if words[6] != b"0" else None
    if name == b"EVAL":
        script = len(b"\r\n".join(words[:4])) + 2
        after = packed[script + int(words[3][1:]) + 2 :][:_HEAD].split(b"\r\n")
        return key_slot(after[3]) if after[1] != b"0" else None
    if name == b"XREAD":
        return key_slot(words[next(at for at, word in enumerate(words) if word.upper() == b"STREAMS") + 2])
    if name in _KEYLESS or len(words) < 6:
        return None
    return key_slot(words[4])
