"""Command line: which scenarios, how often; writes results.json, plots and RESULTS.md."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidebyside import environments, machine, report
from sidebyside.environments import PEERS, NotInstalled
from sidebyside.process import allow_many_files
from sidebyside.scenarios import SCENARIOS, Scenario
from sidebyside.stage import Stage, stage


def main(words: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(words)
    chosen = [scenario for scenario in SCENARIOS if options.scenario in ("all", scenario.name)]
    repetitions = options.repeat or (1 if options.quick else 5)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # no worker is left behind
    allow_many_files()
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"`make bench{' QUICK=1' if options.quick else ''}`, {repetitions} repetitions",
        "peers": {} if options.alone else machine.peers(),
        "samples": [],
        "plots": [],
        "notes": [],
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        stage(Path(folder), quick=options.quick, alone=options.alone) as here,
    ):
        for scenario in chosen:
            results["samples"] += _run(scenario, here, min(repetitions, scenario.most))
            if found := report.lines_of(scenario, results["samples"]):
                print(report.table(scenario, found), flush=True)
            results["notes"] = here.notes
            if options.out is not None:  # after each, as the whole takes long
                _write(results, options.out, plots=not options.alone)
    if options.out is not None:
        print(f"\nwritten to {options.out}: results.json{'' if options.alone else ', plots, RESULTS.md'}")
    return 1 if results["notes"] else 0


def _run(scenario: Scenario, here: Stage, repetitions: int) -> list[dict[str, Any]]:
    """All repetitions of a scenario; what goes wrong ends that scenario, and is noted."""
    rows = []
    try:
        for repetition in range(repetitions):
            print(f"{scenario.name}, {repetition + 1} of {repetitions} …", file=sys.stderr, flush=True)
            here.repetition = repetition
            rows += [sample.row(repetition) for sample in scenario.measure(here)]
    except (
        ArithmeticError,
        LookupError,
        NotInstalled,
        OSError,
        RuntimeError,
        ValueError,
        subprocess.SubprocessError,
    ) as exc:
        here.note(f"the scenario `{scenario.name}` ended early: {exc}")
        print(f"{here.notes[-1]}\n{here.said()}", file=sys.stderr)
    return rows


def _write(results: dict[str, Any], out: Path, *, plots: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    data = out / "results.json"
    data.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not plots:
        return
    try:
        command = [str(environments.python("plot")), str(PEERS / "plot.py"), str(data), str(out / "plots")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 # our own program
        results["plots"] = done.stdout.split()
    except NotInstalled as exc:
        results["notes"] = [*results["notes"], str(exc)]
    (out / "RESULTS.md").write_text(report.markdown(results), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sidebyside", description="deltabus and its peers, side by side")
    names = ["all", *(scenario.name for scenario in SCENARIOS)]
    parser.add_argument("--scenario", choices=names, default="all", help="one of them (all)")
    parser.add_argument("--quick", action="store_true", help="fewer cases, shorter windows: under three minutes")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions (5, with --quick 1)")
    parser.add_argument("--alone", action="store_true", help="without the peers, and small: to see that it works")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results.json, plots and RESULTS.md go")
    return parser
