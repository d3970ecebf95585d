"""ops/topologies.md tells the truth: each of its sections is followed where Redis is what it speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, Block, Reader, blocks

from chaos.nodes import PATIENT, Nodes
from chaos.sentinels import SERVICE, SentinelSet

DOCUMENT = ROOT / "ops" / "topologies.md"


def section(heading: str) -> Iterator[Block]:
    """The blocks below a heading, down to the next of its kind."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    first = lines.index(f"## {heading}")
    last = next((number for number in range(first + 1, len(lines)) if lines[number].startswith("## ")), len(lines))
    return (block for block in blocks(DOCUMENT) if first < block.line <= last)


def follow(heading: str, folder: Path, url: str) -> None:
    found = list(section(heading))
    assert found
    with Reader(folder) as reader:
        # The file shows hosts that there are none of here; a variable goes before it.
        reader.environ["DELTABUS_REDIS_URL"] = url
        for block in found:
            reader.run(block)


def test_tls(tmp_path: Path, redis_url: str) -> None:
    follow("TLS", tmp_path, redis_url)


def test_sentinel(tmp_path: Path) -> None:
    # Nobody is deposed because the machine is busy.
    with SentinelSet(tmp_path, options=[f"sentinel down-after-milliseconds {SERVICE} 300000"]) as sentinels:
        follow("Sentinel", tmp_path, sentinels.url)


def test_cluster(tmp_path: Path) -> None:
    with Nodes(PATIENT) as nodes:
        follow("Cluster", tmp_path, nodes.url)


def test_every_block_is_in_one_of_these_sections() -> None:
    followed = {block.line for heading in ("TLS", "Sentinel", "Cluster") for block in section(heading)}
    assert followed == {block.line for block in blocks(DOCUMENT)}


@pytest.mark.parametrize("document", [DOCUMENT, ROOT / "ops" / "acl" / "README.md"])
def test_every_link_leads_to_something(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (document.parent / target).exists(), target
