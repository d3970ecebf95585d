"""What one Redis carries: what a delta, a message, a task and a stream cost it. ops/scaling.md reckons with that.

    python ops/bench/one_redis.py                   a table, and ops/bench/one_redis.json
    python ops/bench/one_redis.py --quick --out -   a shorter look, kept nowhere

A private Redis, one real worker process with the echo provider, nobody else. Costs are Redis' own counters (`INFO`), so
what else runs on the machine disturbs them little: by its caches, and as a worker that is late appends more at once.
Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from redis import Redis
from redis.connection import Connection

from deltabus import Bus, Task, keys, scripts
from deltabus.embedded import EmbeddedRedis
from sidebyside.machine import describe
from sidebyside.process import Process, started, wait_until
from sidebyside.redismeter import cost

#: Where the figures are kept.
RESULTS: Final = Path(__file__).with_name("one_redis.json")

#: Seconds that anything may take.
PATIENCE: Final = 120.0

#: Streams, and deltas a second of each.
LOADS: Final = ((100, 20.0), (500, 5.0), (500, 20.0), (500, 50.0))

#: The load at which messages are counted, and subscribers who get all of them.
LISTENED: Final = (500, 5.0)
LISTENERS: Final = 10

#: Seconds for which answers go on beyond what is measured, and in a shorter look, which is to succeed on any machine.
SPARE: Final = 20.0
QUICK_SPARE: Final = 200.0

#: Bytes of a provider's chunk.
CHUNK: Final = 200

#: Words of the answers whose memory is measured, beside those of one word.
LONG: Final = 500


class Listener:
    """A connection that gets every message and reads no further than it must; a context manager."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    def __enter__(self) -> Self:
        self._socket = socket.create_connection((self._address.hostname, self._address.port))
        self._socket.sendall(b"PSUBSCRIBE deltabus:*\r\n")
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _drain(self) -> None:
        while self._socket.recv(1 << 20):
            pass


class Bench:
    """A Redis, a worker and a producer."""

    def __init__(self, url: str, worker: Process, client: Redis, bus: Bus) -> None:
        self.url, self.worker, self.client, self.bus = url, worker, client, bus

    def start(self, streams: int, *, words: int, interval: float) -> list[Task]:
        """So many tasks, all of which have begun."""
        body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        echo = {"words": words, "interval": interval}
        tasks = self.bus.chat_many([{**body, "echo": echo} for _ in range(streams)])
        logs = [keys.log(task.id) for task in tasks]
        self.until(lambda: self.client.exists(*logs) == streams)
        return tasks

    def finish(self, tasks: list[Task]) -> None:
        """Cancel what runs; wait until everything is booked."""
        for task in tasks:
            task.cancel()
        self.until(lambda: not self.client.exists("rq:wip:chat", "rq:queue:chat"))
        self.client.flushall()

    def until(self, seen: Callable[[], bool]) -> None:
        wait_until(seen, PATIENCE, what="the tasks are where they should be", process=self.worker)

    def appended(self) -> int:
        """Events that have been appended to logs so far."""
        return int(self.client.info("commandstats").get("cmdstat_xadd", {"calls": 0})["calls"])

    def memory(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def window(self, seconds: float, deltas: float) -> dict[str, float]:
        """What Redis and the worker did, for each of so many deltas a second."""
        redis, events, cpu, began = cost(self.client), self.appended(), self.worker.cpu, time.monotonic()
        time.sleep(seconds)  # the load goes on meanwhile; this is the time over which it is measured
        self.until(lambda: self.appended() > events)
        taken = time.monotonic() - began
        count = deltas * taken
        figures = {name: (value - redis[name]) / count for name, value in cost(self.client).items()}
        return figures | {
            "cpu": figures["cpu"] * 1e6,
            "worker cpu": (self.worker.cpu - cpu) / count * 1e6,
            "events": (self.appended() - events) / count,
        }


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """A bench that is empty."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis() as server:
        environ = {"DELTABUS_REDIS_URL": server.url, "DELTABUS_CONCURRENCY": "1000"}
        command = [sys.executable, "-P", "-m", "deltabus.cli", "worker", "chat"]
        with (
            started(command, environ, Path(folder)) as worker,
            Redis.from_url(server.url) as client,
            Bus(server.url) as bus,
        ):
            wait_until(lambda: client.scard("rq:workers") == 1, PATIENCE, what="the worker is there", process=worker)
            yield Bench(server.url, worker, client, bus)


def loads(
    bench: Bench, seconds: float, cases: Sequence[tuple[int, float]] = LOADS, *, spare: float = SPARE
) -> Iterator[tuple[str, dict[str, float]]]:
    """A delta, at several loads, that nobody listens to; and what a listener more costs."""
    for streams, rate in cases:
        tasks = bench.start(streams, words=int(rate * (3 * seconds + spare)), interval=1 / rate)
        yield f"a delta, {streams} streams x {rate:g}/s", bench.window(seconds, streams * rate)
        if bench.client.zcard("rq:wip:chat") != streams:
            raise RuntimeError("streams have ended before they were measured: this machine is too slow for this load")
        if (streams, rate) == LISTENED:
            alone = bench.window(seconds, streams * rate)
            with contextlib.ExitStack() as listeners:
                for _ in range(LISTENERS):
                    listeners.enter_context(Listener(bench.url))
                heard = bench.window(seconds, streams * rate)
            messages = LISTENERS * heard["events"]
            names = ("cpu", "bytes out")
            yield "a message, delivered", {name: (heard[name] - alone[name]) / messages for name in names}
        bench.finish(tasks)


def full(bench: Bench, rounds: int) -> dict[str, float]:
    """Appends as many as Redis can take, from one who has nothing else to do: the worker's script, on one line."""
    streams, delta = 500, b'{"type":"delta","chunks":[%s]}' % (b"x" * CHUNK)
    bench.client.script_load(scripts.APPEND.source)
    logs = [keys.log(str(number)) for number in range(streams)]
    with bench.client.pipeline(transaction=False) as pipeline:
        for log in logs:
            pipeline.xadd(log, {keys.EVENT_FIELD: b"begun"}, id="1-0")
        pipeline.execute()
    pack = Connection().pack_commands  # beforehand: it takes longer than Redis does
    load = [
        (
            "EVALSHA",
            scripts.APPEND.sha,
            2,
            log,
            keys.cancel(str(number)),
            f"1-{n}",
            f"1-{n - 1}",
            delta,
            keys.events(str(number)),
            "",
            "0",
            "86400",
        )
        for n in range(1, rounds + 1)
        for number, log in enumerate(logs)
    ]
    data = b"".join(pack(load))
    address = urlsplit(bench.url)
    with socket.create_connection((address.hostname, address.port)) as line:
        sender = threading.Thread(target=line.sendall, args=(data,))
        before, began, answers = cost(bench.client), time.monotonic(), 0
        sender.start()
        while answers < len(load):
            answer = line.recv(1 << 20)
            if b"-" in answer or b"*" in answer:
                raise RuntimeError("Redis has refused an append")
            answers += answer.count(b"\r\n")
        seconds = time.monotonic() - began
        sender.join()
    cpu = cost(bench.client)["cpu"] - before["cpu"]
    bench.client.flushall()
    return {"cpu": cpu / len(load) * 1e6, "busy": cpu / seconds}


def memory(bench: Bench, tasks: int) -> Iterator[tuple[str, dict[str, float]]]:
    """What a task holds in Redis while it waits, while it runs, and after its end."""
    for words in (1, LONG):
        empty = bench.memory()
        done = bench.start(tasks, words=words, interval=0.0)
        bench.until(lambda: not bench.client.exists("rq:wip:chat", "rq:queue:chat"))
        yield f"an ended task of {words} deltas", {"memory": (bench.memory() - empty) / tasks}
        bench.finish(done)
    empty = bench.memory()
    running = bench.start(tasks, words=10, interval=3600.0)
    yield "a running task, its log not counted", {"memory": (bench.memory() - empty) / tasks}
    bench.finish(running)
    request = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    empty = bench.memory()
    bench.bus.chat_many([request] * tasks, queue="nobody")
    yield "a waiting task", {"memory": (bench.memory() - empty) / tasks}
    bench.client.flushall()


def process(bench: Bench) -> dict[str, float]:
    """What a worker process holds that has nothing to do; it is killed for that."""
    files, memory = len(list(Path(f"/proc/{bench.worker.pid}/fd").iterdir())), bench.worker.memory
    before = len(bench.client.client_list())
    bench.worker.kill()
    return {"connections": before - len(bench.client.client_list()), "files": files, "memory": memory}


def measured(*, quick: bool) -> dict[str, dict[str, float]]:
    """All figures of one run."""
    with bench() as there:
        figures = dict(loads(there, 1.0, LOADS[:2], spare=QUICK_SPARE) if quick else loads(there, 6.0))
        figures["a delta, a core full of them"] = full(there, 10 if quick else 200)
        figures |= memory(there, 100 if quick else 500)
        figures["a worker process, without its streams"] = process(there)
    return figures


def spread(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Of each figure the median, the least and the most."""
    return {
        case: {
            name: [float(f"{value:.4g}") for value in (statistics.median(seen), min(seen), max(seen))]
            for name in figures
            if (seen := [run[case][name] for run in runs])
        }
        for case, figures in runs[0].items()
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter and once")
    parser.add_argument("--out", default=str(RESULTS), metavar="FILE", help="where to; -: nowhere")
    options = parser.parse_args()
    machine: dict[str, Any] = describe()
    results = spread([measured(quick=options.quick) for _ in range(1 if options.quick else 3)])
    for case, figures in results.items():
        for name, (middle, least, most) in figures.items():
            print(f"{case:<40}{name:<14}{middle:>12.6g}   ({least:g} to {most:g})")
    if options.out != "-":
        kept = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine, "figures": results}
        Path(options.out).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
