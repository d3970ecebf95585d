"""A server that nobody here wrote, LiteLLM's proxy, with a real Redis and a real worker in front of it.

Not part of `make test`: `make peers` installs the proxy into an environment of its own and runs these.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import DELTABUS, Background, environ

from deltabus import Bus
from deltabus.embedded import EmbeddedRedis

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "ops" / "peers" / "litellm"
LITELLM = ROOT / ".cache" / "peers" / "litellm" / "bin" / "litellm"
KEY = "sk-peer-0123456789"

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
    command = [str(LITELLM), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
    with Background(
        command, folder=CONFIG, environ=environ(PYTHONDONTWRITEBYTECODE="1", PEER_KEY=KEY, **OFFLINE)
    ) as proxy:
        proxy.wait_for("Uvicorn running on")
        yield Peer(f"http://127.0.0.1:{port}", KEY)


@pytest.fixture(scope="session")
def bus(peer: Peer, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A producer on a private Redis, and a worker process that serves it from the peer."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "deltabus.toml").write_text(PROVIDERS.format(key=peer.key), encoding="utf-8")
    settings = environ(redis_server.url, PEER_URL=peer.url, DELTABUS_LOG_FORMAT="json")
    with Background([*DELTABUS, "worker"], folder=folder, environ=settings) as worker, Bus(redis_server.url) as bus:
        worker.wait_for("worker started")
        yield bus
