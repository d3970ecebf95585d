"""A number of seconds within limits."""

from __future__ import annotations

import math
from typing import Any

import click


class Seconds(click.FloatRange):
    """As click's, of which `nan` is within all limits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds
