"""What every command has: `--redis`, `--config`, before or after the command's name, and the settings they make."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from deltabus.settings import Settings, load


class Session:
    """One run of the command line."""

    def __init__(self) -> None:
        self.redis: str | None = None
        self.config: Path | None = None

    @cached_property
    def settings(self) -> Settings:
        """The configuration, with what the options say on top. Providers' secrets that a command prints are not in it.

        Raises:
            ConfigError: it does not work as written.
        """
        return self._load(run_commands=False)

    @cached_property
    def worker_settings(self) -> Settings:
        """The same for who talks to providers: commands that print their secrets have run."""
        return self._load(run_commands=True)

    def _load(self, *, run_commands: bool) -> Settings:
        settings = load(self.config, run_commands=run_commands)
        if self.redis is None:
            return settings
        return replace(settings, redis_url=self.redis, sources={**settings.sources, "redis_url": "--redis"})

    def command(self, *words: str) -> str:
        """A command for the user to type that means the same Redis and configuration; never a password."""
        options = []
        if self.redis is not None:
            options += ["--redis", self.settings.redis_address]
        if self.config is not None:
            options += ["--config", str(self.config)]
        return shlex.join(["deltabus", *words, *options])


#: Hands the session to a command as its first argument.
pass_session = click.make_pass_decorator(Session)


def _redis(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).redis = value


def _config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Session).config = value


OPTIONS: tuple[click.Option, ...] = (
    click.Option(
        ["--redis"],
        metavar="URL",
        expose_value=False,
        callback=_redis,
        help="Redis to use: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://.",
    ),
    click.Option(
        ["--config"],
        metavar="PATH",
        type=click.Path(path_type=Path, dir_okay=False),
        expose_value=False,
        callback=_config,
        help="Configuration file instead of ./deltabus.toml.",
    ),
)


class Command(click.Command):
    """A command that takes the options of all commands after its own name too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += OPTIONS


class CommandGroup(click.Group):
    """Commands about one thing; each takes the options of all commands."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += OPTIONS
