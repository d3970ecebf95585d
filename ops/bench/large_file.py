"""Measures how much a worker's memory grows while a large file goes through it, up and down.

    python ops/bench/large_file.py                 1 GiB from a path, from a blob, and back into a blob
    python ops/bench/large_file.py --mib 64 --limit 32

Everything is real and private: a Redis, a worker process, a server that speaks OpenAI's API on a socket. The worker is
warmed up by a small file first, so that what is measured is the file and not the code. Exit code 1: it grew by more
than the limit, or what came out is not what went in. Linux only: it reads `VmHWM`, the most that a process has had
in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from deltabus import Bus, Task
from deltabus.embedded import EmbeddedRedis
from deltabus.testing.api import ApiServer

MIB: Final = 1024 * 1024

#: Seconds that one transfer may take.
PATIENCE: Final = 900


def most_memory(process: int) -> int:
    """Bytes that the process has had in memory at the most."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def worker(redis_url: str, server: ApiServer, folder: Path) -> Iterator[int]:
    """A worker process; its id."""
    variables = {
        "DELTABUS_REDIS_URL": redis_url,
        "DELTABUS_FILE_ROOTS": str(folder),
        "OPENAI_API_KEY": "sk-bench-0123456789",
        "OPENAI_BASE_URL": server.url,
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DELTABUS_", "OPENAI_"))}
    command = [sys.executable, "-m", "deltabus.cli", "worker"]
    process = subprocess.Popen(  # noqa: S603 # our own program
        command, cwd=folder, env=environ | variables, stderr=subprocess.DEVNULL
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def write(path: Path, mib: int) -> str:
    """A file of random bytes; its digest."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(mib):
            digest.update(piece := os.urandom(MIB))
            file.write(piece)
    return digest.hexdigest()


class Report:
    """What was measured, a line each."""

    def __init__(self, limit: int) -> None:
        self.failed = False
        self._limit = limit

    def measure(self, what: str, process: int, begin: Callable[[], Task], mib: int) -> dict[str, object]:
        """Wait for a transfer, and say how much memory it took."""
        before, begun = most_memory(process), time.monotonic()
        result = begin().result(timeout=PATIENCE)
        grown, seconds = most_memory(process) - before, time.monotonic() - begun
        self.failed |= grown > self._limit
        print(
            f"{what:<22} {mib:>5} MiB in {seconds:6.1f} s ({mib / seconds:4.0f} MiB/s)  "
            f"worker {before / MIB:5.1f} MiB, grew by {grown / MIB:5.1f} MiB",
            flush=True,
        )
        assert isinstance(result, dict)
        return result

    def compare(self, what: str, found: object, wanted: str) -> None:
        """Say so where the bytes are other ones."""
        if found != wanted:
            self.failed = True
            print(f"{what}: the bytes are not the same")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024, help="size of the file (1024)")
    parser.add_argument("--limit", type=int, default=32, help="MiB that the worker may grow by (32)")
    options = parser.parse_args()
    report = Report(options.limit * MIB)
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis() as redis,
        ApiServer() as server,
        Bus(redis.url) as bus,
    ):
        folder = Path(name).resolve()
        digest = write(path := folder / "large.bin", options.mib)
        for what in ("path", "blob"):
            with worker(redis.url, server, folder) as process:
                bus.download(bus.upload(b"warm" * MIB, filename="warm.bin").result(PATIENCE)["id"]).result(PATIENCE)
                source = {"path": str(path)} if what == "path" else {"blob": bus.blob(path)}
                made = report.measure(f"upload from a {what}", process, lambda s=source: send(bus, s), options.mib)
                report.compare("upload", server.files[-1].sha256, digest)
                if what == "blob":
                    bus.delete_blob(source["blob"])
                    file_id = str(made["id"])
                    kept = report.measure("download to a blob", process, lambda f=file_id: fetch(bus, f), options.mib)
                    report.compare("download", kept["sha256"], digest)
                bus.delete_file(str(made["id"])).result(PATIENCE)
    return 1 if report.failed else 0


def send(bus: Bus, source: Mapping[str, str]) -> Task:
    """Begin an upload."""
    return bus.upload(source, filename="large.bin", timeout=PATIENCE)


def fetch(bus: Bus, file_id: str) -> Task:
    """Begin a download."""
    return bus.download(file_id, timeout=PATIENCE)


if __name__ == "__main__":
    sys.exit(main())
