"""Configurations: files and environments against the settings and the plugins that read their tables."""

from __future__ import annotations

import contextlib
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deltabus import settings
from deltabus.errors import ConfigError
from deltabus.registry import Registry
from deltabus.settings import Settings
from deltabus.topology.redisurl import RedisURL
from fuzz import corpus
from fuzz.mutation import NUMBERS, Mutator
from fuzz.subject import Parser

#: What is in the environment besides.
_ENVIRON: Final[Mapping[str, str]] = {"FUZZ_KEY": "sk-fuzz-0123456789", "FUZZ_URL": "redis://h:1/0"}


class Files(Parser):
    """`deltabus.toml`: read, checked, its providers made, all of it described."""

    kind = "config files"
    share = 12

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self._folder = tempfile.TemporaryDirectory(prefix="deltabus-fuzz-")
        self._path = Path(self._folder.name) / "deltabus.toml"

    def close(self) -> None:
        """See `Subject`."""
        self._folder.cleanup()

    def make(self, index: int) -> bytes:
        mutator = self.mutator(index)
        chance = mutator.random.random()
        good = mutator.random.choice(corpus.CONFIGS)
        if chance < 0.05:
            return mutator.noise()
        if chance < 0.35:
            return mutator.data(good)
        made = mutator.document(tomllib.loads(good.decode()), most=3)
        return _toml(made if isinstance(made, dict) else {"": made}).encode(errors="surrogatepass")

    def attempt(self, given: bytes) -> str:
        self._path.write_bytes(given)
        # No command is run that stands there by chance.
        return _loaded(settings.load(self._path, _ENVIRON, run_commands=False))


class Environments(Parser):
    """Variables, and the URLs in them."""

    kind = "environments"
    share = 6

    def make(self, index: int) -> dict[str, str]:
        mutator = self.mutator(index)
        made = {name: value for name, value in corpus.VARIABLES.items() if mutator.random.random() < 0.15}
        for _ in range(mutator.random.randint(1, 2)):
            name = mutator.random.choice(list(corpus.VARIABLES))
            made[name] = _worse(mutator, corpus.VARIABLES[name])
        if mutator.random.random() < 0.1:
            made[f"DELTABUS_{mutator.text()[:20].upper()}"] = "1"
        return made

    def attempt(self, given: dict[str, str]) -> str:
        with contextlib.suppress(ValueError):
            url = RedisURL.parse(given.get("DELTABUS_REDIS_URL", ""))
            for node in url.nodes:
                url.of(node)
        return _loaded(settings.load(Path(os.devnull), given, run_commands=False))


def _loaded(found: Settings) -> str:
    """Use what was read, as a worker and `deltabus check` do."""
    for line in found.describe():
        line.value.encode(errors="surrogatepass")
        assert not (line.name.startswith("providers.") and _ENVIRON["FUZZ_KEY"] in line.value), "a secret is shown"
    registry = Registry(found)
    problems = 0
    for name in registry.names:
        try:
            registry.provider(name)
        except ConfigError as exc:
            problems += 1
            if " failed: " in str(exc):
                raise AssertionError(f"a plugin met what it does not know: {exc}") from exc
    return f"ok, {problems} providers that are not" if problems else "ok"


def _worse(mutator: Mutator, value: str) -> str:
    place = mutator.random.randrange(len(value) + 1)
    return mutator.random.choice(
        (
            mutator.text(),
            value[:place] + mutator.text() + value[place:],
            value[:place],
            str(mutator.random.choice(NUMBERS)),
        )
    )


def _toml(table: Mapping[str, Any]) -> str:
    """A table in TOML, as far as what stands in it has such a form; what has none is written all the same."""
    return "".join(f"{_quoted(str(key))} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _quoted(value)
        case dict():
            return "{" + ", ".join(f"{_quoted(str(key))} = {_value(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case None:
            return '""'
    return str(value)


def _quoted(text: str) -> str:
    escaped = "".join(char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08X}" for char in text)
    return f'"{escaped}"'
