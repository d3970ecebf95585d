"""What anybody may publish to a running worker: commands that are none, cancels of nobody, noise."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from deltabus import keys
from fuzz import corpus
from fuzz.jobs import Worked
from fuzz.subject import Begin
from fuzz.tally import Tally


class Commands(Worked):
    """Messages on a worker's channels of commands and of cancels, while a task streams that none of them means."""

    kind = "commands"
    share = 4

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self._bystander = ""

    def make(self, index: int) -> tuple[str, bytes]:
        """A channel, and what is published there; never RQ's order to shut down, which is obeyed."""
        mutator = self.mutator(index)
        chance = mutator.random.random()
        if chance < 0.2:
            return keys.CANCEL_CHANNEL, mutator.random.choice(
                (mutator.noise(), mutator.text().encode(errors="surrogatepass"))
            )
        if chance < 0.3:
            return "commands", mutator.noise()
        made = mutator.encode(mutator.document(mutator.random.choice(corpus.COMMANDS)))
        made = mutator.data(made) if chance < 0.5 else made
        return "commands", b"" if corpus.is_command(made, "shutdown") else made

    def run(self, indices: Iterable[int], tally: Tally, begin: Begin) -> None:
        """See `Subject`."""
        indices = list(indices)
        begin(indices[0])
        self._stream(indices[0], tally)
        start = time.perf_counter()
        made = [self.make(index) for index in indices]
        pipeline = self.plant.redis.pipeline(transaction=False)
        for where, message in made:
            pipeline.publish(f"rq:pubsub:{self.plant.name}" if where == "commands" else where, message)
        heard: list[Any] = pipeline.execute()
        if not all(heard):
            tally.violate(indices[heard.index(0)], "broken", "the worker does not listen")
        self.look(indices[0], tally)
        seconds = (time.perf_counter() - start) / len(indices)
        for index, (where, _) in zip(indices, made, strict=True):
            tally.note(index, f"{'command' if where == 'commands' else 'cancel'} without effect", seconds)
        if self.plant.redis.exists(keys.log(self._bystander)) and self._ended():
            tally.violate(indices[0], "broken", "a task has ended that nobody meant")

    def finish(self, tally: Tally) -> None:
        """See `Subject`."""
        self.plant.redis.set(keys.cancel(self._bystander), "the run is over")
        self.plant.redis.publish(keys.CANCEL_CHANNEL, self._bystander)
        if not self.plant.rests():
            tally.violate(-1, "broken", "a task that is cancelled goes on")

    def _stream(self, index: int, tally: Tally) -> None:
        """See to it that a task is streaming."""
        if self._bystander and not self._ended():
            return
        self._bystander = self.plant.good(words=1_000_000, interval=0.2)
        if not self.plant.redis.xread({keys.log(self._bystander): "0"}, block=20_000):
            tally.violate(index, "broken", "the worker does not begin a good task")

    def _ended(self) -> bool:
        newest = self.plant.redis.xrevrange(keys.log(self._bystander), count=1)
        return bool(newest) and newest[0][0] == keys.SEAL.encode()
