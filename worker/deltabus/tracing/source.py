"""Who takes the spans: the program's own OpenTelemetry where it has set one up, else one as OTEL_* variables say.

What the SDK reads by itself holds: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*,
OTEL_EXPORTER_OTLP_*, OTEL_SDK_DISABLED. Exporters are chosen as by OpenTelemetry's own launcher, which nobody needs
here: OTEL_TRACES_EXPORTER (`otlp`, `console`, `none`, or the name of an installed one; several with commas) and
OTEL_EXPORTER_OTLP_PROTOCOL.
"""

from __future__ import annotations

import atexit
import os
import threading
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any, Final

from deltabus.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer, TracerProvider

#: Seconds that spans may take to go out when the process ends, or a job of a process that ends with it.
PATIENCE: Final = 5.0

#: Where exporters are registered, and what OTLP's are called there, by protocol.
_GROUP: Final = "opentelemetry_traces_exporter"
_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}

#: The one that was made here, once.
_own: list[TracerProvider] = []
_lock = threading.Lock()


def tracer(service: str) -> Tracer:
    """Who makes spans.

    Args:
        service: name of the service where neither the program nor OTEL_SERVICE_NAME has one.

    Raises:
        ConfigError: OpenTelemetry is not installed, or the variables cannot work as they are.
    """
    return _provider(service).get_tracer("deltabus", version("deltabus"))


def flush() -> None:
    """Send what has not been sent yet: for a process that is about to be ended by force. It takes a limited time."""
    for provider in _own:
        _within_patience(provider.force_flush)  # type: ignore[attr-defined,unused-ignore] # the SDK's


def _provider(service: str) -> TracerProvider:
    try:
        from opentelemetry import trace
    except ImportError as exc:
        raise _missing() from exc
    current = trace.get_tracer_provider()
    if not isinstance(current, trace.ProxyTracerProvider):
        return current
    with _lock:
        if not _own:
            _own.append(_make(service))
        return _own[0]


def _make(service: str) -> TracerProvider:
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise _missing() from exc
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: service}))
    # Its own end waits for half a minute for a collector that is away.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in _exporters():
        provider.add_span_processor(BatchSpanProcessor(exporter))
    atexit.register(_within_patience, provider.shutdown)
    return provider


def _exporters() -> list[Any]:
    wanted = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    return [_exporter(name) for name in wanted or ["otlp"] if name != "none"]


def _exporter(name: str) -> Any:
    found = name
    if name == "otlp":
        variables = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        variable = next((variable for variable in variables if os.environ.get(variable)), variables[0])
        protocol = os.environ.get(variable) or "http/protobuf"
        if protocol not in _OTLP:
            raise ConfigError(f"{variable} must be one of {', '.join(_OTLP)}, not {protocol!r}")
        found = _OTLP[protocol]
    plugin = next(iter(entry_points(group=_GROUP, name=found)), None)
    if plugin is None and name == "otlp":
        package = f"opentelemetry-exporter-{found.replace('_', '-')}"
        raise ConfigError(f"traces over OTLP as {protocol} need {package}: pip install {package}")
    if plugin is None:
        known = sorted({entry.name for entry in entry_points(group=_GROUP)})
        raise ConfigError(
            f"OTEL_TRACES_EXPORTER: there is no exporter {name!r}; there are none, otlp, {', '.join(known)}"
        )
    return plugin.load()()


def _within_patience(work: Any) -> None:
    # A daemon: what hangs on a collector that is away must not keep the process.
    thread = threading.Thread(target=work, name="deltabus-traces", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the interpreter is too far on its way out for threads
        work()
    else:
        thread.join(PATIENCE)


def _missing() -> ConfigError:
    return ConfigError("`traces` needs OpenTelemetry: pip install 'deltabus[otel]'")
