"""The benchmark runs: its smallest cases, without the peers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Seconds that a program may take, on however busy a machine.
PATIENCE = 600

pytestmark = pytest.mark.timeout(PATIENCE + 60)

FIGURES = {
    "noop": {"tasks/s", "CPU per task"},
    "deltas": {"CPU per delta", "deltas/s"},
}


@pytest.mark.parametrize("scenario", FIGURES)
def test_a_scenario_of_the_benchmark_runs_and_writes_its_figures(scenario: str, tmp_path: Path) -> None:
    options = ["--quick", "--alone", "--repeat", "1", "--scenario", scenario, "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "sidebyside", *options],
        cwd=ROOT / "ops" / "bench",
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {"machine", "date", "command", "peers", "samples", "notes"} <= results.keys()
    assert results["samples"]
    for sample in results["samples"]:
        assert (sample["scenario"], sample["contender"], sample["repetition"]) == (scenario, "deltabus", 0)
        assert sample["figures"].keys() == FIGURES[scenario]
        assert all(value > 0 for value in sample["figures"].values())
    assert "deltabus" in done.stdout


def test_what_a_redis_carries_is_measured_in_short(tmp_path: Path) -> None:
    kept = tmp_path / "one_redis.json"
    done = subprocess.run(
        [sys.executable, "ops/bench/one_redis.py", "--quick", "--out", str(kept)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(kept.read_text(encoding="utf-8"))["figures"]
    committed = json.loads((ROOT / "ops" / "bench" / "one_redis.json").read_text(encoding="utf-8"))["figures"]
    assert figures.keys() <= committed.keys()
    assert figures["a delta, 500 streams x 5/s"]["events"][0] > 0
    assert figures["a waiting task"]["memory"][0] > 0
