"""One frozen `Settings`, from `deltabus.toml` and the environment; the only reader of `os.environ`.

What is set where, the later over the earlier: the defaults below, the file, the environment. A field
`concurrency` is the key `concurrency` of the file and the variable `DELTABUS_CONCURRENCY`; a list is
comma-separated there. Where Redis is, and its password, may also stand in a file that a variable names
(`DELTABUS_REDIS_URL_FILE`, `DELTABUS_REDIS_PASSWORD_FILE`) or elsewhere (`secretsource`). Providers are tables
of the file::

    concurrency = 500

    [providers.acme-eu]
    plugin = "acme"              # default: the plugin of the table's own name, else "openai"
    models = ["acme-*"]          # default: every model
    api_key = {file = "/run/secrets/acme"}    # this and all other keys are the plugin's
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from deltabus.errors import ConfigError
from deltabus.settings import configfile, providertable
from deltabus.settings.providertable import FILE_SUFFIX, ProviderSettings
from deltabus.settings.secretsource import SecretSource, is_elsewhere
from deltabus.settings.settingrules import CHOICES, problem
from deltabus.topology.redisurl import RedisURL

__all__ = ["ENVIRONMENT_PREFIX", "ProviderSettings", "Setting", "Settings", "load"]

#: Prefix of the environment variables of the fields.
ENVIRONMENT_PREFIX: Final = "DELTABUS_"

#: Fields that only one variable of another program's sets, so that we agree with that program.
_FOREIGN: Final[Mapping[str, str]] = {"rq_key_prefix": "RQ_KEY_PREFIX"}

#: What may stand in a file that a variable names, or elsewhere as `secretsource` says.
_SECRET: Final = ("redis_url", "redis_password")

#: Origins of values that are no files: defaults, variables, options of the command line.
_NO_FILE: Final = re.compile(r"default|--\w+|[A-Z][A-Z0-9_]*")

#: What Redis Cluster finds a key's slot by, where a key has it.
_TAG: Final = re.compile(r"\{[^}]+\}")

#: What Kubernetes invents for services called `deltabus` or `deltabus-metrics`: DELTABUS_SERVICE_HOST, DELTABUS_PORT,
#: DELTABUS_PORT_80_TCP_ADDR and the like. Such a DELTABUS_METRICS_PORT begins with tcp://.
_OF_KUBERNETES: Final = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP)(_\w+)?)?$")


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
    #: For how long a call of a producer or a subscriber waits for a Redis that is away; then it fails. Workers wait
    #: for ever.
    redis_timeout: float = 5.0
    #: Queues to work on, highest priority first.
    queues: tuple[str, ...] = ("chat", "file")
    #: Attempts that one process runs at once.
    concurrency: int = 100
    #: For how long a log and a result live after the terminal event; -1: for ever.
    result_ttl: int = 3600
    #: For how long RQ keeps a failed job; -1: for ever.
    failure_ttl: int = 7 * 24 * 3600
    #: Seconds an attempt may take where neither job nor envelope says so.
    job_timeout: int = 3600
    #: A worker that has not renewed its lease for this long is taken for dead.
    lease: float = 10.0
    #: How often leases are renewed and RQ's heartbeats sent. (A worker on which nothing runs sends them once a lease.)
    heartbeat_interval: float = 3.0
    #: How often a job may lose its worker before it is failed as `worker_lost`.
    max_deliveries: int = 5
    #: How often a task that failed for a passing reason is tried again.
    max_retries: int = 3
    #: Upper end of the first retry's random delay; each further one reaches twice as far, up to `max_retry_delay`.
    retry_delay: float = 1.0
    max_retry_delay: float = 60.0
    #: A task that fails after it has streamed something: `restart` it, or `fail` it and keep the part.
    after_delta: str = "restart"
    #: Retries that wait for longer than this do so in RQ's scheduled registry rather than in a slot.
    park_after: float = 5.0
    #: How long attempts may go on after SIGTERM.
    drain_timeout: float = 25.0
    #: Largest envelope, as JSON.
    max_request_bytes: int = 4 * 1024 * 1024
    #: Largest answer, as JSON.
    max_answer_bytes: int = 32 * 1024 * 1024
    #: Largest log of one task; above it, a snapshot replaces what was streamed. A task that has none to give is failed.
    max_log_bytes: int = 4 * 1024 * 1024
    #: Deltas of one task that may wait for Redis before the provider's socket is no longer read.
    max_pending_bytes: int = 256 * 1024
    #: Largest file that a task may send or fetch.
    max_file_bytes: int = 8 * 1024 * 1024 * 1024
    #: Bytes of files that are put into the messages of one chat rather than uploaded: attached, and named by id.
    max_inline_bytes: int = 20 * 1024 * 1024
    #: Folders, as absolute paths, of which tasks may name files; none: no paths.
    file_roots: tuple[str, ...] = ()
    #: Prefixes of storage URLs, as `s3://bucket/folder`, of which tasks may name objects; none: no storage.
    storage_roots: tuple[str, ...] = ()
    #: Hosts, as `name` or `name:port`, that URLs of tasks may name though their addresses are not public.
    url_hosts: tuple[str, ...] = ()
    #: How long fetching a URL may take in all.
    url_timeout: float = 600.0
    #: For how long a blob lives that is written without another word.
    blob_ttl: int = 3600
    #: Task functions that a worker runs, as their packages name them (`chat`, `file`, …); none: all that are installed.
    functions: tuple[str, ...] = ()
    #: Hosts that a job's RQ webhooks may call.
    webhook_hosts: tuple[str, ...] = ()
    #: What ids begin with that a producer leaves to chance, of tasks and blobs: by it, Redis' ACL tells tenants apart.
    id_prefix: str = ""
    log_level: str = "info"
    #: `console`, `json`, or `auto`: console on a terminal.
    log_format: str = "auto"
    #: Log lines a second about single tasks, in each process; beyond them, tasks are summed up in one line now and
    #: then. 0: sums alone.
    task_lines: int = 20
    #: TCP port of /metrics, /healthz, /livez and /readyz; 0: none. Under a supervisor, the one of all its processes.
    metrics_port: int = 0
    #: Address to listen on there; 0.0.0.0 for probes and scrapers from elsewhere.
    metrics_host: str = "127.0.0.1"
    #: Tenants that metrics tell apart, all others being `other`; none: the first fifty that come.
    metrics_tenants: tuple[str, ...] = ()
    #: `on`: make OpenTelemetry traces; where they go, its own OTEL_* variables say.
    traces: str = "off"
    #: A worker is stuck that takes nothing for so long though there are jobs and free slots; 0: that is not looked at.
    stall_after: float = 30.0
    #: Prefix of RQ's keys. RQ reads it from RQ_KEY_PREFIX, so that variable alone sets it here.
    rq_key_prefix: str = "rq"
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    #: Where each value that is not a default comes from.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in _DEFAULTS:
            if wrong := problem(name, getattr(self, name), _DEFAULTS.get(name)):
                raise ConfigError(f"`{name}` {wrong}")
        if self.heartbeat_interval >= self.lease:
            raise ConfigError(
                f"`heartbeat_interval` ({self.heartbeat_interval:g} s) must be below `lease` ({self.lease:g} s), best "
                "a third of it: a worker that does not renew its lease before it runs out is taken for dead"
            )

        if RedisURL.parse(self.redis_url).is_cluster and not _TAG.search(self.rq_key_prefix):
            raise ConfigError(
                "`rq_key_prefix` must have a hash tag where `redis_url` is a Cluster, so that all of RQ's keys lie in "
                "one slot: set RQ_KEY_PREFIX={rq} for every worker and producer, and for RQ's own commands"
            )

    @property
    def redis_address(self) -> str:
        """`redis_url` without its password."""
        return RedisURL.parse(self.redis_url).public

    @property
    def secrets(self) -> frozenset[str]:
        """Configured values that must not appear in a log, an event or on a screen."""
        passwords = RedisURL.parse(self.redis_url).passwords
        return frozenset(passwords.union(*(provider.secrets for provider in self.providers.values())))

    @property
    def file(self) -> Path | None:
        """The file that any of this comes from."""
        origins = (origin for origin in self.sources.values() if not _NO_FILE.fullmatch(origin))
        return next(map(Path, origins), None)

    def describe(self) -> list[Setting]:
        """Every setting with its value and where it comes from; secrets are masked."""
        lines = []
        for name in _DEFAULTS:
            value = self.redis_address if name == "redis_url" else getattr(self, name)
            text = ", ".join(value) if isinstance(value, tuple) else str(value)
            lines.append(Setting(name, text, self.sources.get(name, "default")))
        for provider in self.providers.values():
            source = self.sources.get(f"providers.{provider.name}", "default")
            table = {"plugin": provider.plugin, "models": ", ".join(provider.models), **provider.shown}
            lines += [
                Setting(f"providers.{provider.name}.{key}", text, source)
                for key, text in table.items()
                if text is not None
            ]
        return lines


#: The fields that one key or variable sets, with their defaults; the default's type is the field's.
_DEFAULTS: Final[Mapping[str, Any]] = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}


def load(path: Path | None = None, environ: Mapping[str, str] | None = None, *, run_commands: bool = True) -> Settings:
    """Read the configuration, once, at the door of a process.

    Args:
        path: the file; None: what $DELTABUS_CONFIG names, else ./deltabus.toml if there is one.
        environ: the environment; None: the process' own.
        run_commands: whether commands are run that print the providers' secrets. Who uses no provider has them
            left alone; those providers then have a `problem`.

    Raises:
        ConfigError: the message names the file and line, or the key or variable, and the fix.
    """
    environ = os.environ if environ is None else environ
    file = configfile.find(path, environ)
    table = configfile.read(file) if file else {}
    folder = file.parent if file else Path()
    named = path is not None or bool(environ.get(configfile.VARIABLE))
    forbidden = configfile.distrust(file) if file and not named else ""
    tables = table.pop("providers", {})
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, value in table.items():
        values[key] = _from_file(key, value, SecretSource(environ, folder, forbidden), str(file))
        sources[key] = str(file)
    variables = list(_variables(environ))
    if any(name == "redis_url" for name, _ in variables):
        values.pop("redis_password", None)  # it is that of the URL in the file, and no other server's
    for name, variable in variables:
        values[name] = _from_variable(name, variable, environ)
        sources[name] = variable
    if (password := values.pop("redis_password", None)) is not None:
        url = values.get("redis_url", _DEFAULTS["redis_url"])
        values["redis_url"] = _with_password(url, password, sources.pop("redis_password"))
    source = SecretSource(environ, folder, forbidden or ("" if run_commands else "only workers run such commands"))
    providers = providertable.read(tables, source, str(file))
    origins = dict.fromkeys(providers, str(file))
    if not providers:
        providers, origins = providertable.fallback(source)
    sources |= {f"providers.{name}": origin for name, origin in origins.items()}
    return Settings(**values, providers=providers, sources=sources)


def _from_file(key: str, value: Any, source: SecretSource, file: str) -> Any:
    if key in _FOREIGN:
        raise ConfigError(
            f"`{key}` in {file} has no effect on RQ; set the environment variable {_FOREIGN[key]} instead"
        )
    if key not in {*_DEFAULTS, *_SECRET}:
        near = difflib.get_close_matches(key, [*_DEFAULTS, *_SECRET, "providers"], n=1)
        hint = (
            f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(_DEFAULTS))} and [providers.NAME]"
        )
        raise ConfigError(f"unknown key `{key}` in {file}; {hint}")
    if key in _SECRET and is_elsewhere(value):
        try:
            value = source.read(value)
        except ConfigError as exc:
            raise ConfigError(f"`{key}` in {file}: {exc}") from exc
    else:
        value, _, problems = configfile.expand(value, source.variables)
        if problems:
            raise ConfigError(f"`{key}` in {file}: {problems[0]}")
    if isinstance(value, list):
        value = tuple(value)
    elif key in CHOICES and isinstance(value, str):
        value = value.lower()
    if wrong := problem(key, value, _DEFAULTS.get(key)):
        raise ConfigError(f"`{key}` in {file} {wrong}")
    return value


def _with_password(url: str, password: str, where: str) -> str:
    """A Redis URL with a password that stood by itself."""
    read = RedisURL.parse(url)
    if read.password:
        raise ConfigError(f"the Redis URL has a password, and `redis_password` ({where}) is another: keep one of them")
    return read.with_password(password)


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Fields and the variables that set them; an empty variable counts as one that is not set."""
    names = {ENVIRONMENT_PREFIX + name.upper(): name for name in [*_DEFAULTS, *_SECRET] if name not in _FOREIGN}
    files = {ENVIRONMENT_PREFIX + name.upper() + FILE_SUFFIX: name for name in _SECRET}
    for variable, name in files.items():
        if environ.get(variable) and environ.get(variable.removesuffix(FILE_SUFFIX)):
            raise ConfigError(
                f"{variable.removesuffix(FILE_SUFFIX)} and {variable} both set `{name}`: keep one of them"
            )
    for variable in environ:
        # Only what looks like a slip of the pen is one.
        known = variable in {*names, *files, configfile.VARIABLE} or _OF_KUBERNETES.search(variable)
        if variable.startswith(ENVIRONMENT_PREFIX) and not known:
            near = difflib.get_close_matches(variable, [*names, *files], n=1, cutoff=0.85)
            if near:
                raise ConfigError(f"unknown environment variable {variable}; did you mean {near[0]}?")
    foreign = {variable: name for name, variable in _FOREIGN.items()}
    # REDIS_URL is what hosting platforms set; our own variable comes later and wins.
    for variable, name in {"REDIS_URL": "redis_url", **foreign, **names, **files}.items():
        of_kubernetes = name == "metrics_port" and environ.get(variable, "").startswith("tcp://")
        if environ.get(variable) and not of_kubernetes:
            yield name, variable


def _from_variable(name: str, variable: str, environ: Mapping[str, str]) -> Any:
    default = _DEFAULTS.get(name, "")
    value: Any = environ[variable].strip()
    if not configfile.is_text(value):
        raise ConfigError(f"environment variable {variable} is not UTF-8 text")
    if name in _SECRET and variable.endswith(FILE_SUFFIX):
        try:
            value = SecretSource(environ).file(value)
        except ConfigError as exc:
            raise ConfigError(f"environment variable {variable}: {exc}") from exc
    if isinstance(default, tuple):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    elif name in CHOICES:
        value = value.lower()
    elif isinstance(default, int | float):
        with contextlib.suppress(ValueError):  # What stays a string is refused as one below.
            value = type(default)(value)
    if wrong := problem(name, value, _DEFAULTS.get(name)):
        raise ConfigError(f"environment variable {variable} {wrong}")
    return value
