"""The fuzz run and its command line."""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from fuzz import trial
from fuzz.answers import Answers, Documents
from fuzz.commands import Commands
from fuzz.configs import Environments, Files
from fuzz.followers import Followers
from fuzz.jobs import Jobs, Payloads
from fuzz.neighbours import Neighbours
from fuzz.parsers import Envelopes, Remembered
from fuzz.subject import Subject, shown
from fuzz.summary import summarise, table

#: Every kind there is; their shares are of a hundred.
SUBJECTS: Final[Sequence[type[Subject]]] = (
    Envelopes,
    Remembered,
    Answers,
    Documents,
    Files,
    Environments,
    Followers,
    Jobs,
    Payloads,
    Commands,
    Neighbours,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 where nothing broke a rule, else 1."""
    arguments = _arguments(argv)
    wanted = [subject for subject in SUBJECTS if arguments.kind in ("all", subject.kind)]
    whole = sum(subject.share for subject in wanted)
    start = time.monotonic()
    tallies = []
    for subject in wanted:
        count = math.ceil(arguments.inputs * subject.share / whole)
        indices = range(count) if arguments.only is None else [arguments.only]
        tallies.append(trial.run(subject, arguments.seed, indices, _progress))
        _progress(subject.kind, tallies[-1].inputs, len(indices), end="\n")
    if arguments.only is not None:
        _show(wanted[0], arguments.seed, arguments.only)
    figures = summarise(tallies, arguments.seed, time.monotonic() - start)
    print(msgspec.json.encode(figures).decode() if arguments.json else table(figures))
    return 1 if figures["violations"] else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    kinds = [subject.kind for subject in SUBJECTS]
    parser.add_argument("--inputs", type=int, default=100_000, help="how many, of all kinds together")
    parser.add_argument("--seed", default=None, help="of a run that is to be repeated; by default another each time")
    parser.add_argument("--kind", default="all", choices=["all", *kinds], help="one kind alone")
    parser.add_argument("--only", type=int, default=None, help="one input of that kind, by its index")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments = parser.parse_args(argv)
    if arguments.only is not None and arguments.kind == "all":
        parser.error("--only needs a --kind")
    if arguments.seed is None:
        arguments.seed = str(random.SystemRandom().randrange(10**6))
    return arguments


def _show(subject: type[Subject], seed: str, index: int) -> None:
    """The input of that number, to look at."""
    made = subject.__new__(subject)
    made.seed = seed
    print(shown(made.make(index)))


def _progress(kind: str, done: int, count: int, end: str = "") -> None:
    """How far a kind is: over and over on a terminal, elsewhere at its end."""
    if end or sys.stderr.isatty():
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{start}{kind}: {done:,} of {count:,}", end=end, file=sys.stderr, flush=True)
