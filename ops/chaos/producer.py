"""Puts the tasks on the bus as many kinds of producers do, until each is accepted; cancels some of them."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import msgspec
import redis.asyncio
from redis.exceptions import RedisError
from rq import Queue
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job

from chaos.history import Promise
from chaos.plan import Plan
from deltabus import AsyncBus, keys
from deltabus.errors import BusUnavailable, TaskExists

CHAT: Final = "deltabus.tasks.chat"

#: Seconds between two tries of a producer who could not reach Redis.
AGAIN: Final = 0.2


class Producer:
    """All producers of a run.

    Args:
        bus: of the producers that have Python and deltabus.
        client: of those that have only Redis.
        connection: of those that have stock RQ; it blocks.
    """

    def __init__(self, bus: AsyncBus, client: redis.asyncio.Redis, connection: redis.Redis) -> None:
        self._bus = bus
        self._redis = client
        self._connection = connection
        #: Tasks that were accepted, by id.
        self.promises: dict[str, Promise] = {}
        #: Tries that did not reach Redis, or whose answer was lost, and were made again.
        self.retries = 0
        #: Cancels that came in time, or so it was said.
        self.cancels = 0

    async def send(self, plan: Plan) -> None:
        """Enqueue a task, under its one id, as often as it takes."""
        sent_at = time.time()
        send = {"bus": self._by_bus, "rq": self._by_rq, "commands": self._by_commands}[plan.producer]
        while True:
            try:
                await send(plan)
                break
            except TaskExists:  # the answer to an earlier try was lost
                break
            except (BusUnavailable, RedisError, OSError):
                self.retries += 1
                await asyncio.sleep(AGAIN)
        self.promises[plan.task] = Promise(
            task=plan.task,
            queue=plan.queue,
            kind=plan.kind,
            sent_at=sent_at,
            accepted_at=time.time(),
            outcomes=plan.outcomes,
            text=plan.text,
            uncalled=plan.uncalled,
        )

    async def cancel(self, plan: Plan) -> None:
        """Cancel a task, in the way that is planned."""
        assert plan.cancel_after is not None
        await asyncio.sleep(plan.cancel_after)
        while True:
            try:
                if plan.canceller == "bus":
                    self.cancels += await self._bus.task(plan.task).cancel("as planned")
                else:
                    self.cancels += await self._cancel_by_commands(plan.task, tells=plan.canceller == "commands")
            except (BusUnavailable, RedisError, OSError):
                await asyncio.sleep(AGAIN)
            else:
                return

    async def _by_bus(self, plan: Plan) -> None:
        await self._bus.enqueue(CHAT, plan.envelope, queue=plan.queue, task_id=plan.task)

    async def _by_rq(self, plan: Plan) -> None:
        await asyncio.to_thread(self._enqueue_with_rq, plan)

    def _enqueue_with_rq(self, plan: Plan) -> None:
        # RQ does not mind a job of that id: whoever is not sure has to look.
        if not Job.exists(plan.task, connection=self._connection):
            queue = Queue(plan.queue, connection=self._connection, serializer="json")
            queue.enqueue(CHAT, plan.envelope, job_id=plan.task)

    async def _by_commands(self, plan: Plan) -> None:
        """What `ops/protocol.md` tells other languages to do."""
        key = f"{RQ_KEY_PREFIX}:job:{plan.task}"
        if await self._redis.exists(key):
            return
        call = plan.payload or msgspec.json.encode([CHAT, None, [plan.envelope], {}])
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        async with self._redis.pipeline(transaction=True) as pipe:
            fields: dict[Any, Any] = {"data": call, "origin": plan.queue, "status": "queued", "created_at": now}
            pipe.hset(key, mapping=fields | {"enqueued_at": now})
            pipe.sadd(f"{RQ_KEY_PREFIX}:queues", f"{RQ_KEY_PREFIX}:queue:{plan.queue}")
            pipe.rpush(f"{RQ_KEY_PREFIX}:queue:{plan.queue}", plan.task)
            await pipe.execute()

    async def _cancel_by_commands(self, task: str, *, tells: bool) -> bool:
        """Store the wish and announce it, or lose the announcement. One that comes too late is taken back."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(keys.cancel(task), "as planned", ex=keys.CANCEL_TTL)
            if tells:
                pipe.publish(keys.CANCEL_CHANNEL, task)
            pipe.xrevrange(keys.log(task), count=1)
            *_, last = await pipe.execute()
        if last and last[0][0].decode() == keys.SEAL:
            await self._redis.delete(keys.cancel(task))
            return False
        return True
