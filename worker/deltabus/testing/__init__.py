"""The kit for tests of plugins and of programs that use the bus.

`ProviderContract` and `Case`: what every provider plugin passes (`deltabus.testing.contract`).
`ScriptedServer`, `Reply`, `Action`, `Request`, `Signal`: an HTTP server that says what a test tells it to
(`deltabus.testing.server`).
`memory_bus`: a bus and a worker without a server (`deltabus.testing.memory`).
`check_events`: whether a task's events keep the grammar (`deltabus.testing.grammar`).

Each name is imported when it is first used: the contract needs pytest, the rest does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltabus.testing.contract import ProviderContract
    from deltabus.testing.grammar import GrammarError, check_events
    from deltabus.testing.memory import memory_bus
    from deltabus.testing.server import Action, Reply, Request, ScriptedServer, Signal
    from deltabus.testing.situations import Case

__all__ = [
    "Action",
    "Case",
    "GrammarError",
    "ProviderContract",
    "Reply",
    "Request",
    "ScriptedServer",
    "Signal",
    "check_events",
    "memory_bus",
]

_MODULES = {
    "Action": "server",
    "Case": "situations",
    "GrammarError": "grammar",
    "ProviderContract": "contract",
    "Reply": "server",
    "Request": "server",
    "ScriptedServer": "server",
    "Signal": "server",
    "check_events": "grammar",
    "memory_bus": "memory",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
