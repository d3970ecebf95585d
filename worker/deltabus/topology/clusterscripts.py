"""Scripts as they run on a Cluster, in place of those that are meant.

While a slot moves, some of its keys are at one node and some at the other. Redis sees to it that no command runs that
names keys of both. A script finds out at the key that it comes to, when it may have done half of its work, or takes the
refusal for the word that there is no such key. So those that find keys by others that they read, all of them RQ's,
ask for a key that never exists, before anything else: Redis answers only as long as every key is there.

Ordinary messages are passed on to every node of a Cluster. Sharded ones, from Redis 7 on, go to subscribers at the
task's own node only. They take another command of whoever publishes, which is a script, and of whoever listens, who has
to do so at each node for the channels that belong there. Both sides must agree: so it is asked for in the URL.
"""

from __future__ import annotations

import hashlib
from typing import Final

from deltabus import keys, scripts
from deltabus.scripts import Script

#: Goes before a script that finds keys by what it reads.
_GUARD: Final = b"redis.call('EXISTS', KEYS[1] .. ':') "

#: Goes before a script: in it, PUBLISH on a task's channel is SPUBLISH. Other channels are in no slot of the script.
_SHARDED: Final = (
    f"""local redis = setmetatable({{call = function(...)
  local command, channel = ...
  if command == 'PUBLISH' and string.find(channel, '{keys.PREFIX}:{{', 1, true) == 1 then
    return redis.call('SPUBLISH', select(2, ...))
  end
  return redis.call(...)
end}}, {{__index = redis}})
"""
).encode()

_EVALSHA: Final = b"\r\n$7\r\nEVALSHA\r\n$40\r\n"
_LOAD: Final = b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$"

_ALL: Final = tuple(script for script in vars(scripts).values() if isinstance(script, Script))

#: By whether messages are sharded, and by the source of a script: that of the one that runs.
_SOURCES: Final = {
    sharded: {
        script.source: (_GUARD if script in scripts.FINDING else b"") + (_SHARDED if sharded else b"") + script.source
        for script in _ALL
    }
    for sharded in (False, True)
}
#: As well, by the hash of a script: that of the one that runs.
_HASHES: Final = {
    sharded: {
        script.sha: hashlib.sha1(sources[script.source], usedforsecurity=False).hexdigest().encode() for script in _ALL
    }
    for sharded, sources in _SOURCES.items()
}


def meant(data: bytes) -> bytes:
    """What goes over the wire, with the hashes of the scripts that are meant in place of those that run."""
    for hashes in _HASHES.values():
        for sha, runs in hashes.items():
            data = data.replace(runs, sha)
    return data


def translated(packed: bytes, *, sharded: bool) -> bytes:
    """A command, as it goes over the wire, with the script that runs on a Cluster in place of the one that is meant.

    Args:
        sharded: whether messages are.
    """
    at = packed.find(_EVALSHA, 0, 64)
    if at >= 0:
        start = at + len(_EVALSHA)
        sha = packed[start : start + 40]
        return packed[:start] + _HASHES[sharded].get(sha, sha) + packed[start + 40 :]
    if packed.startswith(_LOAD):
        source = packed[packed.index(b"\r\n", len(_LOAD)) + 2 : -2]
        source = _SOURCES[sharded].get(source, source)
        return _LOAD + b"%d\r\n%s\r\n" % (len(source), source)
    return packed
