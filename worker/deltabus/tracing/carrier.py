"""The W3C trace context between a span, an envelope and the headers of a request. Baggage stays at home."""

from __future__ import annotations

from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_W3C = TraceContextTextMapPropagator()

#: Characters of a `tracestate` that is passed on: W3C asks for 512 at least. It is read on the worker's loop.
_STATE: Final = 4096


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
    if not traceparent or len(traceparent) > _STATE:
        return None
    state = tracestate if tracestate and len(tracestate) <= _STATE else ""
    context = _W3C.extract({"traceparent": traceparent, "tracestate": state}, Context())
    return context if trace.get_current_span(context).get_span_context().is_valid else None
