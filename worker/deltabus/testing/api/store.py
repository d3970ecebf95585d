"""What the server keeps: files, uploads in parts. Bytes are on disk, so that large ones cost no memory."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

#: Purposes that OpenAI knows.
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")


@dataclass(slots=True, kw_only=True)
class StoredFile:
    """A file at the provider."""

    id: str
    path: Path
    filename: str
    purpose: str
    #: What the form's part said of its type; None where it said nothing.
    media_type: str | None
    size: int
    sha256: str
    created_at: int
    expires_at: int | None = None

    @property
    def data(self) -> bytes:
        """All of it."""
        return self.path.read_bytes()

    def document(self) -> dict[str, Any]:
        """The file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


@dataclass(slots=True, kw_only=True)
class PendingUpload:
    """A file that comes in parts."""

    id: str
    filename: str
    purpose: str
    media_type: str
    size: int
    created_at: int
    expires_after: Mapping[str, Any] | None = None
    status: str = "pending"
    #: Part id -> where its bytes are.
    parts: dict[str, Path] = field(default_factory=dict)

    def document(self, file: dict[str, Any] | None = None) -> dict[str, Any]:
        """The upload object."""
        return {
            "id": self.id,
            "object": "upload",
            "bytes": self.size,
            "created_at": self.created_at,
            "expires_at": self.created_at + 3600,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": self.status,
            "file": file,
        }


class Spool:
    """Bytes on their way into the store, counted and hashed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._hash = hashlib.sha256()
        self._out: IO[bytes] = path.open("wb")

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._out.close()
        if kind is not None:
            self.path.unlink(missing_ok=True)

    def write(self, data: bytes | bytearray) -> None:
        self._out.write(data)
        self._hash.update(data)
        self.size += len(data)

    def change(self, by: int) -> None:
        """Make it longer by zeros, or shorter."""
        if by:
            self._out.truncate(self.size + by)
            self._out.flush()
            self.size += by
            self._hash = hashlib.sha256(self.path.read_bytes())


class Store:
    """Everything that is kept. Changed on the server's thread, read on any."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="deltabus-api-")
        self._numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.files: dict[str, StoredFile] = {}
        self.uploads: dict[str, PendingUpload] = {}
        #: Pictures that were drawn, by the name in their URL.
        self.pictures: dict[str, bytes] = {}

    def close(self) -> None:
        self._folder.cleanup()

    def spool(self) -> Spool:
        """A place for bytes."""
        return Spool(Path(self._folder.name) / f"{next(self._numbers)}.bin")

    def name(self, kind: str) -> str:
        """A new id, such as `file-3`."""
        return f"{kind}{next(self._numbers)}"

    def keep(
        self,
        spool: Spool,
        *,
        filename: str,
        purpose: str,
        media_type: str | None = None,
        expires_after: Mapping[str, Any] | None = None,
    ) -> StoredFile:
        """Make a file of bytes that are here."""
        now = int(time.time())
        stored = StoredFile(
            id=self.name("file-"),
            path=spool.path,
            filename=filename,
            purpose=purpose,
            media_type=media_type,
            size=spool.size,
            sha256=spool.sha256,
            created_at=now,
            expires_at=now + int(expires_after["seconds"]) if expires_after else None,
        )
        with self.lock:
            self.files[stored.id] = stored
        return stored

    def delete(self, file_id: str) -> bool:
        """Forget a file; whether there was one."""
        with self.lock:
            stored = self.files.pop(file_id, None)
        if stored is None:
            return False
        stored.path.unlink(missing_ok=True)
        return True

    def drop(self, upload: PendingUpload) -> None:
        """Forget the parts of an upload."""
        for path in upload.parts.values():
            path.unlink(missing_ok=True)
        upload.parts.clear()

    def join(self, paths: Iterable[Path]) -> Spool:
        """The parts of an upload as one."""
        spool = self.spool()
        with spool:
            for path in paths:
                with path.open("rb") as part:
                    while data := part.read(1 << 20):
                        spool.write(data)
        return spool
