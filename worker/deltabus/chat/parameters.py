"""Rules that several requests hold a parameter to, each a function of the field and of whether limits are strict.

With `Capabilities.strict_ranges` off, limits and closed sets are left to the provider; types never are.
"""

from __future__ import annotations

from collections.abc import Callable

from deltabus.fields import Field

#: A check of one parameter that is set; the flag is `Capabilities.strict_ranges`.
Rule = Callable[[Field, bool], object]


def check(field: Field, strict: bool, /, **rules: Rule) -> None:
    """Hold the members of an object to these rules, where they are set."""
    for key, rule in rules.items():
        child = field.child(key)
        if not child.unset:
            rule(child, strict)


def string(field: Field, _: bool) -> None:
    """A string, perhaps empty."""
    field.string()


def strings(field: Field, _: bool) -> None:
    """An array of strings."""
    for item in field.items():
        item.string()


def number(low: float, high: float) -> Rule:
    """A number within these limits."""

    def rule(field: Field, strict: bool) -> None:
        if not low <= field.number() <= high and strict:
            raise field.error(f"must be a number from {low:g} to {high:g}")

    return rule


def integer(low: int, high: int | None = None) -> Rule:
    """A whole number within these limits."""

    def rule(field: Field, strict: bool) -> None:
        value = field.integer()
        if strict and (value < low or (high is not None and value > high)):
            raise field.error(f"must be at least {low}" if high is None else f"must be an integer from {low} to {high}")

    return rule
