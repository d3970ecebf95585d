"""What the server was asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from deltabus.testing.api.fault import Fault
from deltabus.testing.script import Signal


@dataclass(slots=True, kw_only=True)
class Received:
    """One request."""

    method: str
    #: Without `/v1`.
    path: str
    query: Mapping[str, str]
    #: Names in lower case.
    headers: Mapping[str, str]
    #: Of a JSON body, or the fields of a form, as far as they were read; files are not among them.
    body: dict[str, Any] = field(default_factory=dict)
    #: What is to go wrong with it.
    fault: Fault | None = None
    #: Happens when it has been dealt with: answered, or its connection is gone.
    done: Signal = field(default_factory=Signal)
    #: Happens when the client has gone before it was answered in full.
    lost: Signal = field(default_factory=Signal)

    @property
    def operation(self) -> str:
        """Such as `POST /files`."""
        return f"{self.method} {self.path}"


#: The request that is being answered.
CURRENT: ContextVar[Received] = ContextVar("deltabus_api_request")
