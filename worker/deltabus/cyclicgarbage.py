"""How often Python looks for cyclic garbage in a worker."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

#: Objects that are made, and not freed, until Python looks among them for cycles. At its default of 700 that took a
#: tenth of a worker's CPU, as each of hundreds of running tasks holds some.
GARBAGE: Final = 10_000


@contextlib.contextmanager
def rarely_collected() -> Iterator[None]:
    """Let Python look for cyclic garbage less often, and not among what was there from the start."""
    before = gc.get_threshold()
    # Without a collection before: it takes 30 ms, and of what has been imported by now, next to nothing is garbage.
    gc.freeze()
    gc.set_threshold(GARBAGE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
