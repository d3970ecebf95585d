"""Files of the worker's host: only regular ones, and only in the folders that `file_roots` lists.

A path is resolved first, and what it resolves to must be in a root. Then it is opened from the root down, one
folder after the other and no link followed, so that nobody can put a link in between the two.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from deltabus.depot.openfile import OpenFile
from deltabus.errors import InvalidRequest, NotFound, TaskError, Unsupported
from deltabus.fields import Field

#: A folder is opened to go on from it, not to be listed: on Linux that takes no right to read it.
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)

#: Not to be held up by a pipe without a writer, which may have taken the file's place.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_WRITE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_source(field: Field, roots: Sequence[str]) -> OpenFile:
    """Open the file that the field names, for reading.

    Raises:
        Unsupported: there are no roots.
        InvalidRequest: it is outside of them, not a regular file, or may not be read.
        NotFound: there is no such file.
    """
    with _errors(field), _folder(field, roots) as (folder, name):
        # Before it is opened: opening a device can do something.
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        _check_regular(field, found.st_mode)
        file = OpenFile(os.open(name, _READ, dir_fd=folder))
        if not file.is_regular:
            file.close()
            raise field.error("was replaced while it was opened")
        return file


class FileSink:
    """A file that is being written under a passing name, and gets its own when it is complete.

    Its methods block. They wait for each other: a caller that is cancelled closes it while a thread may still write.

    Raises:
        as `open_source`; and InvalidRequest: the file exists and holds something else.
    """

    def __init__(self, field: Field, roots: Sequence[str]) -> None:
        self._field = field
        with _errors(field), _folder(field, roots) as (folder, self._name):
            with contextlib.suppress(FileNotFoundError):
                _check_regular(field, os.stat(self._name, dir_fd=folder, follow_symlinks=False).st_mode)
            self._passing = f".deltabus-{uuid.uuid4().hex}.part"
            self._file = OpenFile(os.open(self._passing, _WRITE, 0o666, dir_fd=folder))
            self._folder = os.dup(folder)
        self._size = 0
        self._lock = threading.Lock()

    def write(self, piece: bytes) -> None:
        """Add bytes."""
        with self._lock, _errors(self._field):
            self._file.write(self._size, piece)
            self._size += len(piece)

    def commit(self) -> None:
        """Let it have its name. One that exists is kept, and suffices where it holds the same bytes."""
        with self._lock, _errors(self._field):
            self._file.sync()
            try:
                os.link(self._passing, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except FileExistsError as exc:
                # Perhaps from an earlier attempt at the same task.
                if not self._is_there_already():
                    raise self._field.error("exists already, and holds something else: nothing is overwritten") from exc

    def close(self) -> None:
        """Leave nothing but what was committed."""
        with self._lock:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._passing, dir_fd=self._folder)
            os.close(self._folder)

    def _is_there_already(self) -> bool:
        there = OpenFile(os.open(self._name, _READ, dir_fd=self._folder))
        try:
            if not there.is_regular or there.size != self._size:
                return False
            step = 1024 * 1024
            places = range(0, self._size, step)
            return all(there.read(place, step) == self._file.read(place, step) for place in places)
        finally:
            there.close()


@contextmanager
def _folder(field: Field, roots: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The open folder in which the file is, and the file's name there."""
    root, parts = checked(field, roots)
    descriptor = os.open(root, _FOLDER & ~os.O_NOFOLLOW)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, parts[-1]
    finally:
        os.close(descriptor)


def checked(field: Field, roots: Sequence[str]) -> tuple[str, list[str]]:
    """The root that a file is in, and its way from there, without a link as far as one can know.

    Raises:
        Unsupported, InvalidRequest: as `open_source`.
    """
    path = field.string()
    if not roots:
        raise Unsupported(
            f"`{field.path}`: this worker takes no paths; `file_roots` in its settings lists the folders it may use",
            param=field.path,
        )
    if "\0" in path or not path.startswith("/"):
        raise field.error("must be an absolute path")
    real_roots = [os.path.realpath(root) for root in roots]
    # As it is written, first: nobody finds out by asking what there is elsewhere.
    if any(_way(root, os.path.normpath(path)) is not None for root in (*roots, *real_roots)):
        real = os.path.realpath(path)
        for root in real_roots:
            way = _way(root, real)
            if way is not None:
                if not way:
                    raise field.error("is a folder, not a file")
                # A file has no such name, although `realpath` finds it; and it would be uploaded without one.
                if path.rpartition("/")[2] in {"", ".", ".."}:
                    raise field.error(
                        "ends as a folder's path does: it must end with the name of a file, without a `/`"
                    )
                return root, way
    raise field.error("is not in a folder of `file_roots`, the only ones this worker may use")


def _way(root: str, path: str) -> list[str] | None:
    """The parts of the path below root; None: it is not below it."""
    root, path = os.path.normpath(root), os.path.normpath(path)
    # POSIX lets two slashes at the start mean something else; here, they do not.
    root, path = f"/{root.lstrip('/')}", f"/{path.lstrip('/')}"
    if path == root:
        return []
    prefix = root if root.endswith("/") else f"{root}/"
    return path.removeprefix(prefix).split("/") if path.startswith(prefix) else None


def _check_regular(field: Field, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kind = "a folder" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "a pipe, a socket or a device"
    raise field.error(f"is {kind}, not a file")


@contextmanager
def _errors(field: Field) -> Iterator[None]:
    """What the system says, as errors of ours. Paths are not repeated."""
    try:
        yield
    except TaskError:
        raise
    except FileNotFoundError as exc:
        raise NotFound(f"`{field.path}`: there is no such file", param=field.path) from exc
    except PermissionError as exc:
        raise field.error("may not be used by this worker: the system refuses permission") from exc
    except IsADirectoryError as exc:
        raise field.error("is a folder, not a file") from exc
    except (OSError, UnicodeEncodeError) as exc:
        if isinstance(exc, OSError) and exc.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise NotFound(f"`{field.path}`: there is no such file", param=field.path) from exc
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text that a path can be"
        raise InvalidRequest(f"`{field.path}` cannot be used: {reason}", param=field.path) from exc
