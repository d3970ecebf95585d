"""ops/deploy/README.md tells the truth: who types all of it, in order, gets what it says."""

from __future__ import annotations

import re
from pathlib import Path

from documents import ROOT, Reader

DOCUMENT = ROOT / "ops" / "deploy" / "README.md"


def test_every_command_runs_and_does_what_it_says(redis_url: str, tmp_path: Path) -> None:
    with Reader(tmp_path, redis_url) as reader:
        reader.follow(DOCUMENT)


def test_every_link_leads_to_something() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", DOCUMENT.read_text(encoding="utf-8")):
        assert (DOCUMENT.parent / target).exists(), target


def test_it_names_every_file_there_is() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for path in DOCUMENT.parent.iterdir():
        assert path.name in text or path.name in {"README.md", "tools.txt", "sbom_schema.py", "secrets"}, path
