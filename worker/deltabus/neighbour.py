"""The process of this host that RQ's hash of a worker tells of: whether it is still there, and is still that one.

A number is given to another process once the first is gone: after a restart of the host or of a container, soon and
often. Linux tells when a process began (proc_pid_stat(5), `starttime`), and RQ when the worker registered.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deltabus import keys, rqdate

#: Seconds by which a process may seem to be younger than what it has registered: clocks are set.
SLACK: Final = 1.0

#: Place of `starttime` among the fields behind the command's name, which may hold anything.
_START: Final = 19

#: States of a process that has ended, and whose number its parent has not given free yet.
_ENDED: Final = ("Z", "X")

#: What tells a run of a kernel from others (random(4)), and the namespace of process numbers (namespaces(7)).
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE: Final = Path("/proc/self/ns/pid")


def home() -> str:
    """Where numbers of processes are this one's: the run of a kernel, and the namespace. Empty: nobody can tell.

    Containers of one host may have the same hostname, and each its own process 1.
    """
    try:
        return f"{_BOOT.read_text().strip()} {_NAMESPACE.readlink()}"
    except OSError:
        return ""


def lives_here(worker: Mapping[Any, Any]) -> bool:
    """Whether the process that registered this worker is there, on this host, and is not this one.

    Args:
        worker: RQ's hash of it, in bytes.
    """
    pid = _pid(worker)
    return pid not in {0, os.getpid()} and _is_of_this_host(worker) and _is_there(pid, worker)


def died_here(worker: Mapping[Any, Any]) -> bool:
    """Whether that process is certain to be gone: it had its number where this one has, and nobody there is it."""
    pid, here = _pid(worker), home().encode()
    registered_here = pid > 0 and here and worker.get(keys.HOME_FIELD.encode()) == here and _is_of_this_host(worker)
    return bool(registered_here) and not _is_there(pid, worker)


def _pid(worker: Mapping[Any, Any]) -> int:
    pid = worker.get(b"pid") or b""
    return int(pid) if pid.isdigit() else 0


def _is_of_this_host(worker: Mapping[Any, Any]) -> bool:
    return bool(worker.get(b"hostname") == socket.gethostname().encode())


def _is_there(pid: int, worker: Mapping[Any, Any]) -> bool:
    """Whether there is a process of that number which can have registered the worker."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    birth, (state, start) = rqdate.unix(worker.get(b"birth")), _stat(pid)
    return state not in _ENDED and (not birth or start is None or start <= birth + SLACK)


def _stat(pid: int) -> tuple[str, float | None]:
    """State of a process, and when it began, as Unix time in seconds; what this system does not tell is empty."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        up = int(fields[_START]) / os.sysconf("SC_CLK_TCK")
        return fields[0].decode(), time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + up
    except (OSError, AttributeError, IndexError, ValueError):
        return "", None
