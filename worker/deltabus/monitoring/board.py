"""The numbers of one process, in memory that others may read while it writes them, and after its death.

A worker under a supervisor writes into memory that the supervisor has made: so nothing that it counted is lost
when it is killed, whoever looks needs no answer from it, and no file stays anywhere. There is one writer a board;
a number is written by one machine instruction, so nobody reads half of one.

Layout, numbers in the machine's own form::

    8 bytes   how many bytes of the board are in use
    entries   4 bytes: length of the key; 4 bytes: count of numbers
              the key, a JSON array of strings, padded with spaces to a multiple of 8
              the numbers, 8 bytes each
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

#: Bytes of a board. Most of them are never touched, and so take no memory.
SIZE: Final = 4 * 1024 * 1024

_HEAD: Final = struct.Struct("=Q")
_ENTRY: Final = struct.Struct("=II")

#: Name and labels of a series.
Key = tuple[str, ...]


def shared() -> int:
    """A descriptor of memory for a board, which a child process may inherit; nothing in a folder leads to it."""
    try:
        descriptor = os.memfd_create("deltabus-board")
    except (AttributeError, OSError):  # no Linux, or one that does not allow it
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, SIZE)
    return descriptor


def histogram(numbers: memoryview[float], bounds: Sequence[float]) -> Callable[[float], None]:
    """What to call with each value of a histogram.

    Args:
        numbers: how many fell into each bucket, how many were above them all, and the sum.
        bounds: the buckets' upper bounds, which belong to them.
    """

    def observe(value: float) -> None:
        numbers[bisect_left(bounds, value)] += 1
        numbers[-1] += value

    return observe


class Board:
    """A board; every number on it begins as 0.

    Args:
        descriptor: of the memory to use, from `shared()`; None: some of this process' own.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if descriptor is None else descriptor, SIZE)
        self._view = memoryview(self._memory)
        self._used = max(_HEAD.unpack_from(self._memory)[0], _HEAD.size)
        #: Series for which there was no room.
        self.refused = 0

    def series(self, key: Key, count: int = 1) -> memoryview[float]:
        """The numbers of a new series, to be written in place. Those of one that has no room go nowhere."""
        name = msgspec.json.encode(key)
        name += b" " * (-len(name) % 8)
        start = self._used + _ENTRY.size + len(name)
        end = start + 8 * count
        if end > SIZE:
            self.refused += 1
            return memoryview(bytearray(8 * count)).cast("d")
        _ENTRY.pack_into(self._memory, self._used, len(name), count)
        self._memory[self._used + _ENTRY.size : start] = name
        # Last: until then, readers see nothing of it.
        _HEAD.pack_into(self._memory, 0, end)
        self._used = end
        return self._view[start:end].cast("d")

    def read(self) -> Iterator[tuple[Key, Sequence[float]]]:
        """All series with their numbers as they are now."""
        at, used = _HEAD.size, _HEAD.unpack_from(self._memory)[0]
        while at < used:
            length, count = _ENTRY.unpack_from(self._memory, at)
            start = at + _ENTRY.size + length
            key = msgspec.json.decode(self._memory[at + _ENTRY.size : start], type=tuple[str, ...])
            at = start + 8 * count
            yield key, struct.unpack(f"={count}d", self._memory[start:at])
