"""Providers by name and by model: entry points become plugins when they are first asked for.

A plugin that cannot be loaded, or does not like its settings, hurts only the providers that use it.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from deltabus.errors import ConfigError, UnknownProvider, Unsupported
from deltabus.provider import Provider
from deltabus.settings import ProviderSettings, Settings

#: Entry-point group through which every plugin registers, ours like anybody's.
GROUP: Final = "deltabus.providers"

#: Plugin of a provider that names none and after which none is called: most servers speak its API.
DEFAULT_PLUGIN: Final = "openai"

#: What a producer who does not care sends as the model; it is routed like no model at all.
DEFAULT_MODEL: Final = "default"


def plugins() -> dict[str, EntryPoint]:
    """The installed plugins by name, not loaded. Of two that share a name, the first is listed."""
    return {name: found[0] for name, found in _installed().items()}


def plugin_of(provider: ProviderSettings) -> str:
    """Entry-point name of the plugin that serves a provider, installed or not."""
    return _plugin_of(provider, plugins())


class Registry:
    """The configured providers, made when they are first used. Used from one asyncio loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.providers
        self._secrets = settings.secrets
        self._made: dict[str, Provider] = {}
        # What failed once fails again the same way: a broken plugin is not imported for every task.
        self._broken: dict[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The configured providers, in file order."""
        return tuple(self._settings)

    def resolve(self, provider: str | None, model: str | None) -> Provider:
        """The provider that a task asks for by name, or else the one whose route takes its model.

        Raises:
            UnknownProvider: there is no such provider or route, or the provider cannot be used.
        """
        name = self.choose(provider, model)
        try:
            return self.provider(name)
        except ConfigError as exc:
            raise UnknownProvider(str(exc), provider=name) from exc

    def choose(self, provider: str | None, model: str | None, *, files: bool = False) -> str:
        """The name of the provider that `resolve` gives.

        Args:
            files: it is wanted for its files: where neither name nor model decides, one that has none is passed over.

        Raises:
            UnknownProvider: there is no such provider or route.
            Unsupported: none of those in question has files.
        """
        if files and provider is None and model in (None, DEFAULT_MODEL):
            return self._with_files()
        return self._named(provider) if provider is not None else self._route(model)

    def provider(self, name: str) -> Provider:
        """The provider of that name.

        Raises:
            ConfigError: it is not configured, its plugin cannot be loaded, or refuses the settings.
        """
        if name in self._made:
            return self._made[name]
        if name in self._broken:
            raise ConfigError(self._broken[name])
        if name not in self._settings:
            raise ConfigError(f"no provider `{name}` is configured; {_nearest(name, self._settings)}")
        try:
            self._made[name] = self._make(self._settings[name])
        except ConfigError as exc:
            self._broken[name] = str(exc)
            raise
        return self._made[name]

    @cached_property
    def _installed(self) -> dict[str, list[EntryPoint]]:
        return _installed()

    async def aclose(self) -> None:
        """Close the providers that were made; one that fails does not keep the others open.

        Raises:
            ExceptionGroup: what the plugins raised.
        """
        failures = []
        while self._made:
            _, provider = self._made.popitem()
            try:
                await provider.aclose()
            except Exception as exc:  # noqa: BLE001  It is a plugin's code; it is raised below.
                failures.append(exc)
        if failures:
            raise ExceptionGroup("providers failed to close", failures)

    def _with_files(self) -> str:
        tried = [name for name, settings in self._settings.items() if "*" in settings.models] or [self._route(None)]
        for name in tried:
            if self.resolve(name, None).capabilities.files:
                return name
        raise Unsupported(
            f"no provider of tasks without a model has files; tried {', '.join(f'`{name}`' for name in tried)}: "
            'name one that has in `provider`, or let it take every model (models = ["*"])',
            param="provider",
        )

    def _named(self, name: str) -> str:
        if name not in self._settings:
            raise UnknownProvider(
                f"no provider `{name}` is configured; {_nearest(name, self._settings)}", param="provider"
            )
        return name

    def _route(self, model: str | None) -> str:
        routes = {name: provider.models for name, provider in self._settings.items()}
        if model is None or model == DEFAULT_MODEL:
            for name, patterns in routes.items():
                if "*" in patterns:
                    return name
            if len(routes) == 1:
                return next(iter(routes))
            raise UnknownProvider(
                'the request names no model, and no provider takes every model (models = ["*"]); '
                "name one of them: a model in the request, or a provider in `provider`",
                param="request.model",
            )
        for name, patterns in routes.items():
            if any(fnmatchcase(model, pattern) for pattern in patterns):
                return name
        known = "; ".join(f"{name}: {', '.join(patterns) or 'by name only'}" for name, patterns in routes.items())
        raise UnknownProvider(
            f"no provider takes the model `{model}`; configured are {known or 'none'}", param="request.model"
        )

    def _make(self, settings: ProviderSettings) -> Provider:
        if settings.problem is not None:
            raise ConfigError(settings.problem)
        name = settings.name
        installed = self._installed
        plugin = _plugin_of(settings, installed)
        if plugin not in installed:
            raise ConfigError(
                f"provider `{name}` wants the plugin `{plugin}`, which is not installed; {_nearest(plugin, installed)}"
            )
        factory, label = _load(installed[plugin])
        try:
            return factory(name, dict(settings.options))
        except ConfigError as exc:
            raise ConfigError(f"[providers.{name}]: {self._masked(str(exc))}") from exc
        except Exception as exc:
            # Not an error that a plugin may raise here, so nobody has seen to it that it hides the settings.
            raise ConfigError(
                f"provider `{name}`: {label} failed: {type(exc).__name__}: {self._masked(str(exc))}"
            ) from exc

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _plugin_of(provider: ProviderSettings, installed: Collection[str]) -> str:
    return provider.plugin or (provider.name if provider.name in installed else DEFAULT_PLUGIN)


def _installed() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name, []).append(entry)
    return found


def _load(entries: list[EntryPoint]) -> tuple[type[Provider], str]:
    """The plugin's class, and how messages call the plugin."""
    entry = entries[0]
    label = f"plugin `{entry.name}` ({entry.value}, from {_distribution(entry)})"
    if len(entries) > 1:
        both = " and ".join(f"{_distribution(entry)} ({entry.value})" for entry in entries)
        raise ConfigError(f"plugin `{entry.name}` is registered by {both}: uninstall all but one")
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as exc:  # A module may do anything when it is imported, exit as well.
        raise ConfigError(f"{label} cannot be loaded: {type(exc).__name__}: {exc}") from exc
    if not inspect.isclass(loaded):
        raise ConfigError(f"{label} is not a class but a {type(loaded).__name__}")
    if not issubclass(loaded, Provider):
        raise ConfigError(f"{label} is not a subclass of deltabus.provider.Provider")
    if inspect.isabstract(loaded):
        missing = ", ".join(sorted(loaded.__abstractmethods__))
        raise ConfigError(f"{label} does not define {missing}")
    return loaded, label


def _distribution(entry: EntryPoint) -> str:
    with contextlib.suppress(KeyError):  # Metadata without a name or a version.
        if entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return "an unnamed distribution"


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(known) or 'none'}"
