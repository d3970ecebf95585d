"""The producer's part: a span around putting tasks on a queue, whose context goes with them.

Names and attributes are those of OpenTelemetry's messaging conventions; RQ is what they call the messaging system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from deltabus.tracing import carrier, source


@dataclass(frozen=True, slots=True)
class Sending:
    """Tasks on their way."""

    #: Their envelopes, with the span's context where they had none of their own.
    contents: Sequence[Mapping[str, Any]]
    _span: Span

    def are(self, tasks: Sequence[str]) -> None:
        """Say which ids they have."""
        if len(tasks) == 1:
            self._span.set_attribute("messaging.message.id", tasks[0])


@contextmanager
def sending(queue: str, contents: Sequence[Mapping[str, Any]]) -> Iterator[Sending]:
    """A span around sending these.

    Raises:
        ConfigError: see `source.tracer`.
    """
    attributes: dict[str, str | int] = {
        "messaging.system": "rq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": queue,
    }
    if len(contents) != 1:
        attributes["messaging.batch.message_count"] = len(contents)
    span = source.tracer("deltabus-producer").start_span(f"send {queue}", kind=SpanKind.PRODUCER, attributes=attributes)
    # Exceptions are not recorded as the SDK would: with their stack, and whatever message they have.
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        given = carrier.fields(span)
        # What is no string, whoever checks the envelopes refuses, as the worker would.
        own = {traceparent for content in contents if isinstance(traceparent := content.get("trace"), str)}
        for traceparent in own:
            if context := carrier.parent(traceparent, None):
                span.add_link(trace.get_current_span(context).get_span_context())
        try:
            yield Sending([_with_context(content, given) for content in contents], span)
        except Exception as exc:
            span.set_attribute("error.type", getattr(exc, "code", None) or type(exc).__name__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def _with_context(content: Mapping[str, Any], given: Mapping[str, str]) -> Mapping[str, Any]:
    """An envelope with the context that it has, else with this one."""
    if content.get("trace") not in (None, ""):
        return content
    state = content.get("tracestate")
    if state is not None and not isinstance(state, str):
        return content  # it is refused for that, here as without traces
    # A state without its context says nothing of this one.
    return {**{key: value for key, value in content.items() if key != "tracestate"}, **given}
