"""The worker's part: a span for each attempt, under the producer's, and one under it for each call of the provider.

    send chat              the producer's
    ├─ wait chat           in the queue, by the producer's clock
    ├─ process chat        an attempt
    │  └─ chat gpt-4o      a call; another one for each try
    └─ process chat        the next attempt, perhaps another worker's

While the task function runs, its call's span is OpenTelemetry's current one: what a plugin, or an instrumented library
under it, adds comes below it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import Token
from dataclasses import dataclass
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from deltabus import telemetry
from deltabus.errors import TaskError
from deltabus.events import Completed, Failed, Terminal
from deltabus.telemetry import Observer, Watch
from deltabus.tracing import carrier, genai, source


@dataclass(slots=True)
class _Call:
    """A call under way."""

    span: Span
    token: Token[Context]


@dataclass(slots=True)
class _Attempt:
    """An attempt under way."""

    span: Span
    call: _Call | None = None
    #: Why the attempt failed, by code.
    error: str = ""


class Tracing(Observer):
    """Makes the spans of one worker.

    Args:
        plugins: of the configured providers, by name.

    Raises:
        ConfigError: see `source.tracer`.
    """

    def __init__(self, plugins: Mapping[str, str]) -> None:
        self._tracer = source.tracer("deltabus-worker")
        self._plugins = plugins
        self._attempts: dict[Watch, _Attempt] = {}

    def begun(self, watch: Watch) -> None:
        parent = _parent(watch)
        if parent is not None and watch.attempt == 1:
            self._wait(watch, parent)
        self._attempts[watch] = _Attempt(self._process(watch, parent))

    def calling(self, watch: Watch) -> None:
        attempt = self._attempts.get(watch)
        if attempt is None:
            return
        self._hang_up(watch, attempt)
        request: Mapping[str, Any] = {} if watch.envelope is None else watch.envelope.request
        span = self._tracer.start_span(
            genai.name(watch.function, watch.model),
            trace.set_span_in_context(attempt.span, Context()),
            kind=SpanKind.CLIENT,
            attributes=dict(genai.asked(watch.function, request)),
        )
        watch.trace_headers = carrier.headers(span)
        attempt.call = _Call(span, context.attach(trace.set_span_in_context(span)))

    def first_delta(self, watch: Watch) -> None:
        if call := self._call(watch):
            call.span.set_attribute("gen_ai.response.time_to_first_chunk", watch.first_delta - watch.called)

    def answered(self, provider: str, status: int) -> None:
        watch = telemetry.watch()
        if watch is not None and (call := self._call(watch)):
            call.span.set_attribute("http.response.status_code", status)

    def failed(self, watch: Watch, error: TaskError, retry_in: float | None) -> None:
        attempt = self._attempts.get(watch)
        if attempt is None:
            return
        attempt.error = error.code
        if attempt.call is not None:
            _fail(attempt.call.span, error.code)
        self._hang_up(watch, attempt)

    def settled(self, watch: Watch, event: Terminal) -> None:
        attempt = self._attempts.get(watch)
        if attempt is None:
            self._refused(watch, event)
            return
        attempt.error = event.error.code if isinstance(event, Failed) else ""
        if isinstance(event, Completed) and attempt.call is not None:
            attempt.call.span.set_attributes(dict(genai.answered(event.result)))
        self._hang_up(watch, attempt)

    def ended(self, watch: Watch, ending: str) -> None:
        attempt = self._attempts.pop(watch, None)
        if attempt is None:
            return
        if attempt.call is not None:
            attempt.call.span.set_attribute("deltabus.ending", ending)
        self._hang_up(watch, attempt)
        attempt.span.set_attribute("deltabus.ending", ending)
        if attempt.error and ending != "completed":
            _fail(attempt.span, attempt.error)
        attempt.span.end()

    def _call(self, watch: Watch) -> _Call | None:
        attempt = self._attempts.get(watch)
        return None if attempt is None else attempt.call

    def _hang_up(self, watch: Watch, attempt: _Attempt) -> None:
        """End the call that is under way, if there is one."""
        call, attempt.call = attempt.call, None
        if call is None:
            return
        context.detach(call.token)
        watch.trace_headers = {}
        if watch.provider:
            plugin = self._plugins.get(watch.provider, watch.provider)
            call.span.set_attributes({**dict([genai.provider(plugin)]), "deltabus.provider": watch.provider})
        if watch.server is not None:
            host, port = watch.server
            call.span.set_attributes({"server.address": host, "server.port": port})
        call.span.end()

    def _process(self, watch: Watch, parent: Context | None) -> Span:
        attributes: dict[str, str | int] = {
            **_messaging(watch),
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.client.id": watch.worker,
            "deltabus.attempt": watch.attempt,
        }
        if watch.tenant:
            attributes["deltabus.tenant"] = genai.text(watch.tenant)
        # A parent always, if an empty one: what a worker's own process is traced for is another matter.
        return self._tracer.start_span(
            f"process {watch.queue}", parent or Context(), kind=SpanKind.CONSUMER, attributes=attributes
        )

    def _wait(self, watch: Watch, parent: Context) -> None:
        now, enqueued = time.time_ns(), int(watch.enqueued_at * 1e9)
        # Clocks of two machines may say that it began before it was asked for.
        if 0 < enqueued <= now:
            span = self._tracer.start_span(
                f"wait {watch.queue}", parent, attributes=_messaging(watch), start_time=enqueued
            )
            span.end(now)

    def _refused(self, watch: Watch, event: Terminal) -> None:
        """A task that came to its end without an attempt."""
        parent = _parent(watch)
        if watch.attempt or parent is None:
            return
        self._wait(watch, parent)
        span = self._process(watch, parent)
        span.set_attribute("deltabus.ending", type(event).__name__.lower())
        if isinstance(event, Failed):
            _fail(span, event.error.code)
        span.end()


def _parent(watch: Watch) -> Context | None:
    return None if watch.envelope is None else carrier.parent(watch.envelope.trace, watch.envelope.tracestate)


def _messaging(watch: Watch) -> dict[str, str | int]:
    return {
        "messaging.system": "rq",
        "messaging.destination.name": watch.queue,
        "messaging.message.id": watch.task,
    }


def _fail(span: Span, code: str) -> None:
    # The code, not the message: a provider may quote the request in it.
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))
