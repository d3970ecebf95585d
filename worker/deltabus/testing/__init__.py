"""The kit for tests of plugins and of programs that use the bus.

`ProviderContract` and `Case`: what every provider plugin passes (`deltabus.testing.contract`).
`ScriptedServer`, `Reply`, `Action`, `Request`, `Signal`: an HTTP server that says what a test tells it to
(`deltabus.testing.server`).
`ApiServer`, with `Dialect` (`OPENAI`, `LOCALAI`, `NO_FILES`, `NO_FILE_PARTS`) and `Fault`: an OpenAI-compatible server
that keeps files and says what it was shown (`deltabus.testing.api`).
`Sample`: a file to upload, of any size, which costs no memory (`deltabus.testing.content`).
`memory_bus`: a bus and a worker without a server, perhaps one that dies on the way (`deltabus.testing.memory`).
`decode_every_way`: a body cut at every byte must decode to the same (`deltabus.testing.cuts`).
`check_events`: whether a task's events keep the grammar (`deltabus.testing.grammar`).

Each name is imported when it is first used: the contract needs pytest, the rest does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltabus.testing.api import LOCALAI, NO_FILE_PARTS, NO_FILES, OPENAI, ApiServer, Dialect, Fault
    from deltabus.testing.content import Sample
    from deltabus.testing.contract import ProviderContract
    from deltabus.testing.cuts import decode_every_way
    from deltabus.testing.grammar import GrammarError, check_events
    from deltabus.testing.memory import memory_bus
    from deltabus.testing.server import Action, Reply, Request, ScriptedServer, Signal
    from deltabus.testing.situations import Case

__all__ = [
    "LOCALAI",
    "NO_FILES",
    "NO_FILE_PARTS",
    "OPENAI",
    "Action",
    "ApiServer",
    "Case",
    "Dialect",
    "Fault",
    "GrammarError",
    "ProviderContract",
    "Reply",
    "Request",
    "Sample",
    "ScriptedServer",
    "Signal",
    "check_events",
    "decode_every_way",
    "memory_bus",
]

_MODULES = {
    "LOCALAI": "api",
    "NO_FILES": "api",
    "NO_FILE_PARTS": "api",
    "OPENAI": "api",
    "ApiServer": "api",
    "Dialect": "api",
    "Fault": "api",
    "Action": "server",
    "Case": "situations",
    "GrammarError": "grammar",
    "ProviderContract": "contract",
    "Reply": "server",
    "Request": "server",
    "Sample": "content",
    "ScriptedServer": "server",
    "Signal": "server",
    "check_events": "grammar",
    "decode_every_way": "cuts",
    "memory_bus": "memory",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
