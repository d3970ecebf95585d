"""The fixtures of the fault tests."""

from faults import durable, scene

__all__ = ["durable", "scene"]
