"""The chaos run's word at its end: a table or JSON, and an exit code that says whether anything is violated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from soundhistory import sound

from chaos import run
from chaos.checker import KINDS
from chaos.history import Exit, History, Incident


@pytest.fixture
def happened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> History:
    """What the next run turns out to have been, instead of being run."""
    history = sound()

    async def replay(_: run.Run) -> History:
        return history

    monkeypatch.setattr(run.Run, "run", replay)
    monkeypatch.setattr(run.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    return history


def test_a_run_in_which_all_is_well_ends_with_zeros_and_leaves_nothing(
    happened: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--seed", "1"]) == 0
    lines = {" ".join(line.split()[:-1]): line.split()[-1] for line in capsys.readouterr().out.splitlines() if line}
    assert {kind: lines[kind] for kind in KINDS} == dict.fromkeys(KINDS, "0")
    assert lines["tasks"] == "4"
    assert not tmp_path.exists()


def test_a_violation_fails_the_run_is_told_and_leaves_the_record(
    happened: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    happened.exits.append(Exit(worker="w9", code=1, asked=True))
    assert run.main(["--seed", "1"]) == 1
    out, err = capsys.readouterr()
    assert "crashes: worker w9" in out
    assert str(tmp_path) in err
    assert (tmp_path / "history.json").exists()


def test_json_has_every_figure_and_every_violation(happened: History, capsys: pytest.CaptureFixture[str]) -> None:
    happened.exits.append(Exit(worker="w9", code=1, asked=True))
    assert run.main(["--json", "--seed", "1"]) == 1
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["crashes"] == 1
    assert [violation["kind"] for violation in report["violations"]] == ["crashes"]


def test_a_recovery_is_the_time_from_a_kill_to_the_next_attempt(
    happened: History, capsys: pytest.CaptureFixture[str]
) -> None:
    log = happened.logs["moved"]
    log[0].text = log[0].text.replace("}", ', "worker": "w1"}')
    happened.incidents.append(Incident(fault="kill", at=17.0, worker="w1", point="before a delta"))
    run.main(["--json", "--seed", "1"])
    report = json.loads(capsys.readouterr().out)
    assert (report["kills"], report["recoveries"], report["recovery, max s"]) == (1, 1, 5.0)
    assert report["struck at named points"]["before a delta"] == 1
