"""OpenTelemetry traces: from the producer's call through the queue to each attempt and its calls of the provider.

`sending` is the producer's part, `attempts` the worker's, an observer; the envelope carries the W3C context between
them (`carrier`). `source` alone decides where spans go. OpenTelemetry is imported only where the setting `traces` is
on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deltabus.settings import ProviderSettings, Settings
from deltabus.telemetry import Observer


def observers(settings: Settings, plugin_of: Callable[[ProviderSettings], str]) -> Sequence[Observer]:
    """Who makes a worker's spans, where they are wanted.

    Args:
        plugin_of: name of a provider's plugin.

    Raises:
        ConfigError: OpenTelemetry is not installed, or its variables cannot work as they are.
    """
    if settings.traces == "off":
        return ()
    from deltabus.tracing.attempts import Tracing

    return [Tracing({name: plugin_of(provider) for name, provider in settings.providers.items()})]


def flush() -> None:
    """Send what has not been sent yet: for a process that is about to be ended by force. It takes a limited time."""
    from deltabus.tracing import source

    source.flush()
