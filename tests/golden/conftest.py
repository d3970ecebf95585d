"""Bytes that must not change by accident: kept in files here, compared with what the code makes today."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden",
        action="store_true",
        help="write the golden files from what the code makes today; then read the diff: it is a protocol change",
    )


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Callable[[str, bytes], None]:
    """`golden("events.jsonl", made)`: `made` is, byte for byte, what that file holds."""

    def compare(name: str, made: bytes) -> None:
        file = HERE / name
        # Unknown where pytest was not given this folder by name, and then nobody asked to write.
        if pytestconfig.getoption("--write-golden", default=False):
            file.write_bytes(made)
        assert made.decode() == file.read_text(encoding="utf-8"), f"{name} differs; see --write-golden"

    return compare
