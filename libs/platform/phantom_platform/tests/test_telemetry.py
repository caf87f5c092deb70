"""Logs without secrets, traces without gaps, and the observation door."""

import asyncio
import contextvars
import io
import json
import logging
import socket

import aiohttp
import grpc
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Counter

from phantom.governance.v1 import governance_service_pb2 as pb
from phantom.governance.v1 import governance_service_pb2_grpc as stubs
from phantom_platform import rpc
from phantom_platform.errors import Refused
from phantom_platform.telemetry import logs, tracing
from phantom_platform.telemetry.http import MetricsServer
from phantom_platform.testing.audit import MemoryAuditSink
from phantom_platform.testing.identity import FixedToken, Issuer
from phantom_platform.testing.rpc import serving, standing_in

GOVERNANCE = "phantom.governance.v1.GovernanceService"


@pytest.fixture
def lines():
    """Configures logging into memory; gives a function that reads the lines written so far."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("testing", "INFO", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    tracing.configure("testing", exporter=exporter)
    return exporter


def test_a_line_is_json_with_its_service_action_and_fields(lines):
    logs.get("phantom_x").info("model registered", action="model_registered", model="fraud")
    [line] = lines()
    assert line["event"] == "model registered"
    assert (line["service"], line["action"], line["model"]) == ("testing", "model_registered", "fraud")
    assert (line["level"], line["logger"]) == ("info", "phantom_x")
    assert line["timestamp"].endswith("Z")


async def test_what_is_bound_before_the_loop_runs_is_in_every_task_s_lines(lines):
    context = contextvars.copy_context()
    context.run(logs.bind, worker="0-1")
    log = logs.get("phantom_x")

    async def say():
        log.info("from a task", action="said")

    await asyncio.create_task(say(), context=context)
    log.info("from elsewhere", action="said")
    assert [line.get("worker") for line in lines()] == ["0-1", None]


def test_no_secret_reaches_a_line(lines):
    jwt = Issuer().token("ada", "*")
    secret = "hunter2"
    logs.get("x").info(
        "call",
        action="call",
        password=secret,
        headers={"authorization": f"Bearer {jwt}", "accept": "json", "api-key": secret},
        args=[f"token={jwt}", {"client_secret": secret}],
        url=f"postgresql://phantom:{secret}@localhost/db",
    )
    logging.getLogger("library").warning("sending %s", f"Bearer {jwt}")
    try:
        raise ValueError(f"bad header Bearer {jwt}")
    except ValueError:
        logs.get("x").exception("failed", action="failed")
    text = json.dumps(lines())
    assert secret not in text
    assert jwt not in text
    assert jwt.split(".")[1] not in text
    assert "accept" in text
    assert text.count("[redacted]") >= 7


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="PHANTOM_LOG_LEVEL"):
        logs.configure("testing", "LOUD")


def test_lines_inside_a_span_carry_its_ids(lines, spans):
    with tracing.span("work") as span:
        logs.get("x").info("inside", action="inside")
    context = span.get_span_context()
    [line] = lines()
    assert line["trace_id"] == format(context.trace_id, "032x")
    assert line["span_id"] == format(context.span_id, "016x")


def test_a_context_survives_its_journey_as_text(spans):
    with tracing.span("here"):
        text = tracing.inject()
    with tracing.span("there", parent=tracing.extract(text.encode())):
        pass
    here, there = spans.get_finished_spans()
    assert there.context.trace_id == here.context.trace_id
    assert there.parent.span_id == here.context.span_id


def test_a_span_names_the_other_traces_that_it_works_for(spans):
    with tracing.span("one") as first:
        parent = tracing.extract(tracing.inject())
    with tracing.span("two") as second:
        other = tracing.extract(tracing.inject())
    with tracing.span("both", parent=parent, links=[other]):
        pass
    both = spans.get_finished_spans()[-1]
    assert both.context.trace_id == first.get_span_context().trace_id
    assert [link.context.span_id for link in both.links] == [second.get_span_context().span_id]


@pytest.mark.parametrize("text", [None, "", "garbage", b"\xff\xfe", "00-0-0-0"])
def test_a_malformed_traceparent_is_no_parent(text):
    assert tracing.extract(text) is None


async def test_one_trace_leads_from_the_client_through_the_handler(spans):
    issuer, seen = Issuer(), []

    async def who_am_i(request, context):
        seen.append(tracing.inject())
        return pb.WhoAmIResponse()

    servicer = standing_in(GOVERNANCE, audit=MemoryAuditSink(), WhoAmI=who_am_i)
    tokens = FixedToken(issuer.token("ada", "*"))
    async with (
        serving(servicer, verifier=issuer.verifier) as server,
        rpc.control_channel(server.address, tokens) as channel,
    ):
        with tracing.span("user action") as action:
            await stubs.GovernanceServiceStub(channel).WhoAmI(pb.WhoAmIRequest())
    trace_id = format(action.get_span_context().trace_id, "032x")
    assert seen[0].split("-")[1] == trace_id
    by_name = {span.name: span for span in spans.get_finished_spans()}
    handled = by_name[f"{GOVERNANCE}/WhoAmI"]
    assert handled.parent.span_id == action.get_span_context().span_id
    assert handled.attributes["rpc.grpc.status_code"] == grpc.StatusCode.OK.value[0]


async def get(port: int, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_the_observation_door_serves_metrics_health_and_readiness():
    registry, reasons = CollectorRegistry(), {"lifecycle": "starting"}
    Counter("phantom_tests", "Tests.", registry=registry).inc()
    server = MetricsServer(registry, "127.0.0.1", 0, lambda: reasons)
    await server.start()
    try:
        status, text = await get(server.port, "/metrics")
        assert status == 200
        assert "phantom_tests_total 1.0" in text
        assert (await get(server.port, "/health"))[0] == 200
        status, text = await get(server.port, "/ready")
        assert (status, json.loads(text)["reasons"]) == (503, {"lifecycle": "starting"})
        reasons.clear()
        assert (await get(server.port, "/ready"))[0] == 200
    finally:
        await server.stop()


async def test_a_taken_metrics_port_is_refused_saying_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = MetricsServer(CollectorRegistry(), "127.0.0.1", taken.getsockname()[1], dict)
        with pytest.raises(Refused, match="PHANTOM_METRICS_PORT"):
            await server.start()
