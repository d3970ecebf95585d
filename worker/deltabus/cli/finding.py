"""One thing that `deltabus check` has looked at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    state: State
    detail: str
    #: How to mend it.
    fix: str | None = None


#: What a rule finds: state, detail, and how to mend it; None: nothing to say.
Verdict = tuple[State, str, str] | None
