"""ops/acl/README.md tells the truth: its commands make a file that Redis takes, with the users it speaks of."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import redis
from documents import ROOT, Block, Reader, blocks

from deltabus.embedded import EmbeddedRedis
from deltabus.topology import clients

FOLDER = ROOT / "ops" / "acl"


def _is_shown_only(block: Block) -> bool:
    """A line of a configuration, a URL, a line of a log: what they mean is tested where they are used."""
    return block.language == "text"


def test_every_command_makes_what_it_says(tmp_path: Path, redis_url: str) -> None:
    for recipe in FOLDER.glob("*.acl"):
        shutil.copy(recipe, tmp_path)
    with Reader(tmp_path, redis_url) as reader:
        for block in blocks(FOLDER / "README.md"):
            if not _is_shown_only(block):
                reader.run(block)
        untenanted = reader
    assert untenanted.output == ""
    users = tmp_path / "users.acl"
    users.write_text(users.read_text().replace("user default off", ""))  # the test's own way in
    with EmbeddedRedis(args=["--aclfile", str(users)]) as server, redis.Redis.from_url(server.url) as root:
        assert {name.removeprefix("deltabus-") for name in root.acl_users()} == {
            *("default", "worker", "operator"),
            *("acme-producer", "acme-subscriber", "globex-producer", "globex-subscriber"),
        }
        where = server.url.partition("://")[2]
        url = f"redis://deltabus-globex-producer:globex-producer-secret@{where}"
        with contextlib.closing(clients.blocking(url)) as client:
            assert client.rpush("rq:queue:globex", "globex-1") == 1


def test_the_recipes_without_tenants_are_recipes(tmp_path: Path) -> None:
    (command,) = (block.text for block in blocks(FOLDER / "README.md") if block.text.startswith("sed 's/acme-"))
    said = subprocess.run(["bash", "-c", command], cwd=FOLDER, capture_output=True, text=True, check=True).stdout
    assert "acme" not in said
    users = tmp_path / "users.acl"
    users.write_text(said.replace("SHA256", "0" * 64))
    with EmbeddedRedis(args=["--aclfile", str(users)]) as server, redis.Redis.from_url(server.url) as root:
        assert set(root.acl_users()) == {"default", "deltabus-producer", "deltabus-subscriber"}
