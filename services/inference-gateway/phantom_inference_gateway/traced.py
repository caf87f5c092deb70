"""The Gateway with a span around each call whose caller's trace is sampled; every other call pays one comparison."""

from __future__ import annotations

from opentelemetry.trace import SpanKind

from phantom_inference_gateway.calls import Answer, Call, id_text
from phantom_inference_gateway.domain.routing import shorten
from phantom_inference_gateway.service import Gateway
from phantom_platform.telemetry import tracing

_SAMPLED = 1


class TracedGateway(Gateway):
    """What the doors are given. The record of a sampled call carries the span's `traceparent` to Kafka."""

    async def infer(self, call: Call) -> Answer:
        """As the Gateway's."""
        if not call.traceparent:
            return await super().infer(call)
        parent = tracing.extract(call.traceparent) if is_sampled(call.traceparent) else None
        if parent is None:
            call.traceparent = ""
            return await super().infer(call)
        with tracing.span("ModelInfer", parent=parent, kind=SpanKind.SERVER) as span:
            span.set_attribute("endpoint", shorten(call.model_name))
            call.traceparent = tracing.inject() or ""
            answer = await super().infer(call)
            span.set_attribute("prediction_id", id_text(answer.prediction_id))
            span.set_attribute("revision", answer.revision)
            if answer.status:
                tracing.mark_failed(span, answer.reason)
            return answer


def is_sampled(traceparent: str) -> bool:
    """Whether a W3C traceparent says so; malformed ones do not."""
    try:
        return bool(int(traceparent[-2:], 16) & _SAMPLED)
    except ValueError:
        return False
