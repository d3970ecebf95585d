"""Objects in cloud storage, by fsspec: `s3://`, `gs://`, `az://`, under the prefixes that `storage_roots` lists.

The worker's own credentials are used (environment, instance role), so that a task can reach no more than the list says.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from deltabus.depot.content import PIECE
from deltabus.depot.threads import Threads
from deltabus.errors import NotFound, ProviderUnavailable, TaskError, Unsupported
from deltabus.fields import Field
from deltabus.provider import Content

#: The schemes that there are. The extra `storage` has a client for each.
SCHEMES: Final = ("s3", "gs", "az")

#: Bytes that one request to the storage asks for: enough to outweigh its latency.
BLOCK: Final = 4 * 1024 * 1024

#: Bytes that one request sends. S3 takes 10,000 parts, of 5 MiB at least.
PART: Final = 8 * 1024 * 1024


def is_storage(url: str) -> bool:
    """Whether this is a URL of a storage rather than of the web."""
    return url.partition("://")[0] in SCHEMES


class Place:
    """An object's place, and the client that reaches it. Its methods block.

    Raises:
        InvalidRequest: the URL is none, or outside of the roots.
        Unsupported: there are no roots, or no client is installed.
    """

    def __init__(self, field: Field, roots: Sequence[str]) -> None:
        self.field = field
        self.url = checked(field, roots)
        scheme, _, self.path = self.url.partition("://")
        try:
            import fsspec

            # Not by `url_to_fs`, for which `::` in a URL begins another.
            self.files: Any = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as exc:
            raise Unsupported(
                f"`{field.path}`: {scheme}:// needs a client on the worker: pip install 'deltabus[storage]'",
                param=field.path,
            ) from exc
        except Exception as exc:
            raise self._unavailable(exc) from exc

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What clients raise, as errors of ours."""
        try:
            yield
        except TaskError:
            raise
        except FileNotFoundError as exc:
            raise NotFound(f"`{self.field.path}`: there is no such object", param=self.field.path) from exc
        except PermissionError as exc:
            raise self.field.error("may not be used by this worker: the storage refuses permission") from exc
        except Exception as exc:  # each client has errors of its own
            raise self._unavailable(exc) from exc

    def size(self) -> int:
        """Bytes of the object."""
        with self.errors():
            about = self.files.info(self.path)
        if about.get("type") == "directory":
            raise self.field.error("is a folder, not an object")
        if not isinstance(about.get("size"), int):
            raise self.field.error("is an object whose size the storage does not say")
        return int(about["size"])

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`."""
        with self.errors():
            return bytes(self.files.cat_file(self.path, start=start, end=end))

    def _unavailable(self, error: Exception) -> ProviderUnavailable:
        # Their messages may hold what a log should not.
        return ProviderUnavailable(
            f"`{self.field.path}`: the storage did not do it ({type(error).__name__})", param=self.field.path
        )


def checked(field: Field, roots: Sequence[str]) -> str:
    """The URL that the field holds, if it is in one of the roots.

    Raises:
        Unsupported, InvalidRequest: as `Place`.
    """
    url = field.string()
    if not is_storage(url):
        raise field.error(f"must be a URL of one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}")
    if not roots:
        raise Unsupported(
            f"`{field.path}`: this worker uses no storage; `storage_roots` in its settings lists the URLs it may use",
            param=field.path,
        )
    parts = url.partition("://")[2].split("/")
    if "" in parts[:-1] or {".", ".."} & set(parts) or "::" in url or not url.isprintable():
        raise field.error(f"is not the URL of an object, such as {roots[0].rstrip('/')}/report.pdf")
    if not any(url.startswith(f"{root.rstrip('/')}/") and parts[-1] for root in roots):
        raise field.error("is not under one of `storage_roots`, the only URLs this worker may use")
    return url


class InStorage(Content):
    """Bytes of an object."""

    def __init__(self, place: Place, size: int, threads: Threads) -> None:
        self._place = place
        self._threads = threads
        self.size = size

    async def read(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes]:
        end = self.size if length is None else min(self.size, start + length)
        while start < end:
            stop = min(end, start + BLOCK)
            block = await self._threads.run(self._place.read, start, stop)
            if len(block) != stop - start:
                raise self._place.field.error("changed while it was read")
            for at in range(0, len(block), PIECE):
                yield block[at : at + PIECE]
            start = stop


class StorageSink:
    """An object that is being written. It appears when it is committed, in place of what was there.

    Its methods block. They wait for each other: a caller that is cancelled closes it while a thread may still write.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._done = False
        with place.errors():
            self._file: Any = place.files.open(place.path, "wb", block_size=PART, autocommit=False)
            # It would be kept, buffers and all, for a transaction that there is not.
            place.files.transaction.files.remove(self._file)

    def write(self, piece: bytes) -> None:
        """Add bytes."""
        with self._lock, self._place.errors():
            self._file.write(piece)

    def commit(self) -> None:
        """Let the object be there."""
        with self._lock, self._place.errors():
            self._file.close()
            self._file.commit()
            self._done = True

    def close(self) -> None:
        """Leave nothing but what was committed."""
        with self._lock:
            if self._done:
                return
            self._done = True
            # The storage may be away, which is why this is called. What it was sent in parts expires there.
            with contextlib.suppress(Exception):
                self._file.discard()
            # Closing it would send what is buffered, and with some clients commit the half of it.
            with contextlib.suppress(AttributeError):
                self._file.closed = True
