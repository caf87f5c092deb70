"""OpenTelemetry traces that follow one request through gRPC, the outbox, Kafka and back.

Context travels as a W3C `traceparent`: gRPC metadata, a column of the outbox, a Kafka header. `inject` gives
the text for the current span, `extract` makes a parent of such a text. Without an OTLP endpoint spans still
have ids (for logs, events and callers) and are exported nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"

# Finds the provider when it is configured, once; asking for a tracer each time costs more than its span.
_tracer = trace.get_tracer("phantom")
_propagator = TraceContextTextMapPropagator()
Attribute = str | bool | int | float


def configure(service: str, otlp_endpoint: str | None = None, exporter: SpanExporter | None = None) -> None:
    """Make spans in this process; a second call only adds its exporter.

    `otlp_endpoint` is the host:port or URL of an OTLP gRPC collector. `exporter` is for tests: it gets each
    span as it ends.
    """
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider(resource=Resource.create({"service.name": f"phantom-{service}"}))
        trace.set_tracer_provider(provider)
    if otlp_endpoint:
        is_plain = not otlp_endpoint.startswith("https://")
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(otlp_endpoint, insecure=is_plain)))
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(exporter))


def shutdown() -> None:
    """Export what is buffered; called as a process ends."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(2_000)


class CurrentSpan:
    """A span, from the beginning of a block to its end, current inside. (Three nested generators, as the API has
    them, cost more than the work of some blocks.)"""

    __slots__ = ("_span", "_token")

    def __init__(self, started: Span) -> None:
        self._span = started

    def __enter__(self) -> Span:
        self._token = context_api.attach(trace.set_span_in_context(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context_api.detach(self._token)
        if isinstance(error, Exception) and self._span.is_recording():
            self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        self._span.end()


def span(
    name: str,
    *,
    parent: Context | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Attribute] | None = None,
    links: Iterable[Context] = (),
    **attrs: Attribute,
) -> CurrentSpan:
    """A span around a block, current inside it; an exception that leaves the block marks it failed.

    `links` are the other traces that the block works for, where it works for several at once.
    """
    return CurrentSpan(
        _tracer.start_span(
            name,
            context=parent,
            kind=kind,
            attributes={**attributes, **attrs} if attributes else attrs,
            links=[Link(trace.get_current_span(each).get_span_context()) for each in links],
        )
    )


def mark_failed(current: Span, reason: str) -> None:
    """Say that the span's work was refused or failed, without an exception passing through it."""
    current.set_status(Status(StatusCode.ERROR, reason))


def inject() -> str | None:
    """The `traceparent` of the current span, or None outside any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(TRACEPARENT)


def extract(traceparent: str | bytes | None) -> Context | None:
    """The context to hand to `span(parent=…)`; None for a missing or malformed one."""
    if not traceparent:
        return None
    text = traceparent.decode("ascii", "ignore") if isinstance(traceparent, bytes) else traceparent
    context = _propagator.extract({TRACEPARENT: text})
    return context if trace.get_current_span(context).get_span_context().is_valid else None
