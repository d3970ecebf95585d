"""ops/tracing.md tells the truth: who types all of it, in order, gets what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from documents import ROOT, Reader


@pytest.mark.timeout(600)
def test_every_command_runs_and_does_what_it_says(redis_url: str, tmp_path: Path) -> None:
    with Reader(tmp_path, redis_url) as reader:
        reader.follow(ROOT / "ops" / "tracing.md")
