"""The worker processes: `deltabus worker`, each behind a proxy of its own, replaced when it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rq.defaults import RQ_KEY_PREFIX

from chaos.history import Exit
from chaos.plan import QUEUES
from chaos.proxy import Proxy
from chaos.topology import Topology

#: Seconds after which a worker counts as dead. Short, and long enough for a machine that is busy.
LEASE: Final = 3.0

#: Seconds for which a worker that is told to leave may go on.
DRAIN: Final = 1.5

#: Seconds after which a worker that is told to leave has to be gone.
LEAVING: Final = 60.0

#: Exit codes of a worker that had not begun to work: Redis was away, or SIGTERM came before there was a handler.
UNSTARTED: Final = frozenset({3, -signal.SIGTERM})

#: How the workers are set up, besides what a run needs.
SETTINGS: Final[Mapping[str, str]] = {
    "lease": f"{LEASE}",
    "heartbeat_interval": "0.8",
    "drain_timeout": f"{DRAIN}",
    "concurrency": "80",
    "job_timeout": "60",
    # Faults come faster than anywhere else: no task is to fail because of that alone.
    "max_deliveries": "1000",
    "max_retries": "20",
    "retry_delay": "0.05",
    "max_retry_delay": "2",
    # Some waits are spent in a slot, and some in RQ's scheduled registry.
    "park_after": "0.5",
    # The longest answers outgrow it.
    "max_log_bytes": "8000",
    "log_format": "json",
}


class Worker:
    """One process."""

    def __init__(self, proxy: Proxy, process: asyncio.subprocess.Process, prefix: str) -> None:
        self.proxy = proxy
        self._process = process
        #: Its name on the bus: `deltabus worker --supervised` adds the process id.
        self.name = f"{prefix}.{process.pid}"
        self.started_at = time.time()
        #: Somebody strikes it or has: nobody else should.
        self.struck = False
        #: It was told to leave.
        self.asked = False
        self.killed = False

    @property
    def gone(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True
        self.signal(signal.SIGKILL)

    def leave(self) -> None:
        """SIGTERM."""
        self.asked = True
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self) -> int:
        """Wait for its end; the exit code."""
        return await self._process.wait()


class Fleet:
    """Keeps `size` workers running until it is told to stop.

    Args:
        redis: which they work on.
        folder: gets the workers' output and configuration.
        providers: tables of `deltabus.toml`.
    """

    def __init__(self, redis: Topology, size: int, folder: Path, providers: str) -> None:
        self._redis = redis
        self._size = size
        self._folder = folder
        self._count = 0
        self._keepers: set[asyncio.Task[None]] = set()
        self._stopping = False
        #: Those who run, or are about to end.
        self.workers: list[Worker] = []
        #: How those ended that were not killed.
        self.exits: list[Exit] = []
        lines = [f"{key} = {value if value[0].isdigit() else repr(value)}" for key, value in SETTINGS.items()]
        (folder / "deltabus.toml").write_text("\n".join([*lines, "", providers]), encoding="utf-8")

    async def start(self) -> None:
        """Start all of them, and keep their number."""
        for _ in range(self._size):
            await self._start_one()

    async def stop(self) -> None:
        """Let all of them leave, and wait for it; who does not is killed, and has crashed."""
        self._stopping = True
        for worker in self.workers:
            worker.leave()
        if self._keepers:
            await asyncio.wait(self._keepers, timeout=LEAVING)
        for worker in self.workers:
            self.exits.append(Exit(worker=worker.name, code=-signal.SIGKILL, asked=True))
            worker.kill()

    def kill(self) -> None:
        """End all of them at once: the run is over."""
        self._stopping = True
        for worker in self.workers:
            worker.kill()

    async def replace(self, worker: Worker) -> None:
        """Start another one although this one is still there."""
        worker.asked = True
        await self._start_one()

    async def _start_one(self) -> None:
        self._count += 1
        prefix = f"w{self._count}"
        proxy = await Proxy(*self._redis.ports, url=self._redis.url).__aenter__()
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith(("DELTABUS_", "OPENAI_", "RQ_"))
        }
        environ |= {"DELTABUS_REDIS_URL": proxy.url, "RQ_KEY_PREFIX": RQ_KEY_PREFIX, "PYTHONUNBUFFERED": "1"}
        with (self._folder / f"{prefix}.log").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "deltabus.cli", "worker", *QUEUES, "--supervised", "--name", prefix),
                cwd=self._folder,
                env=environ,
                stdin=asyncio.subprocess.PIPE,  # its end ends the worker, should this process be killed
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl+C is for this process
            )
        worker = Worker(proxy, process, prefix)
        self.workers.append(worker)
        keeper = asyncio.create_task(self._keep(worker))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    async def _keep(self, worker: Worker) -> None:
        """See it end, and start another one unless one was started already."""
        code = await worker.end()
        self.workers.remove(worker)
        await worker.proxy.__aexit__()
        if not (worker.killed or (code in UNSTARTED and not worker.proxy.works)):
            self.exits.append(Exit(worker=worker.name, code=code, asked=worker.asked))
        if not self._stopping and not worker.asked:
            await self._start_one()
