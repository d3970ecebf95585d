"""Durations as people write them."""

from __future__ import annotations

import re
from typing import Any, Final

import click

#: Seconds in the units of a duration.
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Age(click.ParamType[float]):
    """A duration such as 90s, 30m, 12h or 7d, in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smhd]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration, such as 90s, 30m, 12h or 7d", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]
