"""What a program that measures itself counts, and prints: deltas and CPU seconds of a window, and memory."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, NoReturn


class Window:
    """Opens some seconds after the first delta, and closes some seconds later.

    Args are those of the program: the URL, the number of streams, the seconds before and in the window.
    """

    def __init__(self) -> None:
        self.url = sys.argv[1]
        self.streams = int(sys.argv[2])
        self._before, self._seconds = map(float, sys.argv[3:5])
        #: Deltas so far.
        self.deltas = 0
        #: Seconds from a delta's writing to its being read, of those in the window.
        self.latencies: list[float] = []
        self._begun = asyncio.Event()
        self._is_open = False

    def add(self, data: bytes) -> None:
        """Count what was read."""
        if count := data.count(b'"@'):
            self.deltas += count
            if self._is_open:
                now = time.monotonic()
                self.latencies += (now - int(part[:16]) / 1e6 for part in data.split(b'"@')[1:] if part[16:17] == b"@")
            self._begun.set()

    async def measure(self, streams: Iterable[Coroutine[Any, Any, None]]) -> NoReturn:
        """Run the streams, and print what happened, as JSON, when the window has closed: then the program ends."""
        running = [asyncio.create_task(stream) for stream in streams]
        await self._begun.wait()
        await asyncio.sleep(self._before)
        self._is_open = True
        deltas, cpu, wall = self.deltas, time.process_time(), time.monotonic()
        await asyncio.sleep(self._seconds)
        figures = {
            "deltas": self.deltas - deltas,
            "cpu": time.process_time() - cpu,
            "wall": time.monotonic() - wall,
            "memory": _memory(),
            "latencies": sorted(self.latencies)[:: max(1, len(self.latencies) // 10_000)],
        }
        print(json.dumps(figures | {"streams": len(running)}), flush=True)
        os._exit(0)  # to close them in good order takes longer than the window


def _memory() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
