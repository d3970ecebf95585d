"""What an `AsyncWorker` does besides running jobs: heartbeats, leases, commands, cancels, RQ's maintenance."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from rq.job import JobStatus
from rq.worker.base import WorkerStatus

from deltabus import keys, rhythm, telemetry
from deltabus.engine import Engine
from deltabus.outage import Outage
from deltabus.temporary import TemporaryFiles
from deltabus.worker.intake import Intake
from deltabus.worker.ledger import EXECUTION_TTL, Ledger
from deltabus.worker.reconciler import Reconciler
from deltabus.worker.recovery import Recovery
from deltabus.worker.slot import Slot

if TYPE_CHECKING:
    from deltabus.worker import AsyncWorker

log = structlog.get_logger("deltabus.worker")

#: Seconds between two renewals of RQ's own leases, which last `ledger.EXECUTION_TTL`.
RQ_LEASE_INTERVAL: Final = 30.0

#: Seconds before maintenance that met an outage is tried again.
MAINTAIN_AGAIN: Final = 5.0

#: Seconds before a lost subscription is made anew.
RECONNECT: Final = 0.5

#: Seconds that a duty may take to hear that it is over, before it is told again.
CANCEL_AGAIN: Final = 0.2


class Vigil:
    """The background duties of one shift.

    Args:
        slots: the jobs that are running at any moment.
        stop: called for RQ's shutdown command.
        give_way: called when another worker has this one's name.
        outage: is told when Redis is away.
    """

    def __init__(
        self,
        worker: AsyncWorker,
        redis: Redis,
        *,
        engine: Engine,
        ledger: Ledger,
        intake: Intake,
        recovery: Recovery,
        reconciler: Reconciler,
        temporary: TemporaryFiles,
        slots: Collection[Slot],
        stop: Callable[[], None],
        give_way: Callable[[], None],
        outage: Outage,
    ) -> None:
        self._worker = worker
        self._redis = redis
        self._engine = engine
        self._ledger = ledger
        self._intake = intake
        self._recovery = recovery
        self._reconciler = reconciler
        self._temporary = temporary
        self._slots = slots
        self._stop = stop
        self._give_way = give_way
        self._outage = outage
        self._shown: WorkerStatus | None = None
        #: Seconds after a look for work that belongs to nobody at which there is some.
        self._patrol_due = math.inf
        #: Commands have been asked for: none that is meant for a job of this worker is missed.
        self._listening = asyncio.Event()
        self._rq_leases_due = time.monotonic() + RQ_LEASE_INTERVAL

    @contextlib.asynccontextmanager
    async def kept(self, stopped: asyncio.Event) -> AsyncIterator[None]:
        """Keep vigil while the block runs. It is entered with a lease, or when the worker is told to stop."""
        await self._get_a_lease(stopped)
        every = (self._patrol, self._beat, self._listen, self._maintain, self._reconcile)
        duties = [asyncio.create_task(_lastingly(duty)) for duty in every]
        try:
            await self._listening.wait()
            yield
        finally:
            # Python 3.11's wait_for, in which redis-py sends, may swallow a cancellation (python/cpython#86296).
            pending = set(duties)
            while pending:
                for duty in pending:
                    duty.cancel()
                _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN)

    async def show(self, status: WorkerStatus) -> None:
        """Let RQ's tools see the worker's state, where it has changed."""
        if status is not self._shown:
            await self._redis.hset(self._worker.key, "state", status.value)
            self._worker._state = status.value  # noqa: SLF001 # set_state() would block the loop
            self._shown = status

    async def _get_a_lease(self, stopped: asyncio.Event) -> None:
        """Nothing may be taken without one."""
        while not (stopped.is_set() or await self._patrol_once(born=True)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), RECONNECT)

    async def _patrol(self) -> None:
        while True:
            await asyncio.sleep(min(self._pause(), self._patrol_due))
            await self._patrol_once()

    def _pause(self) -> float:
        """Seconds until all is done that can wait."""
        return rhythm.pause(rhythm.period(self._worker.settings.lease))

    async def _patrol_once(self, *, born: bool = False) -> bool:
        began = time.monotonic()
        try:
            self._patrol_due = await self._recovery.patrol({slot.task for slot in self._slots}, born=born)
        except (RedisError, OSError) as exc:
            self._patrol_due = RECONNECT
            self._outage.meets("lease", exc)
            return False
        self._intake.doubt(self._recovery.waiting, began)
        self._outage.is_over_for("lease")
        return True

    async def _beat(self) -> None:
        """While nothing runs, once a lease is enough to see that Redis has lost this worker, or given its name away.

        What RQ's tools know of a worker expires after its `worker_ttl`, however long the lease.
        """
        due = time.monotonic()
        while True:
            if self._slots or self._shown is WorkerStatus.BUSY or time.monotonic() >= due:
                try:
                    await self._beat_once()
                    self._outage.is_over_for("heartbeat")
                    due = time.monotonic() + min(self._worker.settings.lease, self._worker.worker_ttl)
                except (RedisError, OSError) as exc:
                    self._outage.meets("heartbeat", exc)
            pause = self._worker.settings.heartbeat_interval
            await asyncio.sleep(pause if self._slots else min(pause, self._pause()))

    async def _beat_once(self) -> None:
        await self._show_again()
        pipeline = self._redis.pipeline(transaction=False)
        self._worker.heartbeat(pipeline=pipeline)  # type: ignore[arg-type] # it only composes commands
        pipeline.expire(self._worker.executions_key, EXECUTION_TTL)  # RQ's heartbeat gives it minutes
        pipeline.hmget(self._worker.key, ["hostname", "pid"])
        created, *_, registered = await pipeline.execute()
        if registered[0] and not self._worker.is_registered_as(*registered):
            self._give_way()
            return
        if created:  # Redis lost the worker's hash, or this process slept for longer than it lives
            await asyncio.to_thread(self._worker.register_again)
            self._shown = None
            await self._show_again()
        await self._engine.renew()
        await self._look_after_jobs()

    async def _show_again(self) -> None:
        if self._shown is not WorkerStatus.SUSPENDED:
            await self.show(WorkerStatus.BUSY if self._slots else WorkerStatus.IDLE)

    async def _look_after_jobs(self) -> None:
        """See what `job.cancel()` and `job.delete()` did, as RQ tells nobody; renew its leases of the rest."""
        slots = [slot for slot in self._slots if slot.execution is not None]
        statuses = await self._ledger.statuses([slot.job for slot in slots])
        running = []
        missing: dict[str, Slot] = {}
        for slot, status in zip(slots, statuses, strict=True):
            if status is None:
                missing[slot.task] = slot
            elif status == JobStatus.CANCELED:
                slot.cancel("cancelled through RQ")
            elif slot.execution is not None:
                running.append((slot.job, slot.execution))
        if missing:
            # Redis may have lost them, in a failover. Then it has lost their logs too, which are younger.
            for task in missing.keys() - await self._engine.lost(missing):
                missing[task].forget()
        if time.monotonic() >= self._rq_leases_due:
            self._rq_leases_due = time.monotonic() + RQ_LEASE_INTERVAL
            await self._ledger.renew(running)

    async def _listen(self) -> None:
        """Commands to this worker, and cancels to anybody. What is lost while Redis is away, heartbeats find."""
        was_connected = False
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    await pubsub.subscribe(self._worker.pubsub_channel_name, keys.CANCEL_CHANNEL)
                    if was_connected:
                        telemetry.observer().reconnected("commands")
                    was_connected = True
                    self._listening.set()
                    await self._hear(pubsub)
            except (RedisError, OSError) as exc:
                self._listening.set()  # it can wait no longer
                self._outage.meets("commands", exc)
            await asyncio.sleep(RECONNECT)

    async def _hear(self, pubsub: PubSub) -> None:
        """Receive what comes, until the line is dead. One that is silent is asked whether it lives."""
        asked, patience = False, self._worker.settings.lease / 2
        while True:
            message = await pubsub.get_message(timeout=patience if asked else rhythm.pause(patience))
            if message is None:
                if asked:
                    raise RedisConnectionError("the line on which commands come is dead")
                await pubsub.ping()
            elif message["type"] == "message":
                await self._receive(message)
            asked = message is None
            if not asked:
                self._outage.is_over_for("commands")

    async def _receive(self, message: dict[str, Any]) -> None:
        if message["channel"] == keys.CANCEL_CHANNEL.encode():
            task = message["data"].decode(errors="replace")
            for slot in list(self._slots):
                if slot.task == task:
                    reason = await self._redis.get(keys.cancel(task))
                    if reason is not None:  # A message alone, anybody might send who may tell of one task.
                        slot.cancel(str(reason, "utf-8", "replace") if isinstance(reason, bytes) else reason)
            return
        try:
            command = msgspec.json.decode(message["data"], type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            log.warning("a command that is not a JSON object was ignored")
            return
        self._obey(command)

    def _obey(self, command: dict[str, Any]) -> None:
        """RQ's commands: see `rq.command`."""
        kind = command.get("command")
        if kind == "shutdown":
            self._stop()
        elif kind in ("stop-job", "stop-execution"):
            wanted = command.get("execution_id") if kind == "stop-execution" else None
            for slot in list(self._slots):
                execution = slot.execution.id if slot.execution else None
                if slot.task == command.get("job_id") and wanted in (None, execution):
                    slot.stop()
        else:
            log.warning("a command that has no meaning here was ignored", command=str(kind)[:50])

    async def _maintain(self) -> None:
        """RQ's maintenance, in a thread, as often as RQ does it."""
        while True:
            pause = float(self._worker.maintenance_interval)
            try:
                await asyncio.to_thread(self._worker.run_maintenance_tasks)
                self._outage.is_over_for("maintenance")
            except (RedisError, OSError) as exc:
                self._outage.meets("maintenance", exc)
                self._worker.leave_replica(exc)
                pause = MAINTAIN_AGAIN
            await asyncio.sleep(pause)

    async def _reconcile(self) -> None:
        while True:
            await asyncio.sleep(self._reconciler.interval)
            try:
                if await self._reconciler.go_round():
                    await self._temporary.sweep()
                self._outage.is_over_for("reconciliation")
            except (RedisError, OSError) as exc:
                self._outage.meets("reconciliation", exc)


async def _lastingly(duty: Callable[[], Awaitable[None]]) -> None:
    """Whatever a duty meets, it begins again: without its heart, a healthy worker would be taken for dead."""
    while True:
        try:
            await duty()
        except Exception:
            log.exception("a duty of the worker failed, and begins again", duty=duty.__name__.strip("_"))
        await asyncio.sleep(RECONNECT)
