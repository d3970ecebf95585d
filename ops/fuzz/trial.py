"""One kind of inputs in a process of its own, watched from outside: a hang or a crash ends neither run nor count."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from fuzz.subject import Subject
from fuzz.tally import Tally

#: Seconds between two looks at a process that has nothing to say.
LOOK: Final = 0.25

#: Seconds that a process may take to begin, or to end.
PATIENCE: Final = 60.0

#: Inputs after which a process says how far it is.
REPORT: Final = 500

#: Bytes by which a process may grow in the last two thirds of its inputs: memory that is free again, but scattered.
GROWTH: Final = 24 * 1024 * 1024

#: Fewer inputs than this say nothing of memory.
FEW: Final = 3_000

#: Characters of the stack of a process that hangs or has crashed.
STACK: Final = 1_500

#: Is told the kind, how many of its inputs have been tried, and of how many.
Progress = Callable[[str, int, int], None]


def run(subject: type[Subject], seed: str, indices: Sequence[int], progress: Progress) -> Tally:
    """Try all these inputs of a kind, in as many processes as it takes."""
    total = Tally(subject.kind)
    left = list(indices)
    while left:
        stopped_at = _watch(subject, seed, left, total, lambda done: progress(subject.kind, done, len(indices)))
        if stopped_at not in left:
            break
        left = left[left.index(stopped_at) + 1 :]
    return total


def _watch(
    subject: type[Subject], seed: str, indices: Sequence[int], total: Tally, progress: Callable[[int], None]
) -> int | None:
    """Watch one process to its end; the index at which it was stopped or died, None where it tried all."""
    context = multiprocessing.get_context("spawn")
    # The index under way, or -1; and when it was begun, on a clock that all processes have.
    place = context.Array("d", [-1.0, time.monotonic()], lock=False)
    ours, theirs = context.Pipe(duplex=False)
    before = total.inputs
    with tempfile.TemporaryDirectory(prefix="deltabus-fuzz-") as folder:
        stack = Path(folder) / "stack"
        process = context.Process(target=_child, args=(subject, seed, indices, place, theirs, stack))
        process.start()
        theirs.close()
        hung = False
        while True:
            try:
                while ours.poll(LOOK):
                    total.add(ours.recv())
                    progress(total.inputs)
            except EOFError:
                break
            limit = subject.limit if place[0] >= 0 else PATIENCE
            if not hung and time.monotonic() - place[1] > limit and process.pid is not None:
                hung = True
                os.kill(process.pid, signal.SIGABRT)  # faulthandler writes down where it is
        process.join(PATIENCE)
        process.kill()
        if process.exitcode == 0:
            return None
        index = int(place[0])
        text = stack.read_text(errors="replace")[:STACK] if stack.exists() else ""
    if index in indices:
        total.inputs = before + indices.index(index) + 1
    what = "hang" if hung else "crash"
    total.outcomes[what] += 1
    how = f"no end after {limit:g} s" if hung else f"the process ended with {process.exitcode}"
    total.violate(index, what, f"{how}\n{text}")
    return index


def _child(  # noqa: PLR0917 # multiprocessing passes them by place
    subject: type[Subject], seed: str, indices: Sequence[int], place: Any, tallies: Connection, stack: Path
) -> None:
    """What the process does."""
    tempfile.tempdir = str(stack.parent)  # it is cleared whatever happens here
    with stack.open("w", encoding="utf-8") as stderr:
        faulthandler.enable(stderr)

        def begin(index: int) -> None:
            # In this order: whoever looks in between must not take the time of the one before for its own.
            place[1] = time.monotonic()
            place[0] = index

        made = subject(seed)
        try:
            _try_all(made, indices, tallies, begin)
        except BaseException as exc:
            print(f"{type(exc).__name__}: {exc}", file=stderr, flush=True)
            raise
        finally:
            made.close()
            tallies.close()
            sys.stdout.flush()


def _try_all(subject: Subject, indices: Sequence[int], tallies: Connection, begin: Callable[[int], None]) -> None:
    early = None
    done = 0
    for part in _parts(indices):
        tally = Tally(subject.kind)
        subject.run(part, tally, begin)
        tallies.send(tally)
        done += len(part)
        if early is None and done >= len(indices) // 3:
            early = subject.memory()
    end = Tally(subject.kind)
    begin(-1)
    subject.finish(end)
    if early is not None and len(indices) >= FEW:
        end.growth = subject.memory() - early
        if end.growth > GROWTH:
            end.violate(-1, "leak", f"{end.growth >> 20} MiB more than after a third of the inputs")
    tallies.send(end)


def _parts(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), REPORT):
        yield indices[start : start + REPORT]
