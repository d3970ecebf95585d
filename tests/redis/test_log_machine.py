"""The log against a model: several writers, lost replies, calls that come twice or late, cancels, reopened tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from logmodel import Model, parsed, place

from deltabus import events, keys
from deltabus import log as log_module
from deltabus.commit import Call, Item
from deltabus.errors import CancelRequested, DeltabusError, Fenced, Sealed
from deltabus.events import Completed, Delta, Progress, Snapshot, Started
from deltabus.log import Attempt, Log
from deltabus.scripts import LOG
from deltabus.settings import Settings

TASK = "t1"


class Line:
    """In place of a group commit: the machine says when a call reaches Redis, and whether its reply comes back."""

    def __init__(self, client: redis.Redis, model: Model) -> None:
        self._model = model
        self._connection = client.connection_pool.get_connection()
        for script in LOG:
            client.script_load(script.source)
        self.ready: list[Item] = []
        self.unanswered: list[tuple[Item, bytes]] = []
        self.sent: list[bytes] = []

    def submit(self, item: Item) -> None:
        self.ready.append(item)

    async def call(self, packed: bytes) -> Any:
        item = Call(packed)
        self.submit(item)
        reply = await item.reply
        if isinstance(reply, Exception):
            raise reply
        return reply

    def execute(self, packed: bytes) -> Any:
        self._connection.send_packed_command([packed])
        reply = self._connection.read_response(disable_decoding=True)
        expected = self._model.call(packed)
        assert expected is None or reply == expected
        return reply

    def deliver(self, choice: int, *, reply_is_lost: bool) -> None:
        """Let one of the calls that are under way reach Redis."""
        waiting = len(self.unanswered) + len(self.ready)
        if not waiting:
            return
        index = choice % waiting
        if index < len(self.unanswered):
            item, packed = self.unanswered.pop(index)
        else:
            item = self.ready.pop(index - len(self.unanswered))
            fresh = item.command()
            if fresh is None:
                return
            packed = fresh
        reply = self.execute(packed)
        self.sent.append(packed)
        if reply_is_lost:
            self.unanswered.append((item, packed))
        else:
            item.answer(reply)


class Writer:
    """A worker with an attempt, and what it knows of its fate."""

    def __init__(self) -> None:
        self.attempt: Attempt | None = None
        self.beginning: asyncio.Task[Attempt] | None = None
        self.written: list[int] = []
        self.waiting: list[tuple[str, asyncio.Task[None]]] = []
        self.interrupts: list[DeltabusError] = []
        self.sealing = False
        self.abandoned = False

    @property
    def open(self) -> bool:
        return self.attempt is not None and not self.sealing and not self.abandoned

    def snapshot(self) -> list[bytes]:
        return [json.dumps({"n": self.written}).encode()]


def replay(found: list[Any]) -> list[int]:
    """What a subscriber of these events of one attempt has in the end."""
    numbers: list[int] = []
    for event in found:
        match event:
            case Snapshot():
                numbers = [n for c in event.chunks for n in c["n"]]
            case Delta():
                numbers += [n for c in event.chunks for n in c["n"]]
    return numbers


writers = st.integers(0, 2)

#: Redis' answer to TTL where there is no such key.
NO_KEY = -2

#: Seconds after which what was published has not come.
DEADLINE = 60.0


class Machine(RuleBasedStateMachine):
    """One task, three workers, and a line that loses, delays and repeats."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = redis.Redis.from_url(url)
        self.client.flushall()
        self.model = Model()
        self.line = Line(self.client, self.model)
        self.log: Log = self.run(self._open)
        self.pubsub = self.client.pubsub(ignore_subscribe_messages=True)
        self.pubsub.subscribe(keys.events(TASK), keys.results("chat"))
        self.pubsub.get_message(timeout=DEADLINE)
        self.pubsub.get_message(timeout=DEADLINE)
        self.writers = [Writer() for _ in range(3)]
        self.all_writers: list[Writer] = list(self.writers)
        self.settling: list[asyncio.Task[None]] = []
        self.numbers = 0
        # The model: every entry that ever was in the log, in the order in which they came.
        self.history: list[tuple[str, bytes]] = []
        self.newest = 0
        self.began: dict[int, bytes] = {}

    async def _open(self) -> Log:
        with patch.object(log_module, "GroupCommit", lambda *_, **__: self.line):
            return Log(None, Settings(max_log_bytes=150))  # type: ignore[arg-type]

    def run(self, work: Callable[[], Any]) -> Any:
        async def settle() -> Any:
            result = await work()
            for _ in range(6):
                await asyncio.sleep(0)
            return result

        return self.runner.run(settle())

    # What workers do.

    @rule(who=writers, reopen=st.booleans(), luck=st.integers(0, 5))
    def begin(self, who: int, reopen: bool, luck: int) -> None:
        async def step() -> None:
            if luck and any(writer.open for writer in self.writers):
                return
            writer = self.writers[who] = Writer()
            self.all_writers.append(writer)
            writer.beginning = asyncio.create_task(
                self.log.begin(
                    TASK,
                    worker=f"w{len(self.all_writers)}",
                    queue="chat",
                    on_interrupt=writer.interrupts.append,
                    reopen=reopen,
                )
            )

        self.run(step)

    @rule(count=st.integers(1, 8))
    def write(self, count: int) -> None:
        async def step() -> None:
            for writer in filter(lambda writer: writer.open, self.writers):
                await self._write(writer, count)

        self.run(step)

    async def _write(self, writer: Writer, count: int) -> None:
        for _ in range(count):
            self.numbers += 1
            writer.written.append(self.numbers)
            try:
                await writer.attempt.write(json.dumps({"n": [self.numbers]}).encode())
            except (Fenced, Sealed):
                writer.written.pop()
                return

    @rule(who=writers)
    def emit(self, who: int) -> None:
        async def step() -> None:
            writer = self.writers[who]
            if writer.open:
                self.numbers += 1
                event = Progress(task=TASK, at=1.0, done=self.numbers)
                writer.waiting.append((f'"done":{self.numbers}}}', asyncio.create_task(writer.attempt.emit(event))))

        self.run(step)

    @rule(who=writers, luck=st.integers(0, 3))
    def seal(self, who: int, luck: int) -> None:
        async def step() -> None:
            writer = self.writers[who]
            if writer.open and not luck:
                writer.sealing = True
                self.numbers += 1
                event = Completed(task=TASK, at=1.0, result=self.numbers)
                writer.waiting.append((f'"result":{self.numbers}}}', asyncio.create_task(writer.attempt.seal(event))))

        self.run(step)

    @rule(who=writers, luck=st.integers(0, 3))
    def abandon(self, who: int, luck: int) -> None:
        async def step() -> None:
            writer = self.writers[who]
            if writer.open and not luck:
                writer.abandoned = True
                writer.attempt.abandon()

        self.run(step)

    @rule(who=writers)
    def renew(self, who: int) -> None:
        async def step() -> None:
            writer = self.writers[who]
            if writer.open:
                self.settling.append(asyncio.create_task(self.log.renew([writer.attempt])))

        self.run(step)

    @rule(luck=st.integers(0, 4))
    def settle(self, luck: int) -> None:
        async def step() -> None:
            if luck:
                return
            self.numbers += 1
            event = Completed(task=TASK, at=2.0, result=self.numbers)
            self.settling.append(asyncio.create_task(self.log.settle(TASK, event, queue="chat")))

        self.run(step)

    @rule(luck=st.integers(0, 4))
    def settle_a_further_round(self, luck: int) -> None:
        async def step() -> None:
            entries = self._entries()
            if luck or not entries or entries[-1][0] != keys.SEAL:
                return
            self.numbers += 1
            event = Completed(task=TASK, at=3.0, result=self.numbers)
            former = Sealed(TASK, entries[-1][1])
            self.settling.append(asyncio.create_task(self.log.settle(TASK, event, queue="chat", former=former)))

        self.run(step)

    # What others do.

    @rule(luck=st.integers(0, 4))
    def cancel(self, luck: int) -> None:
        if luck:
            return
        self.client.set(keys.cancel(TASK), "why", ex=100)
        self.model.cancel = b"why"

    # What the line does. Delivery is what most steps should be.

    @rule(choice=st.integers(0, 50), times=st.integers(1, 6))
    def deliver(self, choice: int, times: int) -> None:
        self._deliver(choice, times, reply_is_lost=False)

    @rule()
    def deliver_everything(self) -> None:
        self._deliver(0, 20, reply_is_lost=False)

    @rule(choice=st.integers(0, 50))
    def lose_a_reply(self, choice: int) -> None:
        self._deliver(choice, 1, reply_is_lost=True)

    def _deliver(self, choice: int, times: int, *, reply_is_lost: bool) -> None:
        async def step() -> None:
            for _ in range(times):
                self.line.deliver(choice, reply_is_lost=reply_is_lost)
                for _ in range(3):
                    await asyncio.sleep(0)
                self._compare()

        self.run(step)

    @precondition(lambda self: self.line.sent)
    @rule(choice=st.integers(0, 200))
    def deliver_once_more(self, choice: int) -> None:
        """A call on a line that was given up reaches Redis late, after its repetition was answered."""
        packed = self.line.sent[choice % len(self.line.sent)]
        before = self._entries()
        reply = self.line.execute(packed)
        # A `started` that is not in the log any more is not recognised: that call may begin one more attempt.
        if parsed(packed)[0] != "begin" or reply[0] != b"ok":
            assert self._entries() == before
        self._compare()

    # What must be true.

    def _entries(self) -> list[tuple[str, bytes]]:
        return [(entry.decode(), fields[b"event"]) for entry, fields in self.client.xrange(keys.log(TASK))]

    def _compare(self) -> None:
        """Take note of what is new in the log, and check that this may come after what was there."""
        entries = self._entries()
        assert [(place(entry), event) for entry, event in entries] == self.model.log
        known = set(self.history)
        new = [entry for entry in entries if entry not in known]
        assert entries[len(entries) - len(new) :] == new
        published: list[bytes] = []
        terminal: list[bytes] = []
        # Redis may write a reply on one connection before what it publishes on another: there, that is before the pong.
        self.pubsub.ping()
        while (message := self.pubsub.get_message(timeout=DEADLINE))["type"] != "pong":
            wanted = published if message["channel"] == keys.events(TASK).encode() else terminal
            wanted.append(message["data"])
        assert published == [event for _, event in new]
        assert terminal == [event for entry, event in new if entry == keys.SEAL]
        for entry, event in new:
            assert events.decode(event).id == entry
            if entry == keys.SEAL:
                continue
            attempt, n = map(int, entry.split("-"))
            if n == 0:
                assert isinstance(events.decode(event), Started)
                assert attempt == self._newest() + 1
            else:
                assert (attempt, n - 1) == self._last_place()
            self.history.append((entry, event))
        self.history += [entry for entry in new if entry[0] == keys.SEAL]
        assert len([entry for entry, _ in entries if entry == keys.SEAL]) <= 1

    def _newest(self) -> int:
        return max((int(entry.split("-")[0]) for entry, _ in self.history if entry != keys.SEAL), default=0)

    def _last_place(self) -> tuple[int, int]:
        attempt, n = next(entry for entry, _ in reversed(self.history) if entry != keys.SEAL).split("-")
        return int(attempt), int(n)

    @invariant()
    def a_replay_of_an_attempt_is_a_part_of_what_it_wrote(self) -> None:
        logged: dict[int, list[Any]] = {}
        for entry, event in self._entries():
            if entry != keys.SEAL:
                logged.setdefault(int(entry.split("-")[0]), []).append(events.decode(event))
        for writer in self.all_writers:
            if writer.attempt is not None and writer.attempt.number in logged:
                found = logged[writer.attempt.number]
                assert isinstance(found[0], Started | Snapshot)
                numbers = replay(found)
                assert numbers == writer.written[: len(numbers)]

    @invariant()
    def whoever_waited_was_told_the_truth(self) -> None:
        logged = [event.decode() for _, event in self.history]
        for writer in self.all_writers:
            if writer.attempt is None and writer.beginning is not None and writer.beginning.done():
                error = writer.beginning.exception()
                if error is None:
                    writer.attempt = writer.beginning.result()
                    writer.attempt.snapshot = writer.snapshot
                else:
                    assert isinstance(error, Sealed | CancelRequested | Fenced)
            assert len(writer.interrupts) <= 1
            for mark, task in writer.waiting:
                if task.done():
                    error = task.exception()
                    there = sum(mark in event for event in logged)
                    if error is None:
                        assert there == 1
                        if '"result"' in mark:
                            self._sealed_whole(writer, mark)
                    else:
                        # It may be there all the same, where a newer attempt began before the reply came.
                        assert isinstance(error, Fenced | Sealed)
                        if isinstance(error, Sealed):
                            assert mark not in error.message.decode()
                        else:
                            assert writer.abandoned or self._newest() > writer.attempt.number
        for task in self.settling:
            if task.done() and task.exception() is not None:
                assert isinstance(task.exception(), Sealed | Fenced)

    def _sealed_whole(self, writer: Writer, mark: str) -> None:
        entries = self._entries()
        if entries and entries[-1][0] == keys.SEAL and mark in entries[-1][1].decode():
            own = [events.decode(e) for i, e in entries[:-1] if i.startswith(f"{writer.attempt.number}-")]
            assert replay(own) == writer.written

    @invariant()
    def a_log_always_has_an_end_in_sight(self) -> None:
        ttl = self.client.ttl(keys.log(TASK))
        assert ttl > 0 or ttl == NO_KEY

    def teardown(self) -> None:
        # At last everything arrives: nobody may be left waiting.
        for _ in range(300):
            if not (self.line.ready or self.line.unanswered):
                break
            self._deliver(0, 1, reply_is_lost=False)
        self.whoever_waited_was_told_the_truth()
        self.a_replay_of_an_attempt_is_a_part_of_what_it_wrote()
        tasks = [*self.settling, *(task for writer in self.all_writers for _, task in writer.waiting)]
        assert all(task.done() for task in tasks)
        assert all(writer.beginning is None or writer.beginning.done() for writer in self.all_writers)
        self.pubsub.close()
        self.client.close()
        self.runner.close()


@pytest.mark.parametrize("part", range(4))  # in one, they would take longer than a test may on a busy machine
def test_the_log_holds_against_any_course_of_events(redis_url, part):
    run_state_machine_as_test(
        lambda: Machine(redis_url),
        settings=settings(
            max_examples=10, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
