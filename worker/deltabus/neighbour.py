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

from deltabus import rqdate

#: Seconds by which a process may seem to be younger than what it has registered: clocks are set.
SLACK: Final = 1.0

#: Place of `starttime` among the fields behind the command's name, which may hold anything.
_START: Final = 19


def lives_here(worker: Mapping[Any, Any]) -> bool:
    """Whether the process that registered this worker is there, on this host, and is not this one.

    Args:
        worker: RQ's hash of it, in bytes.
    """
    pid = int(worker.get(b"pid") or 0)
    if pid in {0, os.getpid()} or worker.get(b"hostname") != socket.gethostname().encode():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    birth, start = rqdate.unix(worker.get(b"birth")), _start(pid)
    return not birth or start is None or start <= birth + SLACK


def _start(pid: int) -> float | None:
    """When a process began, as Unix time in seconds; None: this system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        up = int(fields[_START]) / os.sysconf("SC_CLK_TCK")
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + up
    except (OSError, AttributeError, IndexError, ValueError):
        return None
