"""The chaos run and its command line."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import redis.asyncio
import redis.asyncio.retry
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.defaults import RQ_KEY_PREFIX

from chaos import plan as plans
from chaos.checker import check
from chaos.faults import Injector
from chaos.fleet import Fleet
from chaos.history import History, Job, Message
from chaos.plan import QUEUES, Plan
from chaos.producer import Producer
from chaos.provider import Provider
from chaos.proxy import Proxy
from chaos.subscribers import Followers, Observer
from chaos.summary import summarise, table
from chaos.topology import TOPOLOGIES
from deltabus import AsyncBus, connections, keys
from deltabus.topology import clients

#: Part of the run in which tasks are sent; the rest sees faults strike what is left.
SENDING: Final = 0.85

#: Seconds after which everything must have been struck, be back and have been accepted, beyond those of the run.
OVERTIME: Final = 300.0

#: Seconds that everything may take to end, once nothing is done to it any more.
PATIENCE: Final = 90.0

#: Seconds between two looks at whether it has.
LOOK: Final = 0.25

#: Patterns of the keys that exist only while something waits, runs or is being cancelled.
PASSING: Final = (
    f"{RQ_KEY_PREFIX}:queue:*",
    f"{RQ_KEY_PREFIX}:wip:*",
    f"{RQ_KEY_PREFIX}:execution*",
    f"{RQ_KEY_PREFIX}:scheduled:*",
    f"{RQ_KEY_PREFIX}:deferred:*",
    f"{RQ_KEY_PREFIX}:worker:*:*",
    f"{RQ_KEY_PREFIX}:workers*",
    keys.workers(RQ_KEY_PREFIX),
    f"{keys.PREFIX}:*:cancel",
)

#: Fields in which a job's hash keeps account of it while it waits or runs.
NOTES: Final = frozenset({"deltabus_open", "deltabus_lost", "deltabus_failures"})

#: RQ's registries of what has ended, and of what has not.
REGISTRIES: Final = ("finished", "failed", "canceled", "scheduled", "deferred", "wip")


class Run:
    """One run.

    Args:
        folder: gets the logs of the workers.
        topology: a name of `chaos.topology`.
    """

    def __init__(
        self, seed: int, tasks: int, seconds: float, workers: int, folder: Path, *, topology: str = "standalone"
    ) -> None:
        self._topology = topology
        self._plans = plans.make(seed, tasks, seconds * SENDING)
        self._seconds = seconds
        self._workers = workers
        self._folder = folder
        self._history = History(seed=seed)

    async def run(self) -> History:
        """Let it all happen; what has.

        Raises:
            ExceptionGroup: something could not be done to it, or not be undone.
            TimeoutError: something has not come back, or a task was not accepted.
        """
        async with AsyncExitStack() as stack:
            topology = stack.enter_context(TOPOLOGIES[self._topology](self._history.seed, self._folder))
            provider = stack.enter_context(Provider(self._history.seed, {plan.task: plan for plan in self._plans}))
            way = await stack.enter_async_context(Proxy(*topology.ports, url=topology.url))
            bus = await stack.enter_async_context(AsyncBus(way.url))
            blocking = clients.blocking(way.url, home=RQ_KEY_PREFIX, retry=Retry(NoBackoff(), 0), socket_timeout=10)
            stack.callback(blocking.close)
            once = redis.asyncio.retry.Retry(NoBackoff(), 0)
            plain = connections.asynchronous(blocking, retry=once, socket_timeout=10)
            stack.push_async_callback(plain.aclose)
            # A silent connection would deafen it for good.
            observer = Observer(clients.asynchronous(topology.url(topology.ports), home=RQ_KEY_PREFIX))
            await observer.start()
            fleet = Fleet(topology, self._workers, self._folder, provider.tables)
            stack.callback(fleet.kill)
            await fleet.start()
            producer = Producer(bus, plain, blocking)
            followers = Followers(bus, self._history.seed)
            injector = Injector(self._history.seed, fleet, topology, way, observer)
            async with asyncio.timeout(self._seconds + OVERTIME), asyncio.TaskGroup() as group:
                group.create_task(injector.run(self._seconds))
                load = group.create_task(self._send(producer, followers))
            say("nothing is done to it any more; waiting for the rest to end")
            history = self._history
            history.promises = producer.promises
            history.incidents, history.exits = injector.incidents, fleet.exits
            history.calls, history.watches = provider.calls, observer.watches
            history.followings = followers.followings
            stores = [clients.asynchronous(server.url) for server in topology.servers]
            for store in stores:
                stack.push_async_callback(store.aclose)
            async with clients.asynchronous(topology.url(topology.ports), home=RQ_KEY_PREFIX) as client:
                await self._ended(client, stores)
                await followers.end(load.result(), PATIENCE / 3)
                provider.close_the_books()
                await fleet.stop()
                await observer.stop()
                await self._read(client, stores)
            return history

    async def _send(self, producer: Producer, followers: Followers) -> list[asyncio.Task[None]]:
        """Send the tasks, each at its time, until all are accepted and cancelled; who still follows them."""
        start = time.monotonic()
        following: list[asyncio.Task[None]] = []

        async def send(plan: Plan) -> None:
            await producer.send(plan)
            following.extend(asyncio.create_task(followers.follow(plan.task, after)) for after in plan.followers)
            if plan.cancel_after is not None:
                await producer.cancel(plan)

        async with asyncio.TaskGroup() as group:
            for plan in self._plans:
                await asyncio.sleep(max(0.0, start + plan.at - time.monotonic()))
                group.create_task(send(plan))
        return following

    async def _ended(self, client: redis.asyncio.Redis, stores: Sequence[redis.asyncio.Redis]) -> None:
        """Wait until every log is sealed and nothing is left that only exists while something runs; not for ever."""
        deadline = time.monotonic() + PATIENCE
        open_tasks = set(self._history.promises)
        while time.monotonic() < deadline:
            for task in list(open_tasks):
                if await client.xrevrange(keys.log(task), keys.SEAL, keys.SEAL):
                    open_tasks.discard(task)
            running = [
                key
                for key in await self._passing(stores)
                if not key.startswith((f"{RQ_KEY_PREFIX}:workers", keys.workers(RQ_KEY_PREFIX)))
            ]
            if not open_tasks and not running:
                return
            await asyncio.sleep(LOOK)
        say(f"{len(open_tasks)} tasks have not ended in {PATIENCE:.0f} s")

    async def _passing(self, stores: Sequence[redis.asyncio.Redis]) -> list[str]:
        """Keys that only exist while something waits or runs."""
        return sorted(
            [key.decode() for store in stores for pattern in PASSING async for key in store.scan_iter(pattern, 1000)]
        )

    async def _runs_out(self, client: redis.asyncio.Redis, key: str) -> bool:
        """Whether it lists only workers that died before they had a lease: RQ forgets them with their hashes."""
        if not key.startswith(f"{RQ_KEY_PREFIX}:workers"):
            return False
        return all([await client.ttl(worker) > 0 for worker in await client.smembers(key)])

    async def _read(self, client: redis.asyncio.Redis, stores: Sequence[redis.asyncio.Redis]) -> None:
        """What is in Redis at the end."""
        history = self._history
        registries: dict[str, set[str]] = {}
        for kind in REGISTRIES:
            for queue in QUEUES:
                for member in await client.zrange(f"{RQ_KEY_PREFIX}:{kind}:{queue}", 0, -1):
                    assert isinstance(member, bytes)
                    task = member.decode().partition(":")[0]
                    registries.setdefault(task, set()).add(kind)
        for task in history.promises:
            async with client.pipeline(transaction=False) as pipe:
                pipe.xrange(keys.log(task))
                pipe.hgetall(f"{RQ_KEY_PREFIX}:job:{task}")
                pipe.xrange(f"{RQ_KEY_PREFIX}:results:{task}")
                entries, job, results = await pipe.execute()
            history.logs[task] = [
                Message(task, entry.decode(), fields[keys.EVENT_FIELD.encode()].decode()) for entry, fields in entries
            ]
            if job:
                history.jobs[task] = Job(
                    status=job.get(b"status", b"").decode(),
                    registries=frozenset(registries.get(task, ())),
                    results=tuple(int(fields[b"type"]) for _, fields in results),
                    notes=NOTES & {name.decode() for name in job},
                )
        history.leftovers = [
            f"{key} ({await _members(client, key)})"
            for key in await self._passing(stores)
            if not await self._runs_out(client, key)
        ]
        # Those of workers that have left run out by themselves.
        async for key in client.scan_iter(f"{RQ_KEY_PREFIX}:worker:*", 1000):
            if key.count(b":") == 2 + RQ_KEY_PREFIX.count(":") and await client.ttl(key) == -1:
                history.leftovers.append(key.decode())


async def _members(client: redis.asyncio.Redis, key: str) -> str:
    """What is in a set, to find out who left it there."""
    members: list[Any] = []
    kind: Any = await client.type(key)
    if kind == b"zset":
        members = await client.zrange(key, 0, 9)
    elif kind == b"set":
        members = list(await client.smembers(key))[:10]
    return ", ".join(member.decode() for member in members) or kind.decode()


def say(text: str) -> None:
    """A line about how far it is."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, check, tell. Returns the exit code: 1 if anything is violated."""
    options = _options().parse_args(arguments)
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    folder = Path(tempfile.mkdtemp(prefix="deltabus-chaos-"))
    say(
        f"chaos: {options.tasks} tasks in {options.seconds:g} s, {options.workers} workers, "
        f"--topology {options.topology} --seed {seed}"
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        run = Run(seed, options.tasks, options.seconds, options.workers, folder, topology=options.topology)
        try:
            history = runner.run(run.run())
        except BaseException:
            say(f"the run was broken off; worker logs: {folder}")
            raise
    violations = check(history)
    summary = summarise(history, violations)
    if options.json:
        found: list[dict[str, str]] = [msgspec.to_builtins(violation) for violation in violations]
        print(msgspec.json.encode(summary | {"violations": found}).decode())
    else:
        print(table(summary, violations))
    if violations or options.keep:
        history.save(folder / "history.json")
        say(f"history and worker logs: {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if violations else 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000, help="how many tasks are sent (default: 1000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for how long faults strike (default: 30)")
    parser.add_argument("--workers", type=int, default=4, help="worker processes at any time (default: 4)")
    parser.add_argument("--topology", choices=TOPOLOGIES, default="standalone", help="of Redis (default: standalone)")
    parser.add_argument("--seed", type=int, help="of a run that is to be repeated (default: another one each time)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, with every violation")
    parser.add_argument("--keep", action="store_true", help="keep history and worker logs although all is well")
    return parser


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform
        return None
    return uvloop.new_event_loop
