"""An executable model of the log's scripts."""

from __future__ import annotations

import hashlib
from typing import Any

from deltabus import keys
from deltabus.scripts import LOG

SEAL_PLACE = (int(keys.SEAL.partition("-")[0]), 0)

Place = tuple[int, int]


def place(id: str) -> Place:
    attempt, n = id.split("-")
    return int(attempt), int(n)


class Model:
    """What the scripts should do, over a list in place of a stream. Says what a call has to answer."""

    def __init__(self) -> None:
        self.log: list[tuple[Place, bytes]] = []
        self.cancel: bytes | None = None

    def call(self, packed: bytes) -> Any:
        script, arguments = parsed(packed)
        match script:
            case "begin":
                return self._begin(*arguments)
            case "append":
                return self._append(*arguments)
            case "seal":
                return self._seal(*arguments)
            case "renew":
                return self._renew(*arguments)
            case _:
                return None  # a reading

    @property
    def _sealed(self) -> bytes | None:
        return self.log[-1][1] if self.log and self.log[-1][0] == SEAL_PLACE else None

    def _begin(self, head: bytes, tail: bytes, _c: bytes, _r: bytes, _t: bytes, reopen: bytes) -> Any:
        begun = {at[0] for at, _ in self.log if at != SEAL_PLACE}
        mine = [at for at, event in self.log if event == head + b"%d-%d" % at + tail]
        if self._sealed and (mine or reopen == b"0"):
            return [b"sealed", self._sealed]
        if mine:
            return [b"ok", mine[0][0]] if mine[0][0] == max(begun) else [b"fenced"]
        if self.cancel is not None:
            return [b"cancel", self.cancel]
        if self._sealed:
            self.log = []
        new = max(begun, default=0) + 1
        self.log.append(((new, 0), head + b"%d-0" % new + tail))
        return [b"ok", new]

    def _append(self, id: bytes, after: bytes, event: bytes, _c: bytes, _r: bytes, trim: bytes, _t: bytes) -> Any:
        new = place(id.decode())
        if (new, event) not in self.log[-1:]:
            if self._sealed:
                return [b"sealed", self._sealed]
            if self.log and (self.log[-1][0][0] > new[0] or self.log[-1][0] >= new):
                return [b"fenced"]
            assert self.log
            assert self.log[-1][0] == place(after.decode()), "no data is lost here"
            self.log = [*([] if trim == b"1" else self.log), (new, event)]
        return 1 if self.cancel is None else [b"cancel", self.cancel]

    def _seal(
        self, event: bytes, last: bytes, _c: bytes, _r: bytes, _q: bytes, _t: bytes, mine: bytes, former: bytes
    ) -> Any:
        replaces = False
        if self._sealed:
            if self._sealed == event:
                return 1
            if hashlib.sha1(self._sealed, usedforsecurity=False).hexdigest().encode() != former:
                return [b"sealed", self._sealed]
            replaces = True
        begun = self.log[:-1] if replaces else self.log
        newest = begun[-1][0] if begun else (0, 0)
        known = place(last.decode())
        if newest[0] > known[0] or (mine == b"1" and newest > known):
            return [b"fenced"]
        assert mine == b"0" or newest == known, "no data is lost here"
        self.log = [*begun, (SEAL_PLACE, event)]
        self.cancel = None
        return 1

    def _renew(self, last: bytes, _t: bytes) -> Any:
        if self._sealed:
            return [b"sealed", self._sealed]
        if self.log[-1][0][0] > place(last.decode())[0]:
            return [b"fenced"]
        return 1 if self.cancel is None else [b"cancel", self.cancel]


def parsed(packed: bytes) -> tuple[str, list[bytes]]:
    """Name of the script that a packed command calls, and its arguments."""
    words: list[bytes] = []
    rest = packed.partition(b"\r\n")[2]
    while rest:
        length, _, rest = rest.partition(b"\r\n")
        words.append(rest[: int(length[1:])])
        rest = rest[int(length[1:]) + 2 :]
    names = {script.sha: script.name for script in LOG}
    return (names[words[1]], words[5:]) if words[0] == b"EVALSHA" else ("", [])
