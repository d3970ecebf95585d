"""The Lua scripts: one atomic step each. A table at the head of every file names its keys and arguments."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis knows it."""

    name: str
    source: bytes
    #: What `EVALSHA` takes: the hexadecimal SHA-1 of the source.
    sha: bytes


def _read(name: str) -> Script:
    source = Path(__file__).with_name(f"{name}.lua").read_bytes()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


BEGIN = _read("begin")
APPEND = _read("append")
SEAL = _read("seal")
RENEW = _read("renew")
#: What the worker's side runs.
LOG = (BEGIN, APPEND, SEAL, RENEW)

BLOB_APPEND = _read("blob_append")
BLOB_LOOK = _read("blob_look")
BLOB_PUBLISH = _read("blob_publish")
#: What either side does with blobs.
BLOBS = (BLOB_APPEND, BLOB_LOOK, BLOB_PUBLISH)

ENQUEUE = _read("enqueue")
WITHDRAW = _read("withdraw")
CANCEL = _read("cancel")
#: What producers and subscribers run.
BUS = (ENQUEUE, WITHDRAW, SEAL, CANCEL, *BLOBS)

#: What the worker does with queues and RQ's records.
TAKE = _read("take")
FINISH = _read("finish")
BOOK = _read("book")
CEDE = _read("cede")
STATUSES = _read("statuses")
PUT_BACK = _read("put_back")
REAP = _read("reap")
DELETED = _read("deleted")
RELEASE = _read("release")
ADOPT = _read("adopt")
LOOK = _read("look")

FAILED = _read("failed")
REQUEUE = _read("requeue")
PURGE = _read("purge")
LEAVE = _read("leave")
REOPEN = _read("reopen")
FORGET = _read("forget")
#: What dead letters take.
DEAD = (FAILED, REQUEUE, PURGE, LEAVE, REOPEN, FORGET)

#: Those that find keys of RQ's by what they read, besides those that they are given.
FINDING = (TAKE, FINISH, BOOK, CEDE, REAP, RELEASE, ADOPT, PURGE)
