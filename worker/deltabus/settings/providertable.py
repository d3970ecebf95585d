"""A table `[providers.<name>]`: which plugin serves which models, with what options."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from deltabus.errors import ConfigError
from deltabus.settings.configvalue import kind, public_url
from deltabus.settings.secretsource import TABLES, SecretSource, is_elsewhere, said

#: Where no provider is configured, these variables make some, called like their plugins. They are those that the
#: vendors' own SDKs read.
VARIABLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "anthropic": {"base_url": ("ANTHROPIC_BASE_URL",), "api_key": ("ANTHROPIC_API_KEY",)},
    "gemini": {"base_url": ("GOOGLE_GEMINI_BASE_URL",), "api_key": ("GEMINI_API_KEY", "GOOGLE_API_KEY")},
    "openai": {
        "base_url": ("OPENAI_BASE_URL",),
        "api_key": ("OPENAI_API_KEY",),
        "organization": ("OPENAI_ORG_ID", "OPENAI_ORGANIZATION"),
        "project": ("OPENAI_PROJECT_ID",),
    },
}

#: As images and orchestrators have it: OPENAI_API_KEY_FILE names a file that holds the key.
FILE_SUFFIX: Final = "_FILE"

#: The models of each where there are several of them; OpenAI's API has many vendors' models.
_MODELS: Final[Mapping[str, list[str]]] = {
    "anthropic": ["claude-*"],
    "gemini": ["gemini-*", "gemma-*"],
    "openai": ["*"],
}

_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_KEY = re.compile(r"(?i)key|token|secret|auth|passw|credential|cookie|headers")
_PLACEHOLDERS_ONLY = re.compile(r"(?i)\s*((bearer|basic)\s+)?\$\{[^{}]*\}\s*")

#: Shorter values are not masked in logs: they are no secrets, and would be found inside other words.
_SHORTEST_SECRET: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """A table `[providers.<name>]`."""

    name: str
    #: Entry-point name of the plugin; None: the plugin called as the provider, else `openai`.
    plugin: str | None = None
    #: Model patterns (`fnmatch`) that this provider serves; the first match in file order wins.
    models: tuple[str, ...] = ("*",)
    #: The rest of the table, for the plugin; what stands elsewhere is looked up. May hold secrets: never print it.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Why this provider cannot be used: a variable, file or command that does not give its secret. Raised when it is
    #: asked for, so that the others work, and so that a producer can read the file without the workers' secrets.
    problem: str | None = None
    #: `options` for a screen: as the file has them, `${NAME}` and all, with written-out secrets masked.
    shown: Mapping[str, str] = field(default_factory=dict, repr=False)
    #: What `options` hold that nobody may see.
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


def read(tables: Any, source: SecretSource, file: str) -> dict[str, ProviderSettings]:
    """The providers of a file, in its order.

    Raises:
        ConfigError: a table is not one, or a key of the bus' in it is wrong.
    """
    if not isinstance(tables, dict):
        raise ConfigError(f"`providers` in {file} must be tables, one for each provider: [providers.NAME]")
    providers = {}
    for name, table in tables.items():
        where = f"[providers.{name}] in {file}"
        if not isinstance(table, dict):
            raise ConfigError(f"`providers.{name}` in {file} must be a table, [providers.{name}], not {kind(table)}")
        if not _PROVIDER_NAME.fullmatch(name):
            raise ConfigError(f"{where}: a provider's name is 1 to 64 letters, digits, `.`, `_` and `-`")
        providers[name] = _provider(name, dict(table), source, where)
    return providers


def _provider(name: str, table: dict[str, Any], source: SecretSource, where: str) -> ProviderSettings:
    plugin = table.pop("plugin", None)
    if plugin is not None and not (isinstance(plugin, str) and plugin):
        raise ConfigError(f"`plugin` of {where} must be the name of an installed plugin, not {kind(plugin)}")
    models = table.pop("models", ["*"])
    if not isinstance(models, list) or not all(isinstance(pattern, str) and pattern for pattern in models):
        raise ConfigError(f'`models` of {where} must be a list of patterns such as ["gpt-*"], not {kind(models)}')
    options: dict[str, Any] = {}
    secrets: set[str] = set()
    problem = None
    for key, value in table.items():
        options[key], used, wrong = source.expand(key, value)
        # A credential is usually one that is not written out; an address in a variable is not masked.
        secrets.update(_credentials(key, options[key]), (text for text in used if "://" not in text))
        if wrong and problem is None:
            problem = f"`{key}` of {where}: {wrong[0]}"
    return ProviderSettings(
        name=name,
        plugin=plugin,
        models=tuple(models),
        options=options,
        problem=problem,
        shown={key: _shown(key, value) for key, value in table.items()},
        secrets=frozenset(secret for secret in secrets if len(secret) >= _SHORTEST_SECRET),
    )


def fallback(source: SecretSource) -> tuple[dict[str, ProviderSettings], dict[str, str]]:
    """The providers of those who configure none: one for each vendor whose variables say how, else `echo`.

    A server at OPENAI_BASE_URL has whatever models it has, so it is asked first.

    Returns:
        the providers by name, in the order in which their models are looked for, and where each comes from.
    """
    tables: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for plugin, options in VARIABLES.items():
        names = {**options, "api_key": (*options["api_key"], *(name + FILE_SUFFIX for name in options["api_key"]))}
        used = {option: next(filter(source.variables.get, known), None) for option, known in names.items()}
        if used["base_url"] or used["api_key"]:
            tables[plugin] = {option: _variable(variable) for option, variable in used.items() if variable}
            sources[plugin] = next(filter(None, used.values()))
    if "base_url" in tables.get("openai", {}):
        tables = {"openai": tables.pop("openai"), **tables}
    if not tables:
        return {"echo": ProviderSettings(name="echo", plugin="echo")}, {"echo": "default"}
    return {
        plugin: _provider(
            plugin,
            {"plugin": plugin, "models": _MODELS[plugin] if len(tables) > 1 else ["*"], **table},
            source,
            "the environment",
        )
        for plugin, table in tables.items()
    }, sources


def _variable(name: str) -> Any:
    """The value of a variable, or of the file that it names, as a table has it."""
    return {"file": f"${{{name}}}"} if name.endswith(FILE_SUFFIX) else f"${{{name}}}"


def _credentials(key: str, value: Any) -> Iterator[str]:
    """Strings under a key that sounds like a credential's, and the passwords of URLs."""
    match value:
        case str():
            if _SECRET_KEY.search(key):
                yield value
            elif password := _password(value):
                yield password
        case dict() if is_elsewhere(value) and key not in TABLES:
            return  # where it was looked for in vain, which whoever is told of that has to read
        case dict():
            for inner, item in value.items():
                yield from _credentials(f"{key}.{inner}", item)
        case list():
            for item in value:
                yield from _credentials(key, item)


def _password(text: str) -> str | None:
    with contextlib.suppress(ValueError):  # Whether it is a URL at all is the plugin's business.
        return urlsplit(text).password
    return None


def _shown(key: str, value: Any) -> str:
    match value:
        case str() if _PLACEHOLDERS_ONLY.fullmatch(value):
            return value
        case str() if _SECRET_KEY.search(key):
            return "***"
        case str() if "://" in value:
            return public_url(value)
        case dict() if is_elsewhere(value) and key != "headers":
            return said(value)
        case dict():
            return ", ".join(f"{inner}={_shown(f'{key}.{inner}', item)}" for inner, item in value.items())
        case list():
            return ", ".join(_shown(key, item) for item in value)
        case bool():
            return str(value).lower()
    return str(value)
