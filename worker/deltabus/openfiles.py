"""How many files a worker process may have open: as many as its tasks take, as far as the system lets it."""

from __future__ import annotations

import resource
from typing import Final

import structlog

#: Open files that a process needs whatever it runs: Redis, logs, modules, the loop.
ASIDE: Final = 64

#: Open files of an attempt: its connection to the provider, and one for a file that it fetches.
EACH: Final = 2

log = structlog.get_logger("deltabus.worker")


def wanted(concurrency: int) -> int:
    """Files that are open at once at the most, with so many attempts."""
    return concurrency * EACH + ASIDE


def most() -> int:
    """The hard limit of this process: what it may give itself."""
    return _finite(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def allow(concurrency: int) -> None:
    """Raise this process' soft limit to what so many attempts take; where it may not, that is said.

    Many systems give processes 1,024, so that those which use select() do not break, and let all others have more.
    """
    need = wanted(concurrency)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _finite(soft) >= need:
        return
    limit = min(need, _finite(hard))
    if limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < need:
        log.warning("fewer files may be open than `concurrency` takes: raise LimitNOFILE=", limit=limit, wanted=need)


def _finite(limit: int) -> int:
    return 1 << 62 if limit == resource.RLIM_INFINITY else limit
