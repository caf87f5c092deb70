"""Which trace a call belongs to."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider

from phantom.registry.v1 import registry_service_pb2 as rpc
from phantom_ml_studio import Client, ModelRegistry, tracing
from phantom_ml_studio.tests.fake_platform import FakePlatform


def traces(platform: FakePlatform) -> list[str]:
    return [tracing.trace_id_of(metadata["traceparent"]) for _, metadata in platform.seen]


def test_calls_inside_a_block_share_its_trace_and_others_have_their_own(platform: FakePlatform) -> None:
    platform.answer("GetModel", rpc.GetModelResponse())
    with Client(platform.address, "t") as client:
        registry = ModelRegistry(client)
        with tracing.trace() as trace_id:
            registry.get_model("m")
            registry.get_model("m")
        registry.get_model("m")
        registry.get_model("m")
    first, second, third, fourth = traces(platform)
    assert first == second == trace_id
    assert len({first, third, fourth}) == 3


def test_a_program_that_traces_with_opentelemetry_is_the_parent(platform: FakePlatform) -> None:
    platform.answer("GetModel", rpc.GetModelResponse())
    tracer = TracerProvider().get_tracer("a program of a user")
    with Client(platform.address, "t") as client, tracer.start_as_current_span("work") as span:
        ModelRegistry(client).get_model("m")
    context = span.get_span_context()
    ((_, metadata),) = platform.seen
    flags = f"{int(context.trace_flags):02x}"
    assert metadata["traceparent"] == f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags}"


def test_outside_any_trace_there_is_none_to_send_with_a_prediction() -> None:
    assert tracing.traceparent() is None
