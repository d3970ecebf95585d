"""ops/examples/picture*.py: upload a picture, ask about it by file id, delete it; nothing is left anywhere."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import DELTABUS, PATIENCE, Background, environ

from deltabus.testing.api import LOCALAI, OPENAI, ApiServer, Fault

Ask = Callable[[], "subprocess.CompletedProcess[str]"]

EXAMPLES = Path(__file__).parents[2] / "ops" / "examples"

#: A JPEG as far as anybody looks; of more than one chunk.
PICTURE = b"\xff\xd8\xff\xe0" + random.Random(5).randbytes(1_500_000)

QUESTION = "What is in this image?"


@pytest.fixture(params=["a server with file ids", "a server without"])
def server(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[ApiServer]:
    """The provider, with a worker that has it configured; and a picture."""
    knows_ids = request.param == "a server with file ids"
    (tmp_path / "picture.jpg").write_bytes(PICTURE)
    with ApiServer(OPENAI if knows_ids else LOCALAI) as server:
        (tmp_path / "deltabus.toml").write_text(
            f'[providers.server]\nplugin = "openai"\nbase_url = "{server.url}"\n'
            f"capabilities = {{ file_ids = {str(knows_ids).lower()} }}\n"
        )
        with Background([*DELTABUS, "worker"], folder=tmp_path, environ=environ(redis_url)) as worker:
            worker.wait_for("worker started")
            yield server


@pytest.fixture(params=["picture.py", "picture_rq.py"])
def ask(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Ask:
    """Run one of the scripts."""

    def ask() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, EXAMPLES / request.param, "picture.jpg", QUESTION, "gpt-4o-mini"],
            cwd=tmp_path,
            env=environ(redis_url, REDIS_URL=redis_url),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return ask


def test_the_model_sees_the_picture_and_the_question_and_nothing_is_left(
    server: ApiServer, ask: Ask, redis_url: str
) -> None:
    done = ask()
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(PICTURE).hexdigest() in done.stdout
    assert f"text: {QUESTION}" in done.stdout
    assert "POST /files" in server.operations()
    assert server.left == []


def test_the_picture_is_deleted_also_where_the_question_fails(server: ApiServer, ask: Ask) -> None:
    server.fault(Fault.refuse(400), on="POST /chat/completions")
    done = ask()
    assert done.returncode != 0
    assert "refused with 400" in done.stderr
    assert "POST /files" in server.operations()
    assert server.left == []
