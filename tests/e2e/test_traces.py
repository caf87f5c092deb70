"""One trace leads from the SDK through gRPC, Kafka and back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from harness.kafka import headers_of, wait_for
from harness.waiting import eventually
from phantom_contracts import topics
from phantom_ml_studio import InferenceClient, ModelRegistry
from phantom_ml_studio.errors import NotFound
from phantom_ml_studio.tracing import trace

if TYPE_CHECKING:
    from conftest import Studio
    from harness.collector import Collector, Span
    from harness.people import People
    from harness.stack import Stack
    from phantom_ml_studio.values import Deployment


async def test_a_prediction_is_followed_from_the_sdk_through_the_gateway_and_kafka_into_the_monitor(
    stack: Stack, shop: Deployment, collector: Collector
) -> None:
    with trace() as trace_id, InferenceClient(stack.grpc) as client:
        client.predict(shop.id, [{"amount": 0.5, "hour": 0.5}])

    def is_in_kafka(records: list[Any]) -> bool:
        return any(trace_id in headers_of(record).get("traceparent", "") for record in records)

    await wait_for(stack.kafka, topics.PREDICTIONS, is_in_kafka)
    spans = spans_of(collector, trace_id, {"ModelInfer", f"consume {topics.PREDICTIONS.name}"})
    by_name = {span.name: span for span in spans}
    gateway, monitor = by_name["ModelInfer"], by_name[f"consume {topics.PREDICTIONS.name}"]
    assert gateway.service == "phantom-inference-gateway"
    assert monitor.service == "phantom-control"
    assert monitor.parent_id == gateway.span_id


async def test_a_change_is_followed_from_the_sdk_into_the_event_that_announces_it(
    stack: Stack, people: People, studio: Studio, shop: Deployment, collector: Collector
) -> None:
    with trace() as trace_id:
        studio.registry.set_tags(shop.model_id, ["traced"])

    def announced(records: list[Any]) -> bool:
        return any(trace_id in headers_of(record).get("traceparent", "") for record in records)

    await wait_for(stack.kafka, topics.AUDIT, announced)
    name = "phantom.registry.v1.RegistryService/SetTags"
    assert spans_of(collector, trace_id, {name})


def test_an_error_names_its_trace_and_the_logs_know_it(stack: Stack, people: People) -> None:
    with pytest.raises(NotFound) as missing:
        ModelRegistry(people.engineer.client).get_model("no-such-model")
    assert re.fullmatch(r"[0-9a-f]{32}", missing.value.trace_id)


def spans_of(collector: Collector, trace_id: str, names: set[str]) -> list[Span]:
    """The trace's spans, once these are among them."""

    def found() -> list[Span] | None:
        spans = collector.of(trace_id)
        return spans if {span.name for span in spans} >= names else None

    return eventually(found, f"spans {sorted(names)}") or []
