"""ops/security.md tells the truth, and what `deltabus check --production` finds on a real server."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from documents import ROOT, Reader
from processes import DELTABUS, PATIENCE, environ
from redis import Redis

from deltabus.cli import exits
from deltabus.embedded import EmbeddedRedis

DOCUMENT = ROOT / "ops" / "security.md"


def test_every_block_does_what_it_says(redis_url: str, tmp_path: Path) -> None:
    with Reader(tmp_path, redis_url) as reader:
        reader.follow(DOCUMENT)


def test_every_link_leads_to_something() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", DOCUMENT.read_text(encoding="utf-8")):
        assert (DOCUMENT.parent / target).exists(), target


@pytest.fixture
def hardened(tmp_path: Path) -> Path:
    """A folder with a configuration for production, but for the address of Redis."""
    for name in ("password", "key"):
        path = tmp_path / name
        path.write_text("secret-0123456789\n")
        path.chmod(0o400)
    config = tmp_path / "deltabus.toml"
    config.write_text(
        '[providers.acme]\nplugin = "openai"\nbase_url = "http://localhost:9"\napi_key = {file = "key"}\n'
    )
    config.chmod(0o640)
    return tmp_path


def test_a_server_is_judged_by_what_it_says(hardened: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    arguments = ("--appendonly", "yes", "--maxmemory", "100mb")
    with EmbeddedRedis(directory=folder, args=arguments) as server:
        with Redis.from_url(server.url) as redis:
            redis.execute_command("ACL", "SETUSER", "worker", "on", ">secret-0123456789", "~*", "&*", "+@all")
            redis.sadd("rq:queues", "rq:queue:mail", "rq:queue:chat")
            redis.hset("rq:job:pickled", "data", b"\x80\x04\x95")
            redis.rpush("rq:queue:chat", "pickled")
        variables = {
            "DELTABUS_REDIS_URL": server.url.replace("//", "//worker@"),
            "DELTABUS_REDIS_PASSWORD_FILE": "password",
            "DELTABUS_METRICS_PORT": "9464",
        }
        done = subprocess.run(
            [*DELTABUS, "check", "--production", "--json", "--grace", "20"],
            cwd=hardened,
            env=environ(**variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    report = json.loads(done.stdout)
    states = {line["subject"]: line["state"] for line in report["findings"] if "." in line["subject"]}
    states.pop("worker.root", None)  # who runs the tests
    assert states == {
        "redis.replicas": "warning",
        "queues.shared": "warning",
        "queues.serializer": "error",
        "worker.drain": "error",
    }
    assert (done.returncode, report["ok"]) == (exits.FAILED, False)
    assert "secret-0123456789" not in done.stdout + done.stderr
