"""Numbers as a screen shows them: short. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: Parts of a bar of slots.
_BAR: Final = 10

#: Bars of a line of rates, from the lowest to the highest.
_STEPS: Final = "▁▂▃▄▅▆▇█"


def span(seconds: float) -> str:
    """A time in a few characters: 0.4s, 12s, 3m, 5h, 2d."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit, size in (("s", 120), ("m", 120), ("h", 48)):
        if seconds < size:
            return f"{seconds:.0f}{unit}"
        seconds /= 60 if unit != "h" else 24
    return f"{seconds:.0f}d" if seconds < 1000 else "999d+"


def size(number: int) -> str:
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def bar(used: int, slots: int) -> str:
    """Slots that are used, of all that there are."""
    filled = min(_BAR, max(used > 0, used * _BAR // slots))
    return f"{'█' * filled}{'░' * (_BAR - filled)} {used}/{slots}"


def spark(values: Sequence[float]) -> str:
    """Values as a line of bars."""
    most = max(values, default=0.0)
    return "".join(_STEPS[min(7, int(value / most * 7.999))] if most > 0 else _STEPS[0] for value in values)
