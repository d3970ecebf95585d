"""A chaos run that cannot go on ends, and says why, instead of waiting for what nobody will do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chaos import faults, run
from chaos.faults import Injector
from chaos.plan import Plan
from chaos.producer import Producer


def test_something_that_cannot_be_done_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def half() -> None:
        raise OSError("the slot is half moved")

    monkeypatch.setattr(faults, "_FIRST_DECK", {"redis": 1})
    topology: Any = SimpleNamespace(moves=False, strikes={"move": ("move", half)})
    nobody: Any = SimpleNamespace(workers=[])
    injector = Injector(1, nobody, topology, clients=nobody, observer=nobody)
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(injector.run(3600.0))
    assert caught.group_contains(OSError, match="half moved")


def test_tasks_that_nobody_accepts_end_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def never(self: Producer, plan: Plan) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Producer, "send", never)
    monkeypatch.setattr(run, "OVERTIME", 0.1)
    monkeypatch.setattr(run.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    with pytest.raises(TimeoutError):
        run.main(["--tasks", "1", "--seconds", "0.1", "--workers", "0"])
    assert f"broken off; worker logs: {tmp_path}" in capsys.readouterr().err
