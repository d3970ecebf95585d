"""Good answers of the echo provider."""

from __future__ import annotations

import pytest
from echoing import read, request

from deltabus.testing.chunks import completion_violations, stream_violations


@pytest.fixture
def stream(run):
    """The items of a good stream."""

    def stream(**fields):
        items, error = run(read(request(**fields)))
        assert error is None
        assert stream_violations(items) == []
        return items

    return stream


@pytest.fixture
def whole(run):
    """The completion of a good answer that is not streamed."""

    def whole(**fields):
        items, error = run(read(request(stream=False, **fields)))
        assert error is None
        assert completion_violations(items) == []
        return items[0].data

    return whole
