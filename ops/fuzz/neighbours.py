"""Keys of another type than they should be, beside a job or for all jobs: the worker says so, and goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

import redis
from redis.client import Pipeline

from deltabus import keys
from fuzz import corpus
from fuzz.jobs import Worked
from fuzz.mutation import Mutator
from fuzz.subject import Begin
from fuzz.tally import Tally

#: Keys beside one job; `{}` is its id.
_BESIDE: Final[Sequence[str]] = (
    "rq:job:{}", "rq:job:{}:dependents", "rq:executions:{}", "rq:results:{}", "rq:job:{}:dependencies",
    "deltabus:{{{}}}:log", "deltabus:{{{}}}:cancel", "deltabus:{{{}}}:files",
)  # fmt: skip

#: Keys that all jobs, or the worker, have in common.
_SHARED: Final[Sequence[str]] = (
    "rq:wip:chat", "rq:finished:chat", "rq:failed:chat", "rq:deferred:chat", "rq:scheduled:chat", "rq:canceled:chat",
    "rq:queues",
    "rq:workers", "rq:workers:chat", "rq:queue:file", "rq:queue:chat:intermediate", "rq:clean_registries:chat",
    "rq:deltabus:workers",
    "rq:deltabus:reconciler", "deltabus:files", "rq:executions:{worker}", "rq:worker:{worker}:executions",
)  # fmt: skip

#: One in so many inputs is a key that all have in common: each of them takes a while.
_SHARED_IN: Final = 40

#: Jobs that are there while such a key is wrong, and seconds for which it is.
_JOBS: Final = 3
_WRONG_FOR: Final = 0.3


class Neighbours(Worked):
    """One wrong key each."""

    kind = "keys of wrong types"
    share = 1
    #: What the worker says, with a traceback, of a job that it cannot settle on a log that is none.
    expected: ClassVar[Sequence[str]] = (
        *Worked.expected,
        "could not be processed",
        "could not be given back",
        "begins again",
        "cannot take jobs",
        "failed to enqueue dependents",
    )

    def make(self, index: int) -> tuple[str, str, Any]:
        """A key, its type, and what it holds."""
        mutator = self.mutator(index)
        shared = index % _SHARED_IN == _SHARED_IN - 1
        name = mutator.random.choice(_SHARED if shared else _BESIDE)
        kind, value = _content(mutator)
        return name, kind, value

    def run(self, indices: Iterable[int], tally: Tally, begin: Begin) -> None:
        """See `Subject`."""
        beside: list[tuple[int, str, str, str]] = []
        pipeline = self.plant.redis.pipeline(transaction=False)
        first = -1
        for index in indices:
            name, kind, value = self.make(index)
            if name in _SHARED:
                begin(index)
                self._share(index, name, kind, value, tally)
                continue
            first = index if first < 0 else first
            job = f"{self.seed}-{index}"
            key = name.format(job)
            beside.append((index, job, key, kind))
            _enqueue(pipeline, job)
            _put(pipeline, key, kind, value)
            pipeline.rpush("rq:queue:chat", job)
        if beside:
            begin(first)
            start = time.perf_counter()
            pipeline.execute(raise_on_error=False)
            if not self.plant.rests():
                tally.violate(first, "hang", "jobs are left")
            self.look(first, tally)
            seconds = (time.perf_counter() - start) / len(beside)
            for index, job, key, kind in beside:
                tally.note(index, self._outcome(index, job, key, kind, tally), seconds)

    def _outcome(self, index: int, job: str, key: str, kind: str, tally: Tally) -> str:
        status = _asked(self.plant.redis.hget, f"rq:job:{job}", "status")
        newest = _asked(self.plant.redis.xrevrange, keys.log(job), count=1)
        sealed = isinstance(newest, list) and bool(newest) and newest[0][0] == keys.SEAL.encode()
        what = key.replace(job, "<task>")
        if sealed or status in (b"failed", b"finished", b"canceled"):
            return f"{what}: {'settled' if sealed else 'failed without a log'}"
        if status is None or isinstance(status, Exception):
            return f"{what}: dropped"
        tally.violate(index, "broken", f"{key} is a {kind}: {status!r}, log {newest!r}")
        return "not ended"

    def _share(self, index: int, name: str, kind: str, value: Any, tally: Tally) -> None:
        """Put the wrong key in place of the right one for a while, with jobs to be run; then all must end."""
        self.plant.rests()
        start = time.perf_counter()
        client, key = self.plant.redis, name.format(worker=self.plant.name)
        aside = f"fuzz:{key}"
        there = client.exists(key)
        if there:
            client.rename(key, aside)
        pipeline = client.pipeline(transaction=False)
        _put(pipeline, key, kind, value)
        pipeline.execute(raise_on_error=False)
        for number in range(_JOBS):
            pipeline = client.pipeline(transaction=False)
            _enqueue(pipeline, f"{self.seed}-{index}-{number}")
            pipeline.rpush("rq:queue:chat", f"{self.seed}-{index}-{number}")
            pipeline.execute()
        time.sleep(_WRONG_FOR)
        client.delete(key)
        if there:
            client.rename(aside, key)
        if not self.plant.rests():
            tally.violate(index, "broken", f"{key} was a {kind} for a while, and jobs are left")
        self.look(index, tally)
        tally.note(index, f"{name}: got over", time.perf_counter() - start)


def _content(mutator: Mutator) -> tuple[str, Any]:
    text = mutator.text().encode(errors="surrogatepass")
    return mutator.random.choice(
        (
            ("string", text),
            ("list", [text, b"x"]),
            ("set", [text]),
            ("zset", {text: 1.0}),
            ("hash", {text: b"1"}),
            ("stream", {text: b"1"}),
        )
    )


def _put(pipeline: Pipeline, key: str, kind: str, value: Any) -> None:
    pipeline.delete(key)
    match kind:
        case "string":
            pipeline.set(key, value)
        case "list":
            pipeline.rpush(key, *value)
        case "set":
            pipeline.sadd(key, *value)
        case "zset":
            pipeline.zadd(key, value)
        case "hash":
            pipeline.hset(key, mapping=value)
        case "stream":
            pipeline.xadd(key, value, id="1-0")


def _enqueue(pipeline: Pipeline, job: str) -> None:
    data = json.dumps(["deltabus.tasks.chat", None, [{"request": corpus.CHATS[0]}], {}])
    fields: dict[Any, Any] = {**corpus.HASH, "data": data}
    pipeline.hset(f"rq:job:{job}", mapping=fields)


def _asked(ask: Any, *args: Any, **options: Any) -> Any:
    try:
        return ask(*args, **options)
    except redis.ResponseError as exc:
        return exc
