"""Who takes the spans: the program's own OpenTelemetry where it has set one up, else one as OTEL_* variables say.

What the SDK reads by itself holds: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*,
OTEL_EXPORTER_OTLP_*, OTEL_SDK_DISABLED; `variables` checks them first. Exporters are chosen as by OpenTelemetry's own
launcher, which nobody needs here: OTEL_TRACES_EXPORTER (`otlp`, `console`, `none`, or the name of an installed one;
several with commas) and OTEL_EXPORTER_OTLP_PROTOCOL.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
from functools import cache
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any, Final

from deltabus.errors import ConfigError
from deltabus.tracing import discretion, variables
from deltabus.tracing.lastword import PATIENCE, LastWord

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

#: Where exporters are registered, and what OTLP's are called there, by protocol.
_GROUP: Final = "opentelemetry_traces_exporter"
_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

#: Variables that name what is registered in a group of entry points: there the SDK ends with a bare StopIteration.
_GROUPS: Final = {
    "OTEL_PYTHON_TRACER_PROVIDER": "opentelemetry_tracer_provider",
    "OTEL_PYTHON_METER_PROVIDER": "opentelemetry_meter_provider",
    "OTEL_PYTHON_CONTEXT": "opentelemetry_context",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "opentelemetry_resource_detector",
}

#: The one that was made here, once.
_own: list[TracerProvider] = []
_lock = threading.Lock()

#: Who flushes at the moment, or did last.
_flushing: list[threading.Thread] = []


def tracer(service: str) -> Tracer:
    """Who makes spans.

    Args:
        service: name of the service where neither the program nor OTEL_SERVICE_NAME has one.

    Raises:
        ConfigError: OpenTelemetry is not installed, or the variables cannot work as they are.
    """
    return _provider(service).get_tracer("deltabus", _version())


def unreachable() -> str | None:
    """What is wrong with the collector that spans are to go to over HTTP, for people; None: nothing that can be seen.

    For variables with which `tracer` had no trouble.
    """
    if "otlp_proto_http" not in map(_plugin, _wanted()) or (where := variables.collector(os.environ)) is None:
        return None
    try:
        socket.create_connection(where, PATIENCE).close()
    except OSError as exc:
        return f"no collector at {where[0]}:{where[1]}: {exc.strerror or exc}"
    return None


def sent_plainly() -> str:
    """Host of a collector to which credentials go over http; empty: there is none."""
    return variables.sent_plainly(os.environ)


def flush() -> None:
    """Send what has not been sent yet: for a process that is about to be ended by force. It takes a limited time."""
    # One that still hangs on a collector is not waited for again: each job of a stock worker asks for this.
    if not _own or (_flushing and _flushing[0].is_alive()):
        return
    # A daemon: what hangs must not keep the process.
    thread = threading.Thread(target=_own[0].force_flush, name="deltabus-traces", daemon=True)  # type: ignore[attr-defined,unused-ignore] # the SDK's
    _flushing[:] = [thread]
    thread.start()
    thread.join(PATIENCE)


@cache
def _version() -> str:
    return version("deltabus")


def _provider(service: str) -> TracerProvider:
    try:
        from opentelemetry import trace
    except ImportError as exc:
        raise _missing() from exc
    if not _own:
        _check_names()
    current = trace.get_tracer_provider()
    if not isinstance(current, trace.ProxyTracerProvider):
        return current
    with _lock:
        if not _own:
            _own.append(_make(service))
        return _own[0]


def _check_names() -> None:
    for variable, group in _GROUPS.items():
        for name in filter(None, map(str.strip, os.environ.get(variable, "").split(","))):
            if name != "*" and not entry_points(group=group, name=name):
                known = ", ".join(sorted({entry.name for entry in entry_points(group=group)}))
                raise ConfigError(f"{variable} must name what is installed: {known or 'there is none'}")


def _make(service: str) -> TracerProvider:
    variables.check(os.environ)
    batching = variables.batching(os.environ)
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise _missing() from exc
    secrets = variables.secrets(os.environ)
    mask = discretion.keep(secrets).mask
    try:
        exporters = _exporters(secrets)
        # What their making imports has loggers, too.
        discretion.keep(secrets)
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: service}))
        # Its own end waits for half a minute for a collector that is away.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter, **batching))
    except ConfigError:
        raise
    except Exception as exc:  # noqa: BLE001 # an exporter's own
        # Without the cause, which may show a credential to whoever sees the traceback.
        raise ConfigError(
            f"OpenTelemetry cannot be set up as OTEL_* variables say: {type(exc).__name__}: {mask(str(exc))}"
        ) from None
    atexit.register(LastWord(provider.shutdown).say)
    return provider


def _exporters(secrets: frozenset[str]) -> list[Any]:
    return [_exporter(name, secrets) for name in _wanted()]


def _wanted() -> list[str]:
    wanted = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    return [name for name in wanted or ["otlp"] if name != "none"]


def _plugin(name: str) -> str:
    """What an exporter is registered as.

    Raises:
        ConfigError: there is no such protocol.
    """
    if name != "otlp":
        return name
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    variable = next((variable for variable in names if os.environ.get(variable)), names[0])
    protocol = os.environ.get(variable) or "http/protobuf"
    if protocol not in _OTLP:
        raise ConfigError(f"{variable} must be one of {', '.join(_OTLP)}, not {protocol!r}")
    return _OTLP[protocol]


def _exporter(name: str, secrets: frozenset[str]) -> Any:
    found = _plugin(name)
    plugin = next(iter(entry_points(group=_GROUP, name=found)), None)
    if plugin is None and name == "otlp":
        package = f"opentelemetry-exporter-{found.replace('_', '-')}"
        protocol = next(protocol for protocol, plugin in _OTLP.items() if plugin == found)
        raise ConfigError(f"traces over OTLP as {protocol} need {package}: pip install {package}")
    if plugin is None:
        known = sorted({entry.name for entry in entry_points(group=_GROUP)})
        raise ConfigError(
            f"OTEL_TRACES_EXPORTER: there is no exporter {name!r}; there are none, otlp, {', '.join(known)}"
        )
    if found.startswith("otlp"):
        variables.check_otlp(os.environ, grpc="grpc" in found)
    kind = plugin.load()
    # Its module's loggers are there now, and its making may use them.
    discretion.keep(secrets)
    return kind()


def _missing() -> ConfigError:
    return ConfigError("`traces` needs OpenTelemetry: pip install 'deltabus[otel]'")
