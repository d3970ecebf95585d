"""What everything ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from deltabus.embedded import find_server
from sidebyside import environments
from sidebyside.environments import PEERS, NotInstalled


def describe() -> dict[str, Any]:
    """Processor, system, versions, and how busy the machine is with other things."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), "unknown")
    server = subprocess.run([find_server(), "--version"], check=True, capture_output=True, text=True)  # noqa: S603
    return {
        "processor": f"{model}, {len(os.sched_getaffinity(0))} processors",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "redis": server.stdout.split(" v=")[1].split()[0],
        "load": round(os.getloadavg()[0], 1),
        "ours": {
            name: importlib.metadata.version(name)
            for name in ("deltabus", "rq", "redis", "hiredis", "httpx", "aiohttp", "uvloop", "msgspec")
        },
    }


def peers() -> dict[str, dict[str, str]]:
    """Versions of the peers that could be installed."""
    found = {}
    for requirements in sorted((PEERS / "requirements").iterdir()):
        try:
            found[requirements.stem] = environments.versions(requirements.stem)
        except NotInstalled:
            continue
    return found
