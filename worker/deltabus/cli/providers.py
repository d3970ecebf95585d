"""`deltabus providers`: who answers, through which plugin, and how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import click

from deltabus.cli import exits
from deltabus.cli.options import Command, Session, pass_session
from deltabus.cli.screens import Screen
from deltabus.errors import ConfigError, TaskError

if TYPE_CHECKING:
    from deltabus.provider import Health
    from deltabus.registry import Registry
    from deltabus.settings import Settings

#: Seconds that a provider's check may take.
PATIENCE: Final = 15.0

HELP = """List the configured providers: name, plugin, where the plugin comes from, models.

With --check, each is asked whether it can be reached and takes the credentials.

\b
Examples:
  deltabus providers
  deltabus providers --check
  deltabus providers --json | jq '.[].name'

Exit code: 0; with --check, 1 if any provider is not well.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A provider as it is shown."""

    name: str
    plugin: str
    #: Distribution that the plugin comes from; None: it is not installed.
    distribution: str | None
    version: str | None
    #: Patterns of the models routed to it.
    models: tuple[str, ...]
    #: Where it is configured.
    source: str
    #: Whether it is well; None: not asked.
    ok: bool | None = None
    #: What its check said; where `ok` is false, what is wrong and how to mend it.
    detail: str | None = None
    #: Models that it says it has.
    available: tuple[str, ...] = ()


def entries(settings: Settings, *, check: bool) -> list[Entry]:
    """The configured providers, in file order; with `check`, how they are, asked all at once."""
    from deltabus.registry import plugin_of, plugins

    installed = plugins()
    found = []
    for provider in settings.providers.values():
        plugin = plugin_of(provider)
        distribution = installed[plugin].dist if plugin in installed else None
        found.append(
            Entry(
                name=provider.name,
                plugin=plugin,
                distribution=distribution.name if distribution else None,
                version=distribution.version if distribution else None,
                models=provider.models,
                source=settings.sources.get(f"providers.{provider.name}", "default"),
            )
        )
    return asyncio.run(_checked(settings, found)) if check else found


async def _checked(settings: Settings, found: Sequence[Entry]) -> list[Entry]:
    from deltabus.registry import Registry

    registry = Registry(settings)
    try:
        healths = await asyncio.gather(*(_health(registry, entry.name) for entry in found))
    finally:
        await registry.aclose()
    secrets = settings.secrets
    return [
        Entry(
            **{
                **asdict(entry),
                "ok": health.ok,
                "detail": _masked(health.detail, secrets),
                "available": tuple(health.models),
            }
        )
        for entry, health in zip(found, healths, strict=True)
    ]


async def _health(registry: Registry, name: str) -> Health:
    from deltabus.provider import Health

    try:
        async with asyncio.timeout(PATIENCE):
            return await registry.provider(name).check()
    except TimeoutError:
        return Health(ok=False, detail=f"no answer within {PATIENCE:g} s")
    except (ConfigError, TaskError) as exc:
        return Health(ok=False, detail=str(exc))
    except Exception as exc:  # noqa: BLE001 - a plugin's bug is a finding, not our end
        return Health(ok=False, detail=f"its check raised {type(exc).__name__}: {exc}")


def _masked(text: str, secrets: frozenset[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


@click.command("providers", cls=Command, help=HELP)
@click.option("--check", is_flag=True, help="Ask each whether it can be reached and takes the credentials.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@pass_session
def providers(session: Session, *, check: bool, as_json: bool) -> int:
    screen = Screen()
    if check:
        screen.wait("asking the providers")
    found = entries(session.worker_settings if check else session.settings, check=check)
    if as_json:
        screen.json([asdict(entry) for entry in found])
    else:
        _print_table(screen, found, check=check)
    return exits.FAILED if any(entry.ok is False for entry in found) else exits.DONE


def _print_table(screen: Screen, found: Sequence[Entry], *, check: bool) -> None:
    rows = []
    for entry in found:
        origin = f"{entry.distribution} {entry.version}" if entry.distribution else "not installed"
        row: list[str | tuple[str, str]] = [entry.name, entry.plugin, origin, ", ".join(entry.models), entry.source]
        if check:
            row.append((f"{'ok' if entry.ok else 'no'}: {entry.detail}", "green" if entry.ok else "red"))
        rows.append(row)
    columns = ["provider", "plugin", "from", "models", "configured in", *(["health"] if check else [])]
    screen.table(columns, rows)
