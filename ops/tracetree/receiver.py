"""Takes spans over OTLP/HTTP, as a collector does, and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

_KINDS: Final = {value: name.removeprefix("SPAN_KIND_").lower() for name, value in trace_pb2.Span.SpanKind.items()}


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it was received. Ids are hexadecimal, times Unix nanoseconds."""

    trace: str
    id: str
    #: Empty: none.
    parent: str
    name: str
    #: `producer`, `consumer`, `client`, `internal` or `server`.
    kind: str
    service: str
    start: int
    end: int
    failed: bool
    attributes: Mapping[str, Any] = field(default_factory=dict)


class Receiver:
    """Listens on a free port of this machine, while its block runs."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        """All that have come, by their start."""
        return sorted(self._spans, key=lambda span: span.start)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        spans = self._spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                spans.extend(read(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()
                self.wfile.write(ExportTraceServiceResponse().SerializeToString())

            def log_message(self, *_: Any) -> None:
                """Nothing: what matters is in the spans."""

        return Handler


def read(body: bytes) -> list[Span]:
    """The spans of a request."""
    request = ExportTraceServiceRequest.FromString(body)
    found = []
    for resource in request.resource_spans:
        own = {item.key: _value(item.value) for item in resource.resource.attributes}
        found += [
            Span(
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                name=span.name,
                kind=_KINDS[span.kind],
                service=own.get("service.name", ""),
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                attributes={item.key: _value(item.value) for item in span.attributes},
            )
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    return found


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)
