"""An OpenTelemetry collector that keeps what it gets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc


@dataclass(frozen=True)
class Span:
    """One, as it was exported."""

    service: str
    name: str
    span_id: str
    parent_id: str


@dataclass
class Collector(pb_grpc.TraceServiceServicer):
    """Spans by trace id."""

    address: str = ""
    spans: dict[str, list[Span]] = field(default_factory=dict)

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    kept = Span(
                        names.get("service.name", ""),
                        span.name,
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                    )
                    self.spans.setdefault(span.trace_id.hex(), []).append(kept)
        return pb.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[Span]:
        """The spans of a trace so far."""
        return list(self.spans.get(trace_id, ()))


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Listens until the block ends."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
