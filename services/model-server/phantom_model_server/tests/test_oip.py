"""Plain OIP against a real replica."""

import asyncio

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from inference import grpc_service_pb2 as oip
from inference import grpc_service_pb2_grpc as oip_stubs
from phantom_model_server.tests.conftest import channel_to, gateway, request

ROW = [[0.5, 13, 1, 2.0]]


async def failing(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_a_replica_speaks_plain_oip(replica):
    one = replica().start()
    async with channel_to(one) as channel:
        stub = oip_stubs.GRPCInferenceServiceStub(channel)
        assert (await stub.ServerLive(oip.ServerLiveRequest())).live
        assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
        ready = {
            (name, version): (await stub.ModelReady(oip.ModelReadyRequest(name=name, version=version))).ready
            for name in ("flights", "flights-prod", "other")
            for version in ("", "1.0.0", "9.9.9")
        }
        assert [key for key, is_ready in ready.items() if is_ready] == [
            ("flights", ""), ("flights", "1.0.0"), ("flights-prod", ""), ("flights-prod", "1.0.0"),
        ]  # fmt: skip
        metadata = await stub.ModelMetadata(oip.ModelMetadataRequest(name="flights"))
        assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
            ("features", "FP64", [-1, 4])
        ]
        assert [each.name for each in metadata.outputs] == ["label", "probabilities", "score"]
        answer = await stub.ModelInfer(request(ROW, name="flights"))
        assert (answer.model_name, answer.model_version, answer.id) == ("flights", "1.0.0", "r1")
        many = await stub.ModelInfer(request(ROW * 20_000, name="flights"))
        assert list(many.outputs[0].shape) == [20_000]
        score = np.frombuffer(answer.raw_output_contents[2], "<f4")[0]
        assert (np.frombuffer(many.raw_output_contents[2], "<f4") == score).all()
        one.terminate()
    assert await asyncio.to_thread(one.ended) == 0


async def test_what_is_wrong_gets_its_status(replica):
    one = replica().start()
    async with channel_to(one) as channel:
        stub = oip_stubs.GRPCInferenceServiceStub(channel)
        code, words = await failing(stub.ModelInfer(request(ROW, name="other")))
        assert (code, words) == (
            grpc.StatusCode.NOT_FOUND,
            "the model 'other' is not served here; 'flights' is",
        )
        code, _ = await failing(stub.ModelInfer(request(ROW, model_version="7")))
        assert code is grpc.StatusCode.NOT_FOUND
        code, words = await failing(stub.ModelInfer(request([[1, 2]])))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert words == "tensor 'features': expected [rows, 4], got [1, 2]"
        code, _ = await failing(stub.ModelInfer(request(ROW, name="x" * 1_000_000)))
        assert code is grpc.StatusCode.NOT_FOUND
        raw = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for body in (b"\xff\xff", b"", request(ROW).SerializeToString()[:-2]):
            code, _ = await failing(raw(body))
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        code, _ = await failing(stub.ModelInfer(request(np.ones((1, 20_000_000)))))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.ServerLive(oip.ServerLiveRequest())).live


async def test_a_stream_answers_each_request_and_goes_on_after_a_bad_one(replica):
    one = replica().start()
    async with channel_to(one) as channel:
        call = oip_stubs.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        await call.write(request(ROW, request_id="a"))
        await call.write(request([[1, 2]], request_id="b"))
        await call.write(request(ROW, request_id="c"))
        await call.done_writing()
        replies = [reply async for reply in call]
    assert [reply.infer_response.id for reply in replies] == ["a", "", "c"]
    assert replies[1].error_message == "tensor 'features': expected [rows, 4], got [1, 2]"


async def test_a_burst_of_calls_is_answered_whole(replica):
    one = replica().start()
    async with channel_to(one) as channel:
        stub = oip_stubs.GRPCInferenceServiceStub(channel)
        answers = await asyncio.gather(
            *(stub.ModelInfer(request(ROW, request_id=str(n))) for n in range(1_500))
        )
    assert [answer.id for answer in answers] == [str(n) for n in range(1_500)]


async def test_a_client_that_cancels_leaves_the_server_well(replica):
    one = replica().start()
    large = request(np.tile(np.float32(ROW), (200_000, 1)))
    async with channel_to(one) as channel:
        stub = oip_stubs.GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer(large)
        await asyncio.sleep(0.05)
        call.cancel()
        async with gateway(one) as stream:
            await stream.send(large)
        assert (await stub.ModelInfer(request(ROW))).id == "r1"
    one.terminate()
    assert await asyncio.to_thread(one.ended) == 0


async def test_health_and_reflection_answer(replica):
    one = replica().start()
    async with channel_to(one) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        code, _ = await failing(health.Check(health_pb2.HealthCheckRequest(service="other")))
        assert code is grpc.StatusCode.NOT_FOUND
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = await call.read()
        names = {each.name for each in listed.list_services_response.service}
        assert {"inference.GRPCInferenceService", "phantom.modelserver.v1.ModelServerService"} <= names
        await call.done_writing()
