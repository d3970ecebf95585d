"""The results as text: on the terminal while they come, and as the tables of RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sidebyside.sample import OURS
from sidebyside.scenarios import SCENARIOS, Scenario
from sidebyside.summary import Line, lines
from sidebyside.targets import verdicts

_ABOUT = """# Results

Written by `make bench`; do not edit. `(a to b)` are the least and the most of all repetitions, in front of them
is the median. A ratio compares what ran in the same repetition, one right after the other: 3 means that deltabus
is three times as good, 0.5 that it is half as good.

- CPU is user and system time of the worker with its children, or of the program that reads; not that of Redis, the
  provider and the subscribers.
- The peers are the programs in `peers/`, set up as their own documentation tells. deltabus and the bare readers run
  on uvloop, the SDK on asyncio.
- All streams of a case are open before the first delta is written, and begin together. A reader that cannot keep up
  is told by its `deltas/s`; what it reads then comes in larger pieces, which is cheaper.
- A deltabus that takes more than three fifths of a core lets fast streams rest between two reads, for up to 100 ms
  (`deltabus/http/pace.py`). Here, that is at 500 and 2,000 streams of 50/s. It is cheaper, and later: with 500 streams,
  a delta took 34 to 37 ms in the median, where without rests it took 2 to 7, and a first token 4 to 5 in place of 13 to
  67 (two windows each, by hand).
- What the machine can do (latency) is what one processor would pass on at the CPU that a delta takes while none has
  to wait for another.
- Commands of Redis include those that scripts call.
"""

_NOISE = """
**How noisy.** When this began, {load} processes wanted to run here, besides those of the benchmark. Where that is
more than there are processors, figures by the clock (`1/s`, `ms`, `s`) suffer most; CPU figures less, as others take
caches and turns; ratios least. Least and most say how far a figure can be trusted.
"""


def table(scenario: Scenario, found: Sequence[Line]) -> str:
    """One scenario for the terminal."""
    rows = [(*_cells(line),) for line in found]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    out = [f"\n{scenario.title}"]
    for *cells, ratio in rows:
        text = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=False))
        out.append(f"  {text}  {ratio}".rstrip())
    return "\n".join(out)


def markdown(results: Mapping[str, Any]) -> str:
    """RESULTS.md."""
    machine = results["machine"]
    out = [_ABOUT]
    out += [f"- {name}: {machine[name]}" for name in ("processor", "system")]
    out += [f"- Python {machine['python']}, Redis {machine['redis']}, {results['date']}, {results['command']}"]
    out += [f"- environment of producers and subscribers: {_versions(machine['ours'])}"]
    out += [f"- environment `{name}`: {_versions(found)}" for name, found in results["peers"].items()]
    out += [f"- {note}" for note in results["notes"]]
    out.append(_NOISE.format(load=machine["load"]))
    if rows := list(verdicts(results["samples"])):
        out += ["## Targets\n", "| target | limit | measured | |", "| --- | --- | --- | --- |"]
        out += [
            f"| {row.what} | {row.limit} | {row.measured} | {'met' if row.is_met else '**missed**'} |" for row in rows
        ]
        out.append("")
    for scenario in SCENARIOS:
        found = lines_of(scenario, results["samples"])
        if not found:
            continue
        out += [f"## {scenario.title}\n", f"`make bench SCENARIO={scenario.name}`\n"]
        if scenario.name in results["plots"]:
            out.append(f"![{scenario.title}](plots/{scenario.name}.png)\n")
        out += ["| case | figure | who | measured | deltabus is better by |", "| --- | --- | --- | --- | --- |"]
        out += ["| " + " | ".join(_cells(line)) + " |" for line in found]
        out.append("")
    out.append("`large_file.py`, beside this, measures the memory of a worker through which a large file goes.\n")
    return "\n".join(out)


def lines_of(scenario: Scenario, samples: Sequence[Mapping[str, Any]]) -> list[Line]:
    return list(lines((row for row in samples if row["scenario"] == scenario.name), scenario.metrics))


def _cells(line: Line) -> Iterator[str]:
    yield line.case
    yield f"{line.metric.name}, {line.metric.unit}"
    yield f"**{line.contender}**" if line.contender == OURS else line.contender
    yield str(line.spread)
    yield "" if line.ratio is None else f"{line.ratio} x"


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
