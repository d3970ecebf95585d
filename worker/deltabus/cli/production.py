"""What is unsafe or missing for production: one rule a function, from what is there to a verdict.

An error is unsafe: somebody can read, forge or lose what they should not. A warning is missing: it works, until
something goes wrong. The table in ops/security.md says of each rule why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from deltabus import openfiles
from deltabus.cli import redisproduction
from deltabus.cli.finding import Finding, Verdict
from deltabus.cli.redisproduction import is_loopback
from deltabus.cli.surroundings import Surroundings
from deltabus.settings.providertable import ProviderSettings

#: Seconds from SIGTERM to SIGKILL where nobody says so: what Kubernetes and Heroku give.
USUAL_GRACE: Final = 30.0

#: Seconds that a worker may need, after its drain, to hand back what is left.
HAND_BACK: Final = 5.0

#: Seconds above which an attempt that hangs holds its slot for too long.
LONG_TIMEOUT: Final = 24 * 3600

#: Folders of the system: nothing in them is for tasks.
_SYSTEM: Final = tuple(map(Path, ("/etc", "/root", "/proc", "/sys", "/dev", "/boot", "/usr")))

#: Folders that hold those of other users and programs: one of those may be for tasks, all of them are not.
_COMMON: Final = tuple(map(Path, ("/home", "/run", "/var", "/var/lib", "/var/run", "/srv", "/mnt", "/tmp")))  # noqa: S108 - named, not used

#: Where clouds hand out credentials to whoever asks.
_METADATA: Final = ("169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal", "100.100.100.200")


def judge(around: Surroundings) -> Iterator[Finding]:
    """Every rule that finds something, and at last how many found nothing."""
    rules = {**redisproduction.RULES, **RULES}
    fine = 0
    for subject, rule in rules.items():
        if verdict := rule(around):
            yield Finding(subject, *verdict)
        else:
            fine += 1
    asked = "" if around.server else "; what Redis would say of itself is not among that"
    yield Finding("production", "ok", f"{fine} of {len(rules)} rules have nothing to say{asked}")


def _those(around: Surroundings, holds: Callable[[ProviderSettings], bool]) -> str:
    """Names of the providers of which something holds, for a message."""
    return ", ".join(provider.name for provider in around.settings.providers.values() if holds(provider))


def _echo(around: Surroundings) -> Verdict:
    from deltabus.registry import plugin_of

    named = _those(around, lambda provider: plugin_of(provider) == "echo")
    if not named:
        return None
    if around.settings.sources.get(f"providers.{named}") == "default":
        return "error", "none is configured, so the echo answers as if it were a model", "add [providers.NAME]"
    return "error", f"`{named}` answers with what it is asked, as if it were a model", "remove it from deltabus.toml"


def _plain(around: Surroundings) -> Verdict:
    def is_plain(provider: ProviderSettings) -> bool:
        url = urlsplit(str(provider.options.get("base_url", "")))
        return url.scheme == "http" and not is_loopback(url.hostname or "")

    fix = "use https, or a proxy on this host that does"
    if named := _those(around, lambda provider: is_plain(provider) and bool(provider.secrets)):
        return "error", f"{named}: the key goes over http, for everybody on the way to copy", fix
    if named := _those(around, is_plain):
        return "warning", f"{named}: prompts and answers go over http", fix
    return None


def _certificates(around: Surroundings) -> Verdict:
    named = _those(around, lambda provider: str(provider.options.get("verify", True)).lower() == "false")
    if not named:
        return None
    return "error", f"{named}: `verify = false`, so anybody can be that provider", "name your CA: ca_bundle = PATH"


def _timeouts(around: Surroundings) -> Verdict:
    def has_none(provider: ProviderSettings) -> bool:
        given = provider.options.get("timeouts")
        return isinstance(given, Mapping) and any(given.get(key) in {0, "0"} for key in ("first_byte", "between_bytes"))

    if named := _those(around, has_none):
        return "warning", f"{named}: no limit, so a provider that falls silent holds slots", "set `timeouts` above 0"
    return None


def _job_timeout(around: Surroundings) -> Verdict:
    if around.settings.job_timeout <= LONG_TIMEOUT:
        return None
    hours = around.settings.job_timeout / 3600
    return "warning", f"{hours:.0f} h: an attempt that hangs holds a slot for as long", "set `job_timeout` below a day"


def _drain(around: Surroundings) -> Verdict:
    drain = around.settings.drain_timeout
    grace = USUAL_GRACE if around.grace is None else around.grace
    if drain == 0:
        return "warning", "0: every deployment breaks off all streams, which then start anew", "set `drain_timeout`"
    if drain + HAND_BACK <= grace:
        return None
    whose = "that Kubernetes and Heroku give" if around.grace is None else "of --grace"
    detail = f"`drain_timeout` ({drain:g} s) and {HAND_BACK:g} s to hand back are over the {grace:g} s {whose}"
    most = max(grace - HAND_BACK, 0)
    return (
        "error",
        f"{detail}: workers are killed at work",
        f"set it to {most:g} at most, or give more time: terminationGracePeriodSeconds, TimeoutStopSec (and --grace)",
    )


def _retention(around: Surroundings) -> Verdict:
    names = [name for name in ("result_ttl", "failure_ttl") if getattr(around.settings, name) == -1]
    if not names:
        return None
    return "warning", f"`{'`, `'.join(names)}` -1: for ever, until Redis is full of answers", "set a time in seconds"


def _debug(around: Surroundings) -> Verdict:
    if around.settings.log_level != "debug":
        return None
    return "error", "`debug`: what libraries write there is for nobody else to read", "set `log_level` to info"


def _log_format(around: Surroundings) -> Verdict:
    if around.settings.log_format != "console":
        return None
    return "warning", "`console`: lines for people, which no log store takes apart", "set `log_format` to json or auto"


def _metrics(around: Surroundings) -> Verdict:
    if around.settings.metrics_port:
        return None
    return "warning", "none: nobody sees that a worker is stuck or that tasks fail", "set `metrics_port`"


def _traces(around: Surroundings) -> Verdict:
    if not around.plain_collector or is_loopback(around.plain_collector):
        return None
    return (
        "error",
        "what OTEL_EXPORTER_OTLP_HEADERS or the endpoint's URL has goes over http, for everybody on the way to copy",
        "use https, or a collector on this host",
    )


def _paths(around: Surroundings) -> Verdict:
    fix = "name a folder that holds nothing but what tasks may read and write"
    for root in map(Path, around.settings.file_roots):
        if root == Path(root.anchor) or any(folder in (root, *root.parents) for folder in _SYSTEM):
            return "error", f"`file_roots` has {root}: tasks read the system's files", fix
        if root in _COMMON:
            return "error", f"`file_roots` has {root}: tasks read other programs' files", fix
        for path in around.modes:
            if root in path.absolute().parents:
                return "error", f"`file_roots` has {root}, where {path.name} is: tasks read secrets", fix
    return None


def _storage(around: Surroundings) -> Verdict:
    whole = [root for root in around.settings.storage_roots if not urlsplit(root).path.strip("/")]
    if not whole:
        return None
    return "warning", f"`storage_roots` has all of {', '.join(whole)}", "name a folder in the bucket: s3://bucket/tasks"


def _hosts(around: Surroundings) -> Verdict:
    hosts = around.settings.url_hosts
    named = [host for host in hosts if host in _METADATA or host.rpartition(":")[0] in _METADATA]
    if named:
        return "error", f"`url_hosts` has {', '.join(named)}: tasks read the machine's cloud credentials", "remove it"
    if hosts:
        return (
            "warning",
            f"`url_hosts`: tasks may fetch from {', '.join(hosts)}, whatever address that is",
            "keep those alone that hold files for tasks, each with its port",
        )
    return None


def _webhooks(around: Surroundings) -> Verdict:
    named = [host for host in around.settings.webhook_hosts if is_loopback(host.partition(":")[0]) or host in _METADATA]
    if not named:
        return None
    return "error", f"`webhook_hosts` has {', '.join(named)}: jobs call what listens on this machine", "remove it"


def _written(around: Surroundings) -> Verdict:
    """Secrets that are written out, who may read the file, and who may read those that it names."""
    if around.file is None:
        return None
    literal = [f"providers.{provider.name}" for provider in around.settings.providers.values() if _literal(provider)]
    if _has_password(around.table):
        literal.insert(0, "redis_url" if "redis_password" not in around.table else "redis_password")
    if literal:
        what = f"{around.file} has secrets written out ({', '.join(literal)})"
        if around.modes.get(around.file, 0) & 0o004:
            return "error", f"{what} and every user of the machine may read it", f"chmod 640 {around.file}"
        return "warning", what, 'name where they stand: api_key = {file = "…"}, or {env = "…"}'
    for path, mode in around.modes.items():
        if path != around.file and mode & 0o004:
            return "warning", f"every user of the machine may read {path}", f"chmod 400 {path}"
    return None


def _literal(provider: ProviderSettings) -> bool:
    return any("***" in shown for shown in provider.shown.values())


def _has_password(table: Mapping[str, object]) -> bool:
    password, url = table.get("redis_password"), table.get("redis_url")
    written = password if isinstance(password, str) else urlsplit(url).password if isinstance(url, str) else None
    return bool(written) and "${" not in str(written)


def _writable(around: Surroundings) -> Verdict:
    if around.file is None or not around.modes.get(around.file, 0) & 0o022:
        return None
    return (
        "error" if around.modes[around.file] & 0o002 else "warning",
        f"others may write {around.file}, and so have workers send keys elsewhere or run commands",
        f"chmod go-w {around.file}",
    )


def _root(around: Surroundings) -> Verdict:
    if around.user != 0:
        return None
    return "warning", "root: a plugin's bug may do everything", "run it as a user of its own"


def _open_files(around: Surroundings) -> Verdict:
    wanted = openfiles.wanted(around.settings.concurrency)
    if around.open_files >= wanted:
        return None
    return (
        "error",
        f"{around.open_files} may be open here, and `concurrency` {around.settings.concurrency} takes up to {wanted}",
        f"ulimit -n {wanted}, LimitNOFILE={wanted}, or a smaller `concurrency`",
    )


#: Subject of the finding, and what finds it.
RULES: Final[Mapping[str, Callable[[Surroundings], Verdict]]] = {
    "providers.echo": _echo,
    "providers.plain-http": _plain,
    "providers.certificates": _certificates,
    "providers.timeouts": _timeouts,
    "worker.job-timeout": _job_timeout,
    "worker.drain": _drain,
    "worker.retention": _retention,
    "worker.open-files": _open_files,
    "worker.root": _root,
    "metrics.port": _metrics,
    "logs.level": _debug,
    "logs.format": _log_format,
    "traces.plain-http": _traces,
    "files.paths": _paths,
    "files.storage": _storage,
    "files.urls": _hosts,
    "webhooks.hosts": _webhooks,
    "secrets.readable": _written,
    "config.writable": _writable,
}
