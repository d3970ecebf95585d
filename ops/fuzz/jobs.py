"""Job hashes against a running worker: each ends in exactly one way, and the worker goes on as if nothing had been."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

import msgspec

from deltabus import events, keys
from deltabus.events import Cancelled, Completed, Failed, Terminal
from fuzz import corpus
from fuzz.mutation import Mutator
from fuzz.parsers import worse_envelope
from fuzz.plant import Plant
from fuzz.subject import Begin, Subject
from fuzz.tally import Tally

#: What RQ's records say of a job that has ended so.
_STATUSES: Final = {
    Completed: {b"finished"},
    Failed: {b"failed"},
    Cancelled: {b"canceled", b"stopped"},
}

#: Ids that are none.
_NO_IDS: Final[Sequence[bytes]] = (b"", b"two words", b"a:b", b"\xff\xfe", b"{x}", "ü".encode(), b"[1]", b"a\nb")

#: Times that a job may be run again, so that all of them come to an end.
_MOST_ROUNDS: Final = 3

#: Line of the worker's log about an id that is none.
_DROPPED: Final = "dropped what is not the id of a job"


class Worked(Subject):
    """A kind that a running worker is tried on, in batches. The time of an input is its part of its batch's."""

    limit: ClassVar[float] = 240.0
    #: Words in the worker's log with which a traceback is to be expected: RQ's own, about what it passes over.
    expected: ClassVar[Sequence[str]] = ("failed to deserialize webhooks",)

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.plant = Plant()

    def close(self) -> None:
        """See `Subject`."""
        self.plant.close()

    def memory(self) -> int:
        """See `Subject`."""
        return self.plant.memory

    def look(self, index: int, tally: Tally) -> Counter[str]:
        """That the worker lives, answers, and has met nothing that it does not know; how often it said what."""
        if not self.plant.answers():
            tally.violate(index, "broken", "the worker does not answer a good task")
        said: Counter[str] = Counter()
        for line in self.plant.lines():
            message = str(line.get("message", line.get("raw", "")))
            said[message] += 1
            trace = "exception" in line or "Traceback" in message
            if trace and not any(words in message for words in self.expected):
                tally.violate(
                    _index(line.get("task"), index), "broken", f"the worker logs {json.dumps(line, indent=1)}"
                )
        if (code := self.plant.ended()) is not None:
            tally.violate(index, "crash", f"the worker ended with {code}")
        return said


class Jobs(Worked):
    """Hashes, payloads and ids."""

    kind = "job hashes"
    share = 15

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        #: Jobs of the batch before: what is left of them is still there.
        self._former: list[bytes] = []

    def make(self, index: int) -> tuple[bytes, dict[bytes, bytes] | None]:
        """Id and hash; None: there is no hash."""
        mutator = self.mutator(index)
        random = mutator.random
        fields: dict[bytes, bytes] = {name.encode(): value.encode() for name, value in corpus.HASH.items()}
        for _ in range(random.randrange(3)):
            name = random.choice(list(corpus.HASH_OPTIONS))
            fields[name.removesuffix("_json").encode()] = corpus.HASH_OPTIONS[name].encode()
        fields[b"data"] = self.payload(mutator)
        for _ in range(self.changes(mutator)):
            self._worsen(mutator, fields)
        for rounds in (b"repeats_left", b"retries_left"):
            if fields.get(rounds, b"").strip().lstrip(b"+-0").isdigit():
                fields[rounds] = b"%d" % _MOST_ROUNDS
        chance = random.random()
        if chance < 0.01:
            return random.choice(_NO_IDS), fields
        return f"{self.seed}-{index}".encode(), None if chance < 0.02 or not fields else fields

    def changes(self, mutator: Mutator) -> int:
        """How many fields are made worse."""
        return mutator.random.choice((1, 1, 2, 3))

    def payload(self, mutator: Mutator) -> bytes:
        """What the job carries."""
        # Most are such as the worker can complete: the hash is what is tried.
        calls = corpus.CALLS if mutator.random.random() < 0.3 else corpus.CALLS[: len(corpus.CHATS)]
        function, request = mutator.random.choice(calls)
        return json.dumps([function, None, [{"request": request}], {}]).encode()

    def _worsen(self, mutator: Mutator, fields: dict[bytes, bytes]) -> None:
        random = mutator.random
        name = random.choice([*fields, *(name.encode() for name in corpus.HASH_OPTIONS)])
        value = fields.get(name, b"")
        match random.randrange(8):
            case 0:
                fields.pop(name, None)
            case 1:
                fields[name] = mutator.noise(60)
            case 2:
                fields[name] = mutator.data(value)
            case 3:
                fields[random.choice((name.upper(), name + b"\xff", b"", mutator.noise(10)))] = value
            case 4:
                fields[name] = value * random.choice((2, 100))
            case 5:
                fields[name] = mutator.encode(mutator.scrap())
            case _:
                fields[name] = mutator.text().encode(errors="surrogatepass")

    def run(self, indices: Iterable[int], tally: Tally, begin: Begin) -> None:
        """See `Subject`."""
        indices = list(indices)
        made = [self.make(index) for index in indices]
        begin(indices[0])
        start = time.perf_counter()
        pipeline = self.plant.redis.pipeline(transaction=False)
        for job, fields in made:
            if fields is not None:
                pipeline.hset(b"rq:job:" + job, mapping=dict(fields))
            pipeline.rpush("rq:queue:chat", job)
        pipeline.execute()
        if not self.plant.rests():
            tally.violate(indices[0], "hang", f"jobs are left: {self._left()}")
        said = self.look(indices[0], tally)
        none = sum(job in _NO_IDS for job, _ in made)
        if said[_DROPPED] < none:
            tally.violate(indices[0], "broken", f"{none} ids that are none, but {said[_DROPPED]} lines about them")
        seconds = (time.perf_counter() - start) / len(indices)
        for index, (job, fields) in zip(indices, made, strict=True):
            tally.note(
                index, "dropped" if job in _NO_IDS else self._outcome(index, job.decode(), fields, tally), seconds
            )
        self._forget(self._former)
        self._former = [job for job, _ in made]

    def finish(self, tally: Tally) -> None:
        """See `Subject`. The dead letters of the last batch can be listed."""
        code, output = self.plant.command("dead", "list", "--limit", "0", "--json")
        tally.outcomes["lists of dead letters"] += 1
        if code != 0 or not output.strip():
            tally.violate(-1, "broken", f"`deltabus dead list` ends with {code}: {output[-1500:]}")

    def _outcome(self, index: int, job: str, fields: dict[bytes, bytes] | None, tally: Tally) -> str:
        """How a job has ended: in its log and in RQ's records alike."""
        log = []
        for _, entry in self.plant.redis.xrange(keys.log(job)):
            try:
                log.append(events.decode(entry[b"event"]))
            except (KeyError, msgspec.MsgspecError) as exc:
                tally.violate(index, "broken", f"the worker has written what is no event: {exc!r}")
        status, opened = self.plant.redis.hmget(f"rq:job:{job}", "status", "deltabus_open")
        if sum(isinstance(event, Terminal) for event in log) != bool(log and isinstance(log[-1], Terminal)):
            tally.violate(
                index, "broken", f"ends more than once, or not at last: {[type(event).__name__ for event in log]}"
            )
        if log and isinstance(log[-1], Terminal):
            end = log[-1]
            again = status in {b"queued", b"scheduled"} and self._waits(job)
            if status is not None and not again and (status not in _STATUSES[type(end)] or opened is not None):
                tally.violate(
                    index,
                    "broken",
                    f"{type(end).__name__} on the log, but {status!r} in RQ's records, open: {opened!r}",
                )
            return f"failed: {end.error.code}" if isinstance(end, Failed) else type(end).__name__.lower()
        if self._waits(job):
            return "waits, as its hash says"
        if status is None and fields is not None and not log:
            # RQ's own: a time to live of nothing, written before the worker came.
            return "gone"
        tally.violate(index, "broken", f"has not ended: {status!r}, {[type(event).__name__ for event in log]}")
        return "not ended"

    def _waits(self, job: str) -> bool:
        """Whether RQ has it in a registry of those that wait, or on a queue that this worker has not."""
        client = self.plant.redis
        registries = [key for kind in ("scheduled", "deferred") for key in client.scan_iter(f"rq:{kind}:*", count=1000)]
        queues = [key for key in client.scan_iter("rq:queue:*", count=1000) if client.type(key) == b"list"]
        return any(client.zscore(key, job) is not None for key in registries) or any(
            client.lpos(key, job) is not None for key in queues
        )

    def _left(self) -> dict[str, Any]:
        found = {}
        for kind in ("queue", "wip"):
            for key in self.plant.redis.scan_iter(f"rq:{kind}:*"):
                kind_of_key = self.plant.redis.type(key)
                items = (
                    self.plant.redis.lrange(key, 0, 5) if kind_of_key == b"list" else self.plant.redis.zrange(key, 0, 5)
                )
                found[key.decode(errors="replace")] = [repr(item)[:100] for item in items]
        return found

    def _forget(self, jobs: Sequence[bytes]) -> None:
        names = [job.decode(errors="replace") for job in jobs]
        for start in range(0, len(names), 100):
            part = names[start : start + 100]
            self.plant.redis.delete(
                *[key for job in part for key in (f"rq:job:{job}", f"rq:results:{job}", keys.log(job))]
            )


class Payloads(Jobs):
    """Envelopes through the worker: the hash is as RQ writes it, the payload is not."""

    kind = "payloads"
    share = 10

    def changes(self, mutator: Mutator) -> int:
        """The payload is made worse already."""
        return 0

    def payload(self, mutator: Mutator) -> bytes:
        """An envelope that may break a rule, in a call that may, in bytes that may."""
        random = mutator.random
        if random.random() < 0.05:
            return mutator.noise()
        function, envelope = worse_envelope(mutator)
        call: Any = [function, None, [envelope], {}]
        encoded = mutator.encode(mutator.document(call, most=2) if random.random() < 0.2 else call)
        if random.random() < 0.15:
            encoded = mutator.data(encoded)
        return mutator.packed(encoded) if random.random() < 0.3 else encoded


def _index(task: Any, default: int) -> int:
    """The input that a line of the log is about."""
    number = str(task).rpartition("-")[2]
    return int(number) if number.isdigit() and len(number) < 10 else default
