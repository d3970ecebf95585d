"""One frozen `Settings`, from `deltabus.toml` and the environment; the only reader of `os.environ`.

What is set where, the later over the earlier: the defaults below, the file, the environment. A field
`concurrency` is the key `concurrency` of the file and the variable `DELTABUS_CONCURRENCY`; a list is
comma-separated there. Providers are tables of the file::

    concurrency = 500

    [providers.acme-eu]
    plugin = "acme"              # default: the plugin of the table's own name, else "openai"
    models = ["acme-*"]          # default: every model
    api_key = "${ACME_KEY}"      # this and all other keys are the plugin's
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from deltabus import configfile
from deltabus.errors import ConfigError

#: Prefix of the environment variables of the fields.
ENVIRONMENT_PREFIX: Final = "DELTABUS_"

#: Where no provider is configured, these variables make one that is called `openai`.
OPENAI_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "base_url": ("OPENAI_BASE_URL",),
    "api_key": ("OPENAI_API_KEY",),
    "organization": ("OPENAI_ORG_ID", "OPENAI_ORGANIZATION"),
    "project": ("OPENAI_PROJECT_ID",),
}

#: Fields that only one variable of another program's sets, so that we agree with that program.
_FOREIGN: Final[Mapping[str, str]] = {"rq_key_prefix": "RQ_KEY_PREFIX"}

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "log_level": ("debug", "info", "warning", "error", "critical"),
    "log_format": ("auto", "console", "json"),
}

#: Fields of which 0 makes sense; every other number must be above it.
_MAY_BE_ZERO: Final = frozenset({"drain_timeout"})

_REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
_PROVIDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SECRET_KEY = re.compile(r"(?i)key|token|secret|passw|credential|authorization|cookie")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """A table `[providers.<name>]`."""

    name: str
    #: Entry-point name of the plugin; None: the plugin called as the provider, else `openai`.
    plugin: str | None = None
    #: Model patterns (`fnmatch`) that this provider serves; the first match in file order wins.
    models: tuple[str, ...] = ("*",)
    #: The rest of the table, for the plugin; `${NAME}` replaced. May hold secrets: never print it.
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Why this provider cannot be used: a variable that is not set. Raised when it is asked for, so
    #: that the others work, and so that a producer can read the file without the workers' secrets.
    problem: str | None = None
    #: What `options` hold that nobody may see.
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


class Setting(NamedTuple):
    """One line of `Settings.describe()`, fit to be shown."""

    name: str
    value: str
    #: `default`, the file's path, or the variable's name.
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Durations are seconds, sizes are bytes.

    Raises:
        ConfigError: a value is of the wrong type or out of its range; the message names the field.
    """

    redis_url: str = field(default="redis://localhost:6379/0", repr=False)
    #: Queues to work on, highest priority first.
    queues: tuple[str, ...] = ("chat", "file")
    #: Attempts that one process runs at once.
    concurrency: int = 100
    #: For how long a log and a result live after the terminal event.
    result_ttl: int = 3600
    #: For how long RQ keeps a failed job.
    failure_ttl: int = 7 * 24 * 3600
    #: Seconds an attempt may take where neither job nor envelope says so.
    job_timeout: int = 3600
    #: A worker that has not renewed its lease for this long is taken for dead.
    lease: float = 10.0
    #: How often leases are renewed and RQ's heartbeats sent.
    heartbeat_interval: float = 3.0
    #: How long attempts may go on after SIGTERM.
    drain_timeout: float = 25.0
    #: Largest envelope, as JSON.
    max_request_bytes: int = 4 * 1024 * 1024
    #: Largest answer, as JSON.
    max_answer_bytes: int = 32 * 1024 * 1024
    #: Largest log of one task; above it, a snapshot replaces what was streamed.
    max_log_bytes: int = 4 * 1024 * 1024
    #: Deltas of one task that may wait for Redis before the provider's socket is no longer read.
    max_pending_bytes: int = 256 * 1024
    #: Hosts that a job's RQ webhooks may call.
    webhook_hosts: tuple[str, ...] = ()
    log_level: str = "info"
    #: `console`, `json`, or `auto`: console on a terminal.
    log_format: str = "auto"
    #: Prefix of RQ's keys. RQ reads it from RQ_KEY_PREFIX, so that variable alone sets it here.
    rq_key_prefix: str = "rq"
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    #: Where each value that is not a default comes from.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _DEFAULTS:
            if problem := _problem(name, getattr(self, name)):
                raise ConfigError(f"`{name}` {problem}")
        if self.heartbeat_interval >= self.lease:
            raise ConfigError(
                f"`heartbeat_interval` ({self.heartbeat_interval:g} s) must be below `lease` ({self.lease:g} s), best "
                "a third of it: a worker that does not renew its lease before it runs out is taken for dead"
            )

    @property
    def redis_address(self) -> str:
        """`redis_url` without its password."""
        return public_url(self.redis_url)

    @property
    def secrets(self) -> frozenset[str]:
        """Every configured value that must not appear in a log, an event or on a screen."""
        url = urlsplit(self.redis_url)
        passwords = {unquote(url.password or ""), *parse_qs(url.query).get("password", ())} - {""}
        return frozenset(passwords.union(*(provider.secrets for provider in self.providers.values())))

    def describe(self) -> list[Setting]:
        """Every setting with its value and where it comes from; secrets are masked."""
        lines = []
        for name in _DEFAULTS:
            value = self.redis_address if name == "redis_url" else getattr(self, name)
            lines.append(Setting(name, _shown(value, frozenset()), self.sources.get(name, "default")))
        for provider in self.providers.values():
            source = self.sources.get(f"providers.{provider.name}", "default")
            table = {"plugin": provider.plugin, "models": provider.models, **provider.options}
            lines += [
                Setting(f"providers.{provider.name}.{key}", _shown(value, provider.secrets), source)
                for key, value in table.items()
                if value is not None
            ]
        return lines


#: The fields that one key or variable sets, with their defaults; the default's type is the field's.
_DEFAULTS: Final[Mapping[str, Any]] = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the configuration, once, at the door of a process.

    Args:
        path: the file; None: what $DELTABUS_CONFIG names, else ./deltabus.toml if there is one.
        environ: the environment; None: the process' own.

    Raises:
        ConfigError: the message names the file and line, or the key or variable, and the fix.
    """
    environ = os.environ if environ is None else environ
    file = configfile.find(path, environ)
    table = configfile.read(file) if file else {}
    tables = table.pop("providers", {})
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in table.items():
        values[key] = _from_file(key, value, str(file))
        sources[key] = str(file)
    for name, variable in _variables(environ):
        values[name] = _from_variable(name, variable, environ[variable])
        sources[name] = variable
    providers = _providers(tables, environ, str(file))
    for name in providers:
        sources[f"providers.{name}"] = str(file)
    if not providers:
        providers, sources["providers.openai"] = _openai(environ)
    if not providers:
        providers = {"echo": ProviderSettings(name="echo", plugin="echo")}
    return Settings(**values, providers=providers, sources=sources)


def public_url(url: str) -> str:
    """The URL without user, password, query and fragment: what a message may show."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _from_file(key: str, value: Any, file: str) -> Any:
    if key in _FOREIGN:
        raise ConfigError(
            f"`{key}` in {file} has no effect on RQ; set the environment variable {_FOREIGN[key]} instead"
        )
    if key not in _DEFAULTS:
        near = difflib.get_close_matches(key, [*_DEFAULTS, "providers"], n=1)
        hint = (
            f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(_DEFAULTS))} and [providers.NAME]"
        )
        raise ConfigError(f"unknown key `{key}` in {file}; {hint}")
    if isinstance(value, list):
        value = tuple(value)
    if problem := _problem(key, value):
        raise ConfigError(f"`{key}` in {file} {problem}")
    return value


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Fields and the variables that set them; an empty variable counts as one that is not set."""
    names = {ENVIRONMENT_PREFIX + name.upper(): name for name in _DEFAULTS if name not in _FOREIGN}
    for variable in environ:
        # Kubernetes invents DELTABUS_PORT and the like for a service called `deltabus`: only what looks
        # like a slip of the pen is one.
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in {*names, configfile.VARIABLE}:
            near = difflib.get_close_matches(variable, names, n=1, cutoff=0.85)
            if near:
                raise ConfigError(f"unknown environment variable {variable}; did you mean {near[0]}?")
    foreign = {variable: name for name, variable in _FOREIGN.items()}
    # REDIS_URL is what hosting platforms set; our own variable comes later and wins.
    for variable, name in {"REDIS_URL": "redis_url", **foreign, **names}.items():
        if environ.get(variable):
            yield name, variable


def _from_variable(name: str, variable: str, text: str) -> Any:
    default = _DEFAULTS[name]
    value: Any = text.strip()
    if isinstance(default, tuple):
        value = tuple(part.strip() for part in text.split(",") if part.strip())
    elif name in _CHOICES:
        value = value.lower()
    elif isinstance(default, int | float):
        with contextlib.suppress(ValueError):  # What stays a string is refused as one below.
            value = type(default)(value)
    if problem := _problem(name, value):
        raise ConfigError(f"environment variable {variable} {problem}")
    return value


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with the value of a field, as the rest of a sentence; never the value of a secret."""
    default = _DEFAULTS[name]
    match default:
        case tuple():
            if not isinstance(value, tuple) or not all(isinstance(item, str) and item.strip() for item in value):
                return f"must be a list of names, not {_kind(value)}"
            if len(set(value)) < len(value):
                return "names the same thing twice"
            if default and not value and name == "queues":
                return "must name at least one queue"
        case int() | float():
            return _number_problem(name, value, whole=isinstance(default, int))
        case str():
            if not isinstance(value, str):
                return f"must be a string, not {_kind(value)}"
            if name in _CHOICES and value not in _CHOICES[name]:
                return f"must be one of {', '.join(_CHOICES[name])}, not {value!r}"
            if name == "redis_url":
                return _redis_url_problem(value)
    return None


def _number_problem(name: str, value: Any, *, whole: bool) -> str | None:
    unit = "bytes" if name.endswith("_bytes") else "seconds" if name != "concurrency" else "attempts at once"
    kind = f"a whole number ({unit})" if whole else f"a number ({unit})"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return f"must be {kind}, not {_kind(value)}"
    if not math.isfinite(value):
        return f"must be {kind}, not {value}"
    if value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
        return f"must be {kind} {'of at least' if name in _MAY_BE_ZERO else 'above'} 0, not {value}"
    return None


def _redis_url_problem(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        known = parts.scheme in _REDIS_SCHEMES
        _ = parts.port
    except ValueError:
        known = False
    return None if known else f"must be a URL such as {_DEFAULTS['redis_url']} (or rediss://, unix://)"


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "true or false"
        case str():
            return "a string"
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return "a list" if all(isinstance(item, str) for item in value) else "a list of other things"
        case dict():
            return "a table"
    return f"a {type(value).__name__}"


def _providers(tables: Any, environ: Mapping[str, str], file: str) -> dict[str, ProviderSettings]:
    if not isinstance(tables, dict):
        raise ConfigError(f"`providers` in {file} must be tables, one for each provider: [providers.NAME]")
    providers = {}
    for name, table in tables.items():
        where = f"[providers.{name}] in {file}"
        if not isinstance(table, dict):
            raise ConfigError(f"`providers.{name}` in {file} must be a table, [providers.{name}], not {_kind(table)}")
        if not _PROVIDER_NAME.fullmatch(name):
            raise ConfigError(f"{where}: a provider's name is 1 to 64 letters, digits, `.`, `_` and `-`")
        providers[name] = _provider(name, dict(table), environ, where)
    return providers


def _provider(name: str, table: dict[str, Any], environ: Mapping[str, str], where: str) -> ProviderSettings:
    plugin = table.pop("plugin", None)
    if plugin is not None and not (isinstance(plugin, str) and plugin):
        raise ConfigError(f"`plugin` of {where} must be the name of an installed plugin, not {_kind(plugin)}")
    models = table.pop("models", ["*"])
    if not isinstance(models, list) or not all(isinstance(pattern, str) and pattern for pattern in models):
        raise ConfigError(f'`models` of {where} must be a list of patterns such as ["gpt-*"], not {_kind(models)}')
    options: dict[str, Any] = {}
    secrets: set[str] = set()
    problem = None
    for key, value in table.items():
        options[key], used, wrong = configfile.expand(value, environ)
        secrets.update(used, _literal_secrets(key, options[key]))
        if wrong and problem is None:
            problem = f"`{key}` of {where}: {wrong[0]}"
    return ProviderSettings(
        name=name,
        plugin=plugin,
        models=tuple(models),
        options=options,
        problem=problem,
        secrets=frozenset(filter(None, secrets)),
    )


def _openai(environ: Mapping[str, str]) -> tuple[dict[str, ProviderSettings], str]:
    """The provider that OPENAI_* variables make, and the first variable that does."""
    found = {
        option: (variable, environ[variable])
        for option, variables in OPENAI_VARIABLES.items()
        for variable in variables[::-1]
        if environ.get(variable)
    }
    if not found.keys() & {"base_url", "api_key"}:
        return {}, "default"
    provider = ProviderSettings(
        name="openai",
        plugin="openai",
        options={option: value for option, (_, value) in found.items()},
        secrets=frozenset({found["api_key"][1]} if "api_key" in found else ()),
    )
    return {"openai": provider}, next(variable for variable, _ in found.values())


def _literal_secrets(key: str, value: Any) -> Iterator[str]:
    """Strings under a key that sounds like a credential; `headers` often carry one under any name."""
    match value:
        case str() if _SECRET_KEY.search(key):
            yield value
        case dict():
            for inner, item in value.items():
                yield from _literal_secrets(f"{key}.{inner}" if key != "headers" else "secret", item)
        case list():
            for item in value:
                yield from _literal_secrets(key, item)


def _shown(value: Any, secrets: frozenset[str]) -> str:
    match value:
        case str():
            for secret in sorted(secrets, key=len, reverse=True):
                value = value.replace(secret, "***")
            return public_url(value) if re.match(r"[a-z]+://", value) else value
        case dict():
            return ", ".join(f"{key} = {_shown(item, secrets)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(_shown(item, secrets) for item in value)
        case bool():
            return str(value).lower()
    return str(value)
