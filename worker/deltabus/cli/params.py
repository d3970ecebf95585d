"""`--param KEY=JSON`: any field of a request that has no option of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click
import msgspec

#: The option; a command gets the texts as `params`.
PARAM = click.option(
    "--param", "params", multiple=True, metavar="KEY=JSON", help="Any field of the request; repeatable."
)


def params_of(texts: Iterable[str], own: Mapping[str, str]) -> dict[str, Any]:
    """What the options say, by key.

    Args:
        own: fields that have an option of their own, and its name.

    Raises:
        click.UsageError: one is not written as it must be; the message says how.
    """
    return dict(_param(text, own) for text in texts)


def _param(text: str, own: Mapping[str, str]) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.UsageError(f"--param {text}: write KEY=JSON, such as `--param temperature=0.2`")
    if key in own:
        raise click.UsageError(f"--param {key}: use {own[key]} for it")
    try:
        return key, msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise click.UsageError(
            f"--param {key}: {value} is not JSON; a string needs quotes inside: --param '{key}=\"{value}\"'"
        ) from exc
