"""Sharded pub/sub on a Cluster, from Redis 7 on: what a task says goes to subscribers at its own node only.

Ordinary messages are passed on to every node of a Cluster. Sharded ones take another command of whoever publishes,
which is a script, and of whoever listens, who has to do so at each node for the channels that belong there. Both sides
must agree: so it is asked for in the URL.
"""

from __future__ import annotations

import hashlib
from typing import Final

from deltabus import keys, scripts
from deltabus.scripts import Script

#: Goes before a script: in it, PUBLISH on a task's channel is SPUBLISH. Other channels are in no slot of the script.
_PRELUDE: Final = (
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

#: By the source, and by its hash, of a script: those of the one that publishes so.
_SOURCES: Final = {script.source: _PRELUDE + script.source for script in _ALL}
_HASHES: Final = {
    script.sha: hashlib.sha1(_SOURCES[script.source], usedforsecurity=False).hexdigest().encode() for script in _ALL
}


def translated(packed: bytes) -> bytes:
    """A command, as it goes over the wire, with the script that publishes so in place of the one that is meant."""
    at = packed.find(_EVALSHA, 0, 64)
    if at >= 0:
        start = at + len(_EVALSHA)
        sha = packed[start : start + 40]
        return packed[:start] + _HASHES.get(sha, sha) + packed[start + 40 :]
    if packed.startswith(_LOAD):
        source = packed[packed.index(b"\r\n", len(_LOAD)) + 2 : -2]
        if source in _SOURCES:
            source = _SOURCES[source]
            return _LOAD + b"%d\r\n%s\r\n" % (len(source), source)
    return packed
