"""ops/files.md tells the truth: who types all of it, in order, gets what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import ROOT, Reader
from processes import DELTABUS, Background, environ

from deltabus.testing.api import ApiServer

DOCUMENT = ROOT / "ops" / "files.md"


@pytest.mark.timeout(900)
def test_every_command_and_program_runs_and_does_what_it_says(redis_url: str, tmp_path: Path) -> None:
    with ApiServer(models=["gpt-4o-mini", "tts-1"]) as server:
        variables = {"OPENAI_API_KEY": "sk-reader-0123456789", "OPENAI_BASE_URL": server.url}
        with Background([*DELTABUS, "worker"], folder=tmp_path, environ=environ(redis_url, **variables)) as worker:
            worker.wait_for("worker started")
            with Reader(tmp_path, redis_url) as reader:
                reader.follow(DOCUMENT)
        assert server.left == []


def test_every_link_leads_to_something() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", DOCUMENT.read_text(encoding="utf-8")):
        assert (DOCUMENT.parent / target).exists(), target
