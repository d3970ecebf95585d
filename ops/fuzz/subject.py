"""What is fuzzed: a kind of input, how one is made, and what tries it."""

from __future__ import annotations

import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, ClassVar

from deltabus.errors import DeltabusError, TaskError
from fuzz.mutation import Mutator
from fuzz.tally import SHOWN, Tally, resident

#: Called before each input with its index: whoever watches knows by it which one hangs.
Begin = Callable[[int], None]


class Subject(ABC):
    """One kind of input; an instance lives in a process of its own."""

    kind: ClassVar[str]
    #: Part of all inputs, in percent.
    share: ClassVar[float]
    #: Seconds that one input may take, or a batch of them where they are tried in batches.
    limit: ClassVar[float] = 10.0

    def __init__(self, seed: str) -> None:
        self.seed = seed

    def mutator(self, index: int) -> Mutator:
        """The source of chance of one input: of no other, so that each can be made alone."""
        return Mutator(Random(f"{self.seed}/{self.kind}/{index}"))  # noqa: S311 # to be repeatable

    @abstractmethod
    def make(self, index: int) -> Any:
        """The input of this number."""

    @abstractmethod
    def run(self, indices: Iterable[int], tally: Tally, begin: Begin) -> None:
        """Try these inputs, and note what became of each."""

    def finish(self, tally: Tally) -> None:
        """All have been tried: look whether the rest is as it should be."""

    def memory(self) -> int:
        """Bytes that the process under test has."""
        return resident()

    def close(self) -> None:
        """Let go of processes and connections."""


class Parser(Subject):
    """A kind that functions of this process are tried on, one input at a time."""

    @abstractmethod
    def attempt(self, given: Any) -> str:
        """Try an input; what became of it. May raise `errors.DeltabusError`, and nothing else."""

    def run(self, indices: Iterable[int], tally: Tally, begin: Begin) -> None:
        """See `Subject`."""
        for index in indices:
            given = self.make(index)
            begin(index)
            start = time.perf_counter()
            try:
                outcome = self.attempt(given)
            except DeltabusError as exc:
                outcome = refusal(exc)
            except Exception:  # noqa: BLE001 # this is what the run looks for
                outcome = "crash"
                tally.violate(index, "crash", f"{shown(given)}\n{traceback.format_exc()[-SHOWN + 500 :]}")
            tally.note(index, outcome, time.perf_counter() - start)


def refusal(error: DeltabusError) -> str:
    """An error of ours as an outcome. That it can be told is part of it."""
    str(error).encode(errors="surrogatepass")
    repr(error)
    return error.code if isinstance(error, TaskError) else type(error).__name__


def shown(given: Any) -> str:
    """The beginning of an input."""
    text = repr(given)
    return text if len(text) < 500 else f"{text[:400]}… ({len(text)} characters)"
