"""A worker gives itself the open files that its tasks take, and says where it may not."""

from __future__ import annotations

import resource

import pytest
import structlog

from deltabus import openfiles


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Soft and hard limit of a process, which can be set."""
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.__setitem__(slice(None), wanted))
    return limits


@pytest.mark.parametrize(
    ("concurrency", "soft", "warned"), [(100, 1024, False), (480, 1024, False), (500, 1064, False), (5000, 4096, True)]
)
def test_the_soft_limit_is_raised_as_far_as_it_goes(
    limits: list[int], concurrency: int, soft: int, warned: bool
) -> None:
    with structlog.testing.capture_logs() as lines:
        openfiles.allow(concurrency)
    assert limits == [soft, 4096]
    assert [line["log_level"] for line in lines] == ["warning"] * warned


def test_without_a_limit_there_is_enough(limits: list[int]) -> None:
    limits[1] = resource.RLIM_INFINITY
    openfiles.allow(50_000)
    assert limits[0] == 100_064
    limits[0] = resource.RLIM_INFINITY
    openfiles.allow(500_000)
    assert limits[0] == resource.RLIM_INFINITY
    assert openfiles.most() > openfiles.wanted(1_000_000)
