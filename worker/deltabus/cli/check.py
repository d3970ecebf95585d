"""`deltabus check`: what is configured, reachable and compatible, and how to mend what is not."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, version
from typing import TYPE_CHECKING, Any, Final

import click

from deltabus.cli import exits
from deltabus.cli.finding import Finding, State
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.providers import entries
from deltabus.cli.queues import as_text, look
from deltabus.cli.screens import Screen
from deltabus.cli.seconds import Seconds
from deltabus.cli.server import connect
from deltabus.errors import BusUnavailable
from deltabus.refusal import is_of_cluster, lacks_right

if TYPE_CHECKING:
    from redis import Redis
    from redis.exceptions import ResponseError

    from deltabus.settings import Setting, Settings

#: RQ's versions that deltabus works with, as pyproject.toml has them.
RQ_MAJOR: Final = 3

HELP = """Say what is configured and where from, whether Redis and the providers can be reached, whether all
fits together, and how to mend what does not.

\b
Examples:
  deltabus check
  deltabus check --all                every setting, not only those that were set
  deltabus check --production         what is unsafe (an error) or missing (a warning) for production
  deltabus check --json | jq '.findings[] | select(.state != "ok")'

Exit code: 0 all is well, perhaps with warnings; 1 something is wrong; 2 the configuration is;
3 Redis cannot be reached.
"""


@click.command("check", cls=Command, help=HELP)
@click.option("--all", "show_all", is_flag=True, help="Show every setting, not only those that were set.")
@click.option("--production", is_flag=True, help="Look for what is unsafe or missing in production, too.")
@click.option(
    "--grace",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    help="With --production: what passes from SIGTERM to SIGKILL where the workers run. Default: 30, as in Kubernetes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object: ok, settings, findings.")
@pass_session
def check(session: Session, *, show_all: bool, production: bool, grace: float | None, as_json: bool) -> int:
    if grace is not None and not production:
        raise click.UsageError("--grace is for --production")
    settings = session.worker_settings
    screen = Screen()
    code = exits.DONE
    findings: list[Finding] = []
    screen.wait("looking at Redis")
    try:
        with connect(settings) as redis:
            findings += _told("server", _server(redis, settings))
            findings += _told("memory", _memory(redis))
            findings += _told("rights", _rights(redis))
            findings += _told("keys", _keys(redis, settings))
            for queue in settings.queues:
                findings += _told(f"queue {queue}", _queue(redis, session, queue))
            if production:
                findings += _told("production", _production(settings, redis, grace))
    except BusUnavailable as exc:
        code = exits.UNREACHABLE
        findings.append(Finding("Redis", "error", str(exc), exits.way_out(str(exc))))
        if production:
            findings += _production(settings, None, grace)
    findings.append(_rq())
    findings += (spans := list(_traces(settings)))
    screen.wait("asking the providers")
    findings += _providers(settings)
    if code == exits.DONE and any(finding.state == "error" for finding in findings):
        code = exits.USAGE if any(finding.state == "error" for finding in spans) else exits.FAILED
    shown = [
        line for line in settings.describe() if show_all or as_json or line.source != "default" or line.name in _BASICS
    ]
    if as_json:
        screen.json({"ok": code == exits.DONE, "settings": [line._asdict() for line in shown], "findings": findings})
    else:
        _print(screen, shown, findings)
    return code


#: Settings that are shown although they are defaults.
_BASICS: Final = ("redis_url", "queues", "concurrency")


def _told(subject: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """The findings; where Redis refuses to answer, that is one too."""
    from redis.exceptions import ResponseError

    try:
        yield from findings
    except ResponseError as exc:
        yield _refusal(subject, exc)


def _refusal(subject: str, error: ResponseError) -> Finding:
    fix = next((name for sign, name in REFUSALS.items() if sign in str(error)), "rights")
    if is_of_cluster(error):
        fix = "cluster"
    # `rights` tries what workers need. What else is asked here, producers and subscribers may not know.
    state: State = "warning" if subject != "rights" and lacks_right(error) else "error"
    return Finding(subject, state, f"Redis refuses: {error}", FIXES[fix])


#: How to mend what Redis is found to be.
FIXES: Final = {
    "version": "install Redis 6.2 or newer, or Valkey",
    "cluster": "name it as redis+cluster://host:port,host:port, with RQ_KEY_PREFIX={rq}: see ops/topologies.md",
    "replica": "name the primary in `redis_url`",
    "eviction": "deltabus redis CONFIG SET maxmemory-policy noeviction",
    "persistence": "set `appendonly yes` where that matters",
    "rights": "give this user the rights of its role, where it is a worker's or an operator's: ops/acl",
    "memory": "see what it holds: deltabus redis --memory; then delete that, or give it more: CONFIG SET maxmemory",
    "disk": "free its disk: deltabus redis INFO persistence, deltabus redis CONFIG GET dir",
    "replicas": "bring its replicas back: it takes nothing without them (min-replicas-to-write)",
    "queue": "another program uses this key: take another database, or another queue name",
}

#: What Redis says where it is no right that is missing, and the fix.
REFUSALS: Final = {
    "WRONGTYPE": "queue",
    "used memory > 'maxmemory'": "memory",
    "read only replica": "replica",
    "MISCONF": "disk",
    "good replicas to write": "replicas",
}


def _server(redis: Redis, settings: Settings) -> Iterator[Finding]:
    from deltabus.embedded import OLDEST_SERVER

    begin = time.perf_counter()
    redis.ping()
    milliseconds = (time.perf_counter() - begin) * 1000
    yield Finding("Redis", "ok", f"{settings.redis_address} answers in {milliseconds:.1f} ms")
    info: dict[str, Any] = redis.info("server") | redis.info("replication")
    # Valkey's `redis_version` is the version of Redis whose protocol it speaks.
    name, number = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info["redis_version"])
    if tuple(int(part) for part in re.findall(r"\d+", info["redis_version"])[:2]) >= OLDEST_SERVER:
        yield Finding("server version", "ok", f"{name} {number}, at least {'.'.join(map(str, OLDEST_SERVER))}")
    else:
        yield Finding("server version", "error", f"{name} {number}", FIXES["version"])
    if info.get("redis_mode") == "cluster" and not settings.redis_url.partition("://")[0].endswith("+cluster"):
        yield Finding("server mode", "error", "cluster", FIXES["cluster"])
    if info.get("role") == "slave":
        yield Finding("server role", "error", "a read-only replica", FIXES["replica"])


def _memory(redis: Redis) -> Iterator[Finding]:
    """Whether the server keeps what it is given."""
    info: dict[str, Any] = redis.info("memory") | redis.info("persistence")
    policy = info.get("maxmemory_policy", "noeviction")
    if info.get("maxmemory") and policy != "noeviction":
        detail = f"`{policy}`: when memory runs out, Redis drops queues and logs"
        yield Finding("eviction", "error", detail, FIXES["eviction"])
    if not info.get("aof_enabled") and not _takes_snapshots(redis):
        detail = "none: a restart of Redis loses what is queued and running"
        yield Finding("persistence", "warning", detail, FIXES["persistence"])


def _takes_snapshots(redis: Redis) -> bool:
    """Whether the server writes RDB files; where it does not tell, as hosted ones do not, it is taken on trust."""
    from redis.exceptions import ResponseError

    try:
        return bool(redis.config_get("save").get("save"))
    except ResponseError:
        return True


def _rights(redis: Redis) -> Iterator[Finding]:
    """Whether this user may do what the log needs: a script, a stream, a channel."""
    from deltabus import keys

    task = "deltabus-check"
    script = (
        "redis.call('XADD', KEYS[1], '*', ARGV[1], '') redis.call('PEXPIRE', KEYS[1], 1000) "
        "redis.call('PUBLISH', ARGV[2], '') return redis.call('DEL', KEYS[1])"
    )
    # As the bus calls its own: a worker's user may run scripts by their digest, and needs no EVAL.
    redis.register_script(script)(keys=[keys.log(task)], args=[keys.EVENT_FIELD, keys.events(task)])
    yield Finding("rights", "ok", "may run scripts, write streams, publish")


def _keys(redis: Redis, settings: Settings) -> Iterator[Finding]:
    """Keys that all queues have in common, and that other programs may have, too."""
    from deltabus import keys

    prefix = settings.rq_key_prefix
    for key, wanted in {f"{prefix}:queues": "set", f"{prefix}:workers": "set", keys.workers(prefix): "zset"}.items():
        kind = as_text(redis.type(key))
        if kind not in {wanted, "none"}:
            yield Finding("keys", "error", f"{key} is a {kind}, not a {wanted}", FIXES["queue"])


def _queue(redis: Redis, session: Session, name: str) -> Iterator[Finding]:
    prefix = session.settings.rq_key_prefix
    kind = as_text(redis.type(f"{prefix}:queue:{name}"))
    if kind not in {"list", "none"}:
        detail = f"{prefix}:queue:{name} is a {kind}, not a list"
        yield Finding(f"queue {name}", "error", detail, FIXES["queue"])
        return
    (state,) = look(redis, [name], prefix)
    waiting = f"{state.waiting} waiting"
    if (problem := state.problem(session)) is None:
        yield Finding(f"queue {name}", "ok", f"{_count(len(state.workers), 'worker')}, {waiting}")
    else:
        said, _, fix = problem.partition(": ")
        yield Finding(f"queue {name}", "warning", f"{said}; {waiting}", fix)


def _production(settings: Settings, redis: Redis | None, grace: float | None) -> Iterator[Finding]:
    from redis.exceptions import ResponseError

    from deltabus.cli.production import judge
    from deltabus.cli.surroundings import survey

    try:
        around = survey(settings, redis, grace)
    except ResponseError as exc:
        # The rest can be judged all the same.
        yield _refusal("production", exc)
        around = survey(settings, None, grace)
    yield from judge(around)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _rq() -> Finding:
    number = version("rq")
    if int(number.partition(".")[0]) == RQ_MAJOR:
        return Finding("RQ", "ok", number)
    return Finding("RQ", "error", number, f"pip install 'rq>={RQ_MAJOR}.0,<{RQ_MAJOR + 1}'")


def _traces(settings: Settings) -> Iterator[Finding]:
    if settings.traces == "off":
        return
    from deltabus.errors import ConfigError

    try:
        from deltabus.tracing import source

        source.tracer("deltabus-check")
    except ConfigError as exc:
        yield Finding("traces", "error", str(exc))
        return
    if (problem := source.unreachable()) is not None:
        fix = "start one there, or name yours: OTEL_EXPORTER_OTLP_ENDPOINT; without it, spans are lost and nothing else"
        yield Finding("traces", "warning", problem, fix)
    else:
        yield Finding("traces", "ok", "OpenTelemetry is there; its OTEL_* variables say where spans go")


def _providers(settings: Settings) -> Iterator[Finding]:
    from deltabus.registry import plugins

    used = set()
    for entry in entries(settings, check=True):
        used.add(entry.plugin)
        origin = f"{entry.plugin}, {entry.distribution} {entry.version}" if entry.distribution else entry.plugin
        yield Finding(f"provider {entry.name}", "ok" if entry.ok else "error", f"{entry.detail} ({origin})")
    for name, plugin in plugins().items():
        if name not in used and (problem := _load(plugin)):
            yield Finding(
                f"plugin {name}", "warning", f"cannot be loaded, and is not used: {problem}", "update or uninstall it"
            )


def _load(plugin: EntryPoint) -> str | None:
    """What goes wrong when a plugin is imported."""
    try:
        plugin.load()
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a module may do anything when it is imported
        return f"{type(exc).__name__}: {exc}"
    return None


#: How a state is shown.
_STYLES: Final = {"ok": "green", "warning": "yellow", "error": "bold red"}


def _print(screen: Screen, settings: Sequence[Setting], findings: Sequence[Finding]) -> None:
    screen.table(["setting", "value", "from"], [[line.name, line.value, (line.source, "dim")] for line in settings])
    screen.answer("\n")
    rows: list[list[str | tuple[str, str]]] = []
    for finding in findings:
        rows.append([(finding.state, _STYLES[finding.state]), finding.subject, finding.detail])
        if finding.fix:
            rows.append(["", "", (f"to mend it: {finding.fix}", "cyan")])
    screen.table(["", "", ""], rows)
