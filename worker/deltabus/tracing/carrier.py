"""The W3C trace context between a span, an envelope and the headers of a request. Baggage stays at home."""

from __future__ import annotations

import re
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()

#: Characters of a `traceparent` and of a `tracestate` that are read, on the worker's loop: W3C asks for 512 at least.
_PARENT: Final = 512
_STATE: Final = 4096

#: Members of a `tracestate` at the most, and what each may be: https://www.w3.org/TR/trace-context/#tracestate-header.
#: What breaks that, OpenTelemetry would quote in the log.
_MEMBERS: Final = 32
_MEMBER: Final = re.compile(
    r"[ \t]*([a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~][ \t]*"
)


def headers(span: Span) -> dict[str, str]:
    """`traceparent`, and `tracestate` where there is one, for what is done under a span."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier


def fields(span: Span) -> dict[str, str]:
    """The same as fields of an envelope."""
    carrier = headers(span)
    names = {"traceparent": "trace", "tracestate": "tracestate"}
    return {name: carrier[header] for header, name in names.items() if header in carrier}


def parent(traceparent: str | None, tracestate: str | None) -> Context | None:
    """The context that an envelope names; None where it names none, or what is none: it is not worth a failure."""
    if not traceparent or len(traceparent) > _PARENT:
        return None
    state = tracestate if tracestate and _is_state(tracestate) else ""
    context = _W3C.extract({"traceparent": traceparent, "tracestate": state}, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None


def _is_state(tracestate: str) -> bool:
    if len(tracestate) > _STATE:
        return False
    members = [_MEMBER.fullmatch(member) for member in tracestate.split(",") if member.strip(" \t")]
    names = {member[1] for member in members if member is not None}
    return len(names) == len(members) <= _MEMBERS
