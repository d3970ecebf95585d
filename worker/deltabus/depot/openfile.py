"""An open file that several threads read and write at once, at places of their own, and any of them may close."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class OpenFile:
    """A file descriptor. It is closed once nobody uses it: before, its number could become another file's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @classmethod
    def temporary(cls) -> Self:
        """An empty file that has no name (it ends with its process), in the folder that $TMPDIR names."""
        with tempfile.TemporaryFile(prefix="deltabus-") as file:
            return cls(os.dup(file.fileno()))

    @property
    def size(self) -> int:
        """Bytes in it, now."""
        with self._used() as descriptor:
            return os.fstat(descriptor).st_size

    @property
    def is_regular(self) -> bool:
        """Whether it is a file of bytes: no folder, pipe, socket or device."""
        with self._used() as descriptor:
            return stat.S_ISREG(os.fstat(descriptor).st_mode)

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start` on; none: it ends there."""
        with self._used() as descriptor:
            return os.pread(descriptor, length, start)

    def write(self, start: int, piece: bytes) -> None:
        """Write all of `piece` from `start` on."""
        view = memoryview(piece)
        with self._used() as descriptor:
            while view:
                written = os.pwrite(descriptor, view, start)
                view, start = view[written:], start + written

    def sync(self) -> None:
        """Have the system write it to the disk."""
        with self._used() as descriptor:
            os.fsync(descriptor)

    def close(self) -> None:
        """Close it, once whoever uses it is done."""
        with self._lock:
            wanted, self._closed = not self._closed, True
            idle = not self._users
        if wanted and idle:
            os.close(self._descriptor)

    @contextmanager
    def _used(self) -> Iterator[int]:
        with self._lock:
            if self._closed:
                raise ValueError("this file is closed")
            self._users += 1
        try:
            yield self._descriptor
        finally:
            with self._lock:
                self._users -= 1
                last = self._closed and not self._users
            if last:
                os.close(self._descriptor)
