"""A server that nobody here wrote, LiteLLM's proxy, with a real Redis and a real worker in front of it.

Not part of `make test`: `make peers` installs the proxy into an environment of its own and runs these.
"""

from __future__ import annotations

import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import deltabus
from deltabus.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "ops" / "peers" / "litellm"
LITELLM = ROOT / ".cache" / "peers" / "litellm" / "bin" / "litellm"
KEY = "sk-peer-0123456789"

#: Seconds for the proxy to come up: it imports a great deal.
START = 120

#: The proxy looks for prices and news on the internet; these say no, and the proxy address is a dead end.
OFFLINE = {
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    "LITELLM_TELEMETRY": "False",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
}

PROVIDERS = """
[providers.litellm]
plugin = "openai"
base_url = "${{PEER_URL}}"
api_key = "{key}"

[providers.litellm-v1]
plugin = "openai"
base_url = "${{PEER_URL}}/v1"
api_key = "{key}"

[providers.litellm-wrong-key]
plugin = "openai"
base_url = "${{PEER_URL}}"
api_key = "sk-wrong-0123456789"
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record",
        action="store_true",
        help="write what the peer sends today to tests/golden/litellm; then read the diff",
    )


class Process:
    """A child with what it started, killed with its owner however that ends; its output can be waited for."""

    def __init__(self, command: list[str | Path], *, cwd: Path, env: dict[str, str]) -> None:
        guard = Path(deltabus.__file__).with_name("guard.py")
        self._process = subprocess.Popen(
            [sys.executable, guard, str(os.getpid()), "", *command],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.output: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, seconds: float) -> None:
        """Until a line of the output holds `text`."""
        try:
            while (line := self._lines.get(timeout=seconds)) is not None:
                if text in line:
                    return
        except queue.Empty:
            pass
        pytest.fail(f"no {text!r} within {seconds} s in:\n{''.join(self.output)}")

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.output.append(line)
                self._lines.put(line)
        self._lines.put(None)


@dataclass(frozen=True)
class Peer:
    """The proxy: `url` without `/v1`, and the one key that it accepts."""

    url: str
    key: str


@pytest.fixture(scope="session")
def peer() -> Iterator[Peer]:
    """LiteLLM's proxy with the models of ops/peers/litellm/config.yaml."""
    if not LITELLM.exists():
        pytest.fail("LiteLLM is not installed: run `make peers`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = Process(
        [LITELLM, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"],
        cwd=CONFIG,
        env={**os.environ, **OFFLINE, "PEER_KEY": KEY, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
    )
    try:
        process.wait_for("Uvicorn running on", START)
        yield Peer(f"http://127.0.0.1:{port}", KEY)
    finally:
        process.stop()


@pytest.fixture(scope="session")
def bus(peer: Peer, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[deltabus.Bus]:
    """A producer on a private Redis, and a worker process that serves it from the peer."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "deltabus.toml").write_text(PROVIDERS.format(key=peer.key), encoding="utf-8")
    deltabus_cli = shutil.which("deltabus", path=Path(sys.executable).parent)
    assert deltabus_cli is not None
    worker = Process(
        [deltabus_cli, "worker"],
        cwd=folder,
        env={**os.environ, "PEER_URL": peer.url, "REDIS_URL": redis_server.url, "PYTHONUNBUFFERED": "1"},
    )
    try:
        with deltabus.Bus(redis_server.url) as bus:
            yield bus
    finally:
        worker.stop()
