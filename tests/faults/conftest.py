"""The fixtures of the fault tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import durable, provider, scene
from talker import Talker

__all__ = ["durable", "provider", "scene", "talker"]


@pytest.fixture
def talker(tmp_path: Path) -> Iterator[Talker]:
    """A provider whose answers the test lets end."""
    with Talker(tmp_path) as talker:
        yield talker
