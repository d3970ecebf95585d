"""The fixtures of the fault tests."""

from faults import durable, provider, scene

__all__ = ["durable", "provider", "scene"]
