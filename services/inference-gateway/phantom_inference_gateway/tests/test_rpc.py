"""The gRPC door with real clients: statuses, metadata, broken bytes, limits, both stream dialects."""

import asyncio
import random
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_grpc
from phantom_inference_gateway.access import Access
from phantom_inference_gateway.calls import id_text
from phantom_inference_gateway.grpc_server import InferenceServer
from phantom_inference_gateway.ids import IdMint
from phantom_inference_gateway.metrics import GatewayMetrics
from phantom_inference_gateway.pool import Pool
from phantom_inference_gateway.routes import Routes
from phantom_inference_gateway.service import Limits, Source
from phantom_inference_gateway.tests.fakes import FakeModelServer, Log, Outcome, route, until
from phantom_inference_gateway.traced import TracedGateway
from phantom_inference_gateway.upstreams import StreamRule
from phantom_platform.telemetry import tracing

KEY = "default/flights-prod"
PATH = "/inference.GRPCInferenceService/"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
           ("grpc.use_local_subchannel_pool", 1)]  # fmt: skip


class Door:
    def __init__(self, limits):
        self.pool = Pool("boot", StreamRule(), random.random)
        self.routes = Routes(self.pool)
        self.log, self.metrics = Log(), GatewayMetrics()
        source = Source(IdMint(), random.randrange)
        access = Access(None, is_required=False)
        self.gateway = TracedGateway(self.routes, access, self.log, self.metrics, source, limits)
        self.unready = {}
        self.server = InferenceServer(
            self.gateway, "127.0.0.1", 0, refused=self.metrics.refuse, unready=lambda: self.unready
        )
        self.model = None
        self.channel = None

    @property
    def stub(self):
        return oip_grpc.GRPCInferenceServiceStub(self.channel)

    def raw(self, method):
        return self.channel.unary_unary(PATH + method)


@asynccontextmanager
async def door(behave=None, limits=None):
    made = Door(limits)
    made.model = await FakeModelServer("r1", "f.1", behave).start()
    await made.pool.start()
    record = route(("f.1", [made.model]))
    made.routes.route_changed(KEY, record, 1)
    await made.routes.settled()
    await made.server.start()
    made.channel = grpc.aio.insecure_channel(f"127.0.0.1:{made.server.port}", options=OPTIONS)
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        await made.channel.close()
        made.model.answers.set()
        await made.server.stop()
        await made.pool.stop()
        await made.model.kill()


def request(request_id="q", name="flights-prod", **parameters):
    message = oip.ModelInferRequest(model_name=name, id=request_id)
    for key, value in parameters.items():
        if isinstance(value, str):
            message.parameters[key].string_param = value
        elif isinstance(value, bool):
            message.parameters[key].bool_param = value
        else:
            message.parameters[key].int64_param = value
    return message


def details(error):
    found = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(found)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


async def refusal(awaitable):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await awaitable
    return refused.value


async def test_an_answer_carries_its_headers_as_initial_metadata():
    async with door() as made:
        call = made.stub.ModelInfer(request("q", "flights", tail_number="N1"))
        answer = await call
        headers = dict(await call.initial_metadata())
        assert answer.id == "q"
        assert headers["phantom-revision"] == "f.1"
        assert headers["phantom-variant"] == "control"
        assert headers["phantom-route-version"] == "1"
        assert headers["phantom-prediction-id"] == id_text(made.log.entries[0].prediction_id)
        assert made.log.entries[0].unit == "N1"


async def test_the_unit_may_come_as_metadata():
    async with door() as made:
        await made.stub.ModelInfer(request(), metadata=(("x-tail-number", "N7"),))
        assert made.log.entries[0].unit == "N7"


async def test_refusals_have_a_status_and_a_reason():
    async def behave(incoming, server):
        return Outcome(3, "wrong_shape", "tensor 'a' has shape [1, 3], expected [1, 2]\n")

    async with door(behave) as made:
        unknown = await refusal(made.stub.ModelInfer(request(name="x" * 10**6)))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        assert details(unknown).reason == "endpoint_not_found"
        assert len(unknown.details()) < 300
        bad = await refusal(made.stub.ModelInfer(request()))
        assert (bad.code(), bad.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT, "tensor 'a' has shape [1, 3], expected [1, 2]\n"
        )  # fmt: skip
        info = details(bad)
        assert (info.reason, info.domain, info.metadata["revision"]) == ("wrong_shape", "phantom", "f.1")
        assert dict(bad.initial_metadata())["phantom-revision"] == "f.1"
        floating = request()
        floating.parameters["tail_number"].double_param = 1.5
        unit = await refusal(made.stub.ModelInfer(floating))
        assert details(unit).reason == "invalid_unit"
        assert made.metrics.refused == {"endpoint_not_found": 1}


async def test_a_refusal_that_is_on_record_says_its_prediction_id():
    async with door() as made:
        asking = request()
        asking.model_version = "9.9.9"
        error = await refusal(made.stub.ModelInfer(asking))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        recorded = id_text(made.log.entries[0].prediction_id)
        assert dict(error.initial_metadata())["phantom-prediction-id"] == recorded
        found = details(error)
        assert (found.reason, found.metadata["version"]) == ("version_not_found", "9.9.9")
        assert found.metadata["prediction_id"] == recorded
        stream = made.channel.stream_stream(PATH + "ModelStreamInfer")()
        await stream.write(asking.SerializeToString())
        await stream.done_writing()
        (answer,) = [oip.ModelStreamInferResponse.FromString(raw) async for raw in stream]
        parameters = answer.infer_response.parameters
        recorded = id_text(made.log.entries[1].prediction_id)
        assert parameters["phantom_prediction_id"].string_param == recorded
        assert parameters["phantom_reason"].string_param == "version_not_found"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata", "ServerLive", "ServerReady"])
async def test_broken_bytes_are_an_invalid_argument_on_every_method(method):
    async with door() as made:
        for body in (
            b"\x0a\x05abc",
            b"\xff" * 30,
            b"\x0a\x02\xff\xfe" if method.startswith("Model") else b"\x0a",
        ):
            error = await refusal(made.raw(method)(body))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details(error).reason == "unparsable_request"


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
async def test_what_only_the_routing_fields_refuse_is_an_invalid_argument_too(method):
    async with door() as made:
        unknown_field_3 = b"\x0a\x07flights\x1a\x02\xff\xfe"
        error = await refusal(made.raw(method)(unknown_field_3))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details(error).reason == "unparsable_request"


async def test_a_request_of_100_mb_is_refused_and_one_of_60_is_served():
    async with door() as made:
        huge = request().SerializeToString() + b"\x3a\x80\xe1\xeb\x17" + bytes(50_000_000)
        error = await refusal(made.raw("ModelInfer")(huge + huge))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await made.raw("ModelInfer")(huge)) != b""


async def test_nobody_ready_says_when_to_retry():
    async with door() as made:
        await made.model.kill()
        await until(lambda: made.pool.counts()[0] == 0)
        error = await refusal(made.stub.ModelInfer(request()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert details(error).reason == "no_ready_replica"
        assert dict(error.trailing_metadata())["retry-after"] == "1"


async def test_deadlines_travel_and_a_client_s_own_ends_the_call():
    async with door() as made:
        await made.stub.ModelInfer(request(), timeout=2)
        assert 1500 < made.model.frames[0].remaining_ms[0] <= 2100  # gRPC rounds up
        await made.stub.ModelInfer(request(timeout=500_000), timeout=9)
        assert made.model.frames[1].remaining_ms[0] <= 500
        made.model.answers.clear()
        late = await refusal(made.stub.ModelInfer(request(), timeout=0.2))
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        late = await refusal(made.stub.ModelInfer(request(timeout=100_000)))
        assert details(late).reason == "deadline_exceeded"
        await made.gateway.idle()
        assert [entry.status for entry in made.log.entries] == [0, 0, 4, 4]


async def test_a_client_that_cancels_leaves_nothing_behind():
    async with door() as made:
        made.model.answers.clear()
        calls = [made.stub.ModelInfer(request()) for _ in range(20)]
        for each in calls:
            asyncio.ensure_future(each)  # noqa: RUF006
        await made.model.got(1)
        await until(lambda: made.gateway.in_flight == 20)
        for each in calls:
            each.cancel()
        await made.gateway.idle()
        assert {entry.status for entry in made.log.entries} == {1}
        assert made.routes.find("default", "flights").attempts == 0


async def test_a_burst_of_1500_calls_is_answered():
    async with door() as made:
        stub = made.stub
        answers = await asyncio.gather(*(stub.ModelInfer(request(f"q{n}")) for n in range(1500)))
        assert [answer.id for answer in answers] == [f"q{n}" for n in range(1500)]


async def test_beyond_the_limit_a_burst_is_shed_with_words():
    async with door(limits=Limits(calls=100)) as made:
        made.model.answers.clear()
        calls = [asyncio.ensure_future(made.stub.ModelInfer(request(f"q{n}"))) for n in range(150)]
        await until(lambda: made.metrics.shed == 50)
        made.model.answers.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        shed = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
        assert len(shed) == 50
        assert {(each.code(), details(each).reason) for each in shed} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        }


async def test_health_metadata_and_reflection_answer():
    async with door() as made:
        stub = made.stub
        assert (await stub.ServerLive(oip.ServerLiveRequest())).live
        assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
        assert (await stub.ModelReady(oip.ModelReadyRequest(name="flights"))).ready
        assert not (await stub.ModelReady(oip.ModelReadyRequest(name="nope"))).ready
        metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name="flights", version="1.0.0"))
        assert (metadata.inputs[0].name, list(metadata.inputs[0].shape)) == ("features", [-1, 2])
        assert metadata.parameters["hash_field"].string_param == "tail_number"
        assert (await stub.ServerMetadata(oip.ServerMetadataRequest())).name == "phantom-inference-gateway"
        error = await refusal(stub.ModelMetadata(oip.ModelMetadataRequest(name="nope")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        health = health_pb2_grpc.HealthStub(made.channel)
        check = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
        assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.SERVING
        made.unready["routes"] = "none"
        assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        listing = reflection_pb2_grpc.ServerReflectionStub(made.channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        names = {each.name async for reply in listing for each in reply.list_services_response.service}
        assert "inference.GRPCInferenceService" in names
        missing = await refusal(made.raw("RepositoryIndex")(b""))
        assert missing.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_another_workspace_needs_a_token_whatever_is_asked():
    async with door() as made:
        elsewhere = (("phantom-workspace", "other"),)
        for call in (
            made.stub.ModelInfer(request(), metadata=elsewhere),
            made.stub.ModelReady(oip.ModelReadyRequest(name="flights"), metadata=elsewhere),
            made.stub.ModelMetadata(oip.ModelMetadataRequest(name="flights"), metadata=elsewhere),
        ):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert details(error).reason == "token_missing"


async def test_stopping_lets_calls_under_way_finish():
    async with door() as made:
        made.model.answers.clear()
        call = asyncio.ensure_future(made.stub.ModelInfer(request()))
        await made.model.got(1)
        stopping = asyncio.create_task(made.server.stop())
        await asyncio.sleep(0)
        made.model.answers.set()
        assert (await call).id == "q"
        await stopping


async def test_a_sampled_call_is_traced_into_its_record():
    exporter = InMemorySpanExporter()
    tracing.configure("test", exporter=exporter)
    async with door() as made:
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        for flags in ("01", "00", "zz"):
            await made.stub.ModelInfer(
                request(), metadata=(("traceparent", f"00-{trace_id}-b7ad6b7169203331-{flags}"),)
            )
        sampled, unsampled, malformed = made.log.entries
        assert sampled.traceparent.split("-")[1] == trace_id
        assert unsampled.traceparent == malformed.traceparent == ""
        assert [span.name for span in exporter.get_finished_spans()] == ["ModelInfer"]


# -- streams -------------------------------------------------------------------------------------------------


async def test_a_stream_answers_each_request_and_a_bad_one_ends_only_itself():
    async def behave(incoming, server):
        return Outcome(3, "wrong_shape", "not so") if incoming.id == "bad" else Outcome()

    async with door(behave) as made:
        stream = made.channel.stream_stream(PATH + "ModelStreamInfer")()
        sent = [request(f"q{n}").SerializeToString() for n in range(50)]
        sent += [
            b"\x0a\x05abc",
            request("bad").SerializeToString(),
            request("lost", "nope").SerializeToString(),
        ]
        sent.append(request("last", triton_enable_empty_final_response=True).SerializeToString())
        for each in sent:
            await stream.write(each)
        await stream.done_writing()
        answers = [oip.ModelStreamInferResponse.FromString(raw) async for raw in stream]
        assert len(answers) == 54
        good = {each.infer_response.id: each.infer_response for each in answers if not each.error_message}
        assert set(good) == {*(f"q{n}" for n in range(50)), "last"}
        parameters = good["last"].parameters
        assert parameters["phantom_revision"].string_param == "f.1"
        assert parameters["phantom_route_version"].string_param == "1"
        assert parameters["triton_final_response"].bool_param is True
        errors = {each.infer_response.id: each.error_message for each in answers if each.error_message}
        assert set(errors) == {"", "bad", "lost"}
        assert errors["bad"] == "not so"
        assert "no endpoint" in errors["lost"]


async def test_the_other_dialect_streams_bare_answers():
    async with door() as made:
        call = made.channel.stream_stream(PATH + "ModelStreamInfer")
        stream = call(metadata=(("phantom-stream-dialect", "oip"),))
        for each in (request("q"), request("lost", "nope")):
            await stream.write(each.SerializeToString())
        await stream.done_writing()
        answers = {each.id: each for each in [oip.ModelInferResponse.FromString(raw) async for raw in stream]}
        assert answers["q"].model_name == "flights-prod"
        assert answers["q"].parameters["phantom_variant"].string_param == "control"
        assert answers["lost"].parameters["phantom_reason"].string_param == "endpoint_not_found"
        assert answers["lost"].parameters["phantom_status"].int64_param == 5
        unknown = call(metadata=(("phantom-stream-dialect", "seldon"),))
        assert (await refusal(unknown.read())).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_has_bounded_requests_in_flight_and_its_client_may_vanish():
    async with door() as made:
        made.model.answers.clear()
        stream = made.channel.stream_stream(PATH + "ModelStreamInfer")()
        for n in range(400):
            await stream.write(request(f"q{n}").SerializeToString())
        await until(lambda: made.gateway.in_flight == 256)
        await asyncio.sleep(0.05)
        assert made.gateway.in_flight == 256
        stream.cancel()
        await made.gateway.idle()
        made.model.answers.set()
        assert (await made.stub.ModelInfer(request("next"))).id == "next"
